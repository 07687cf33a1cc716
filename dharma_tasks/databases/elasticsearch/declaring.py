"""What a person declares, as the journal's documents have it: see `Journal.declare`.

Each document that is written gets the declaration's generation, and none that has it, or a newer
one, is written: so whoever completes what another has begun, or wakes up late, does no harm. The
migration's is written after those of its operations.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from elasticsearch import Elasticsearch
from pydantic import TypeAdapter

from dharma_tasks.databases.elasticsearch import operations
from dharma_tasks.databases.elasticsearch.documents import Change, Document, change, now, read
from dharma_tasks.databases.elasticsearch.indices import Names
from dharma_tasks.journal import Amendment, Declaration
from dharma_tasks.migration import JSON
from dharma_tasks.records import MigrationState, OperationState

_DECLARATION = TypeAdapter(Declaration)
_NOBODY: JSON = dict.fromkeys(("error", "worker", "owner"))
_ENDED: JSON = dict.fromkeys(("seconds", "error"))


def text(declaration: Declaration) -> str:
    """A declaration as the head keeps it until it is written out."""
    return _DECLARATION.dump_json(declaration).decode()


def parsed(said: str) -> Declaration:
    """The declaration from its `text`."""
    return _DECLARATION.validate_json(said)


@dataclass(frozen=True)
class Declaring:
    """The writes of a declaration that has raised the head to `generation`."""

    client: Elasticsearch
    names: Names
    declaration: Declaration
    generation: int

    def write(self) -> None:
        """Write each amendment that is not written yet."""
        for amendment in self.declaration.amendments:
            found = read(self.client, self.names.migrations, amendment.version)
            if found is None and amendment.state is not MigrationState.APPLIED:
                continue
            if found is None or not self._is_later(found):
                self._write(amendment, found)

    def _write(self, amendment: Amendment, found: Document | None) -> None:
        era = found.get("era") if found else 1
        match amendment.state:
            case MigrationState.APPLIED:
                if found and found.get("state") == MigrationState.ROLLED_BACK:
                    era += 1
                self._applied(amendment, era)
            case MigrationState.ROLLED_BACK:
                over = {**self._stated(amendment), **_ENDED, "finished": now()}
                self._amend(amendment, {**over, "era": era + 1})  # each of its operations is gone
            case None:
                self._amend(amendment, _named(amendment))
            case _:
                self._again(amendment, era)
                self._amend(amendment, {**self._stated(amendment), **_ENDED, "finished": None})

    def _applied(self, amendment: Amendment, era: int) -> None:
        for number, kind in enumerate(amendment.types, start=1):
            self._done(amendment, number, kind, era)
        number = len(amendment.types) + 1
        while self._operation(amendment, number, _reset):
            number += 1
        at = now()
        ended = {**_ENDED, "turned": None, "finished": at, "era": era}
        applied = {**_named(amendment), **self._stated(amendment), **ended}
        self._amend(amendment, applied, {"version": amendment.version, "started": at})

    def _done(self, amendment: Amendment, number: int, kind: str, era: int) -> None:
        def written(found: Document | None) -> JSON | None:
            done = operations.state_of(found, era) is OperationState.DONE
            if found is not None and done and found.get("type") == kind:
                return None
            return {
                **operations.NOTHING,
                **_NOBODY,
                "version": amendment.version,
                "number": number,
                "type": kind,
                "state": OperationState.DONE.value,
                "era": era,
                "undo": json.dumps({"irreversible": self.declaration.reason}),
                "run": self.declaration.run,
                "by": self.declaration.by,
            }

        self._operation(amendment, number, written)

    def _again(self, amendment: Amendment, era: int) -> None:
        def again(found: Document | None) -> JSON | None:
            state = operations.state_of(found, era)
            if state in (OperationState.PENDING, OperationState.DONE):
                return None
            if state is OperationState.FAILED:
                state = OperationState.RUNNING
            return {**_NOBODY, "state": state.value, "attempts": 0}

        number = 1
        while self._operation(amendment, number, again):
            number += 1

    def _operation(self, amendment: Amendment, number: int, how: Change) -> bool:
        """Change an operation's document; whether there is one, or is one now."""
        index, name = self.names.operations, operations.name(amendment.version, number)
        there = False

        def guarded(found: Document | None) -> JSON | None:
            nonlocal there
            there = found is not None
            changes = None if found and self._is_later(found) else how(found)
            if changes is None:
                return None
            fence = found.get("fence") + 1 if found else 1
            return {**changes, "fence": fence, "generation": self.generation, "updated": now()}

        change(self.client, index, name, guarded)
        return there

    def _amend(self, amendment: Amendment, fields: JSON, new: JSON | None = None) -> None:
        """Change the migration's document; where there is none, make it with `new`."""

        def guarded(found: Document | None) -> JSON | None:
            if found and self._is_later(found):
                return None
            changes = {**fields, "generation": self.generation}
            return changes if found else new and {**new, **changes}

        change(self.client, self.names.migrations, amendment.version, guarded)

    def _is_later(self, found: Document) -> bool:
        return int(found.get("generation") or 0) >= self.generation

    def _stated(self, amendment: Amendment) -> JSON:
        state = amendment.state and amendment.state.value
        return {"state": state, "run": self.declaration.run, "by": self.declaration.by}


def _named(amendment: Amendment) -> JSON:
    return {"name": amendment.name, "checksum": amendment.checksum}


def _reset(found: Document | None) -> JSON | None:
    if found is None or found.get("state") == OperationState.PENDING:
        return None
    return {**operations.NOTHING, **_NOBODY, "state": OperationState.PENDING.value}
