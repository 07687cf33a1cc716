"""The journal in Elasticsearch: compare-and-set on single documents, in an order that heals.

There are no transactions here, so three things replace them:

- An operation's document is the fence. Its owner remembers the sequence number of its own last
  write (`Taken.mark`), and each further write is made only if that is still the last one. Whoever
  takes the work over, or opens another run, writes the document, and with that shuts out the
  former owner. `fence` counts these changes of owner for people to read.
- The run's generation is checked without a transaction by an order of events. `begin` first
  writes the head, then refreshes and looks for running operations to fence out. `take` first
  writes the operation, then reads the head. Whatever the interleaving, either the search sees
  the taker's write, or the taker sees the new head.
- What one step writes is ordered: the operation is done, then the migration is applied, then the
  history tells of it. A crash in between is repaired by the next `take`, of this operation or of
  the one that follows it. The ids of the history's documents are made from what they tell, so
  that telling it again adds nothing.

A migration that was rolled back and begins anew gets a new `era`. The operations' documents of
an older era count as absent, all at once, but their fences go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace as replaced
from datetime import UTC, datetime
from typing import Any, TypeGuard
from uuid import uuid4

from elasticsearch import Elasticsearch
from elasticsearch.helpers import scan

from dharma_tasks.databases.elasticsearch import trail
from dharma_tasks.databases.elasticsearch.documents import Document, create, read, replace
from dharma_tasks.databases.elasticsearch.indices import Names, make
from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.journal import (
    SCHEMA_VERSION,
    Assignment,
    Entry,
    Head,
    HistoryRecord,
    Journal,
    MigrationRecord,
    MigrationState,
    Opening,
    OperationRecord,
    OperationState,
    Owner,
    Prepared,
    Step,
    Survey,
    Taken,
)
from dharma_tasks.migration import JSON, Key

_HEAD = "head"
_PAGE = 1000

Change = Callable[[Document | None], JSON | None]
"""From a document as it is, or its absence, to what to write; None writes nothing."""


class ElasticsearchJournal(Journal[Elasticsearch]):
    """The storage of the journal in four indices whose names begin with the namespace."""

    def __init__(self, client: Elasticsearch, namespace: str) -> None:
        """Remember the client; the indices are made by the first `begin`."""
        self._client = client
        self._names = Names(namespace)

    # --- for planning and status ---

    def survey(self) -> Survey:
        """Read everything. A refresh goes before, because searches see refreshed writes only."""
        head = read(self._client, self._names.head, _HEAD)
        if head is None:
            return Survey(database="elasticsearch")
        self._client.indices.refresh(index=[self._names.migrations, self._names.operations])
        operations: dict[tuple[str, int], list[OperationRecord]] = {}
        for source in self._all(self._names.operations):
            key = (source["version"], source["era"])
            operations.setdefault(key, []).append(_operation_record(source))
        return Survey(
            database="elasticsearch",
            head=_head(head.source),
            migrations=[
                _migration_record(source, operations.get((source["version"], source["era"]), []))
                for source in self._all(self._names.migrations)
            ],
        )

    def history(self, limit: int) -> list[HistoryRecord]:
        """Read the last entries, as they are found by a search."""
        return trail.read(self._client, self._names.history, limit)

    def _all(self, index: str) -> Iterator[JSON]:
        for hit in scan(self._client, index=index, size=_PAGE):
            yield hit["_source"]

    # --- a run ---

    def begin(self, opening: Opening, expected: int) -> int:
        """Open a run; see the top of this file for why the head is written first."""
        make(self._client, self._names)
        generation = self._raise_generation(opening, expected)
        self._fence_out(generation)
        self._tell("begin", {"run": opening.run, "by": opening.by, "generation": generation})
        return generation

    def _raise_generation(self, opening: Opening, expected: int) -> int:
        changes = {
            "run": opening.run,
            "direction": opening.direction.value,
            "plan": opening.plan,
            "by": opening.by,
            "generation": expected + 1,
            "updated": _now(),
        }
        while True:  # each turn means that somebody else's write succeeded
            head = read(self._client, self._names.head, _HEAD)
            if head is not None and head.get("run") == opening.run:
                return int(head.get("generation"))
            found = 0 if head is None else int(head.get("generation"))
            if found != expected:
                raise FenceLost(_other_run(found, expected))
            if head is None:
                new = {"identity": uuid4().hex, "schema_version": SCHEMA_VERSION, **changes}
                if create(self._client, self._names.head, _HEAD, new):
                    return expected + 1
            elif replace(self._client, head, changes):
                return expected + 1

    def _fence_out(self, generation: int) -> None:
        """Raise the fence of every running operation that an older run has taken."""
        index = self._names.operations
        self._client.indices.refresh(index=index)
        query = {
            "bool": {
                "filter": [
                    {"term": {"state": OperationState.RUNNING.value}},
                    {"range": {"generation": {"lt": generation}}},
                ]
            }
        }
        for hit in scan(self._client, index=index, query={"query": query}, size=_PAGE):
            self._change(index, hit["_id"], lambda found: _fenced(found, generation))

    # --- an operation ---

    def owner(self, key: Key) -> Owner | None:
        """Who has the operation now; nobody has one that is done or has failed."""
        return _owner(read(self._client, self._names.operations, _id(key.version, key.number)))

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Take the operation over: one compare-and-set raises the fence and returns the cursor."""
        self._check_head(assignment)
        era = self._era(assignment.key.version)
        self._check_former(assignment, era)
        document, former = self._seize(assignment, owner, era, counted=counted, error=error)
        self._check_head(assignment)
        self._start_migration(assignment, era)
        taken = _taken(assignment, document, former)
        if taken.state is OperationState.DONE:
            self._conclude(taken)
        else:
            self._tell("take", document.source)
        return taken

    def prepare(self, taken: Taken, prepared: Prepared) -> Taken:
        """Write what the operation found before its first effect."""
        after = taken.prepared(prepared)
        self._write(taken, {"undo": json.dumps(prepared.undo), "total": after.total})
        return after

    def step(
        self,
        taken: Taken,
        batch: Callable[[Elasticsearch], Step],
        *,
        transactional: bool,  # noqa: ARG002 - there are no transactions
    ) -> Taken:
        """Run one batch, then write its checkpoint; a batch that changed nothing writes none.

        A step that only asked how far a task on the server is would otherwise fill the journal.
        """
        step = batch(self._client)
        after = taken.stepped(step)
        if replaced(after, attempts=taken.attempts) == taken:
            return taken
        self._write(
            taken,
            {
                "cursor": json.dumps(after.cursor),
                "done": after.done,
                "total": after.total,
                "attempts": after.attempts,
                "state": after.state.value,
                "error": None,
            },
        )
        if step.finished:
            self._conclude(after)
        return after

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        """Write the lasting error and the migration's state."""
        self._write(taken, {"state": OperationState.FAILED.value, "error": error})
        self._end_migration(taken.mark.source, state, error)
        self._tell(state.value, taken.mark.source)

    def note(self, taken: Taken, error: str | None) -> None:
        """Write a passing error or an orderly stop, and take the attempt back."""
        self._write(taken, {"error": error, "attempts": max(taken.attempts - 1, 0)})

    def audit(self, entry: Entry) -> None:
        """Add an entry to the history; its id is made from what it says."""
        told = {
            "event": entry.event,
            "run": entry.run,
            "by": entry.by,
            "version": entry.key.version,
            "number": entry.key.number,
            "detail": entry.detail,
            "at": _now(),
        }
        create(self._client, self._names.history, entry.id, told)

    # --- the parts of `take` ---

    def _check_head(self, assignment: Assignment) -> None:
        head = read(self._client, self._names.head, _HEAD)
        found = 0 if head is None else int(head.get("generation"))
        if found != assignment.generation:
            raise Outdated(_other_run(found, assignment.generation))

    def _era(self, version: str) -> int:
        """Which beginning of the migration this is; one that was rolled back begins anew."""
        found = read(self._client, self._names.migrations, version)
        if found is None:
            return 1
        era: int = found.get("era")
        return era + 1 if found.get("state") == MigrationState.ROLLED_BACK else era

    def _check_former(self, assignment: Assignment, era: int) -> None:
        """Refuse to begin before the operation before this one is done."""
        number = assignment.key.number - 1
        if number == 0:
            return
        found = read(self._client, self._names.operations, _id(assignment.key.version, number))
        if not _is_done(found, era):
            message = f"operation {number} of {assignment.key.version} is not done yet"
            raise Outdated(message)
        self._tell("done", found.source)  # lost, where its worker died right after its last step

    def _seize(
        self,
        assignment: Assignment,
        owner: Owner,
        era: int,
        *,
        counted: bool,
        error: str | None,
    ) -> tuple[Document, Owner | None]:
        index, key = self._names.operations, _id(assignment.key.version, assignment.key.number)
        while True:  # each turn means that somebody else's write succeeded
            found = read(self._client, index, key)
            former = _owner(found)
            if _is_done(found, era):
                return found, former
            seized = _seized(found, assignment, owner, era, counted=counted)
            source = {**seized, "error": error}
            if found is None:
                made = create(self._client, index, key, source)
                if made:
                    return made, None
            elif replace(self._client, found, source):
                return found, former

    def _start_migration(self, assignment: Assignment, era: int) -> None:
        """Make the migration's document, or set it to running; an applied one stays applied."""
        index, version = self._names.migrations, assignment.key.version
        running = {
            "state": MigrationState.RUNNING.value,
            "checksum": assignment.checksum,
            "run": assignment.run,
            "by": assignment.by,
            "name": assignment.name,
            "finished": None,
            "seconds": None,
            "error": None,
        }
        anew = {**running, "version": version, "era": era, "started": _now()}

        def change(found: Document | None) -> JSON | None:
            if found is None or found.get("era") < era:
                return anew
            if (
                found.get("state") == MigrationState.APPLIED
                or running.items() <= found.source.items()
            ):
                return None
            return running

        self._change(index, version, change)

    # --- the end of an operation ---

    def _conclude(self, taken: Taken) -> None:
        """After an operation is done: apply the migration, and tell of both. Repeatable."""
        source = taken.mark.source
        if taken.assignment.last:
            self._end_migration(source, MigrationState.APPLIED, None)
        self._tell("done", source)
        if taken.assignment.last:
            self._tell(MigrationState.APPLIED.value, source)

    def _end_migration(self, operation: JSON, state: MigrationState, error: str | None) -> None:
        """End the migration, where it is running and still in the operation's era."""

        def change(found: Document | None) -> JSON | None:
            if found is None or found.get("era") != operation["era"]:
                return None
            if found.get("state") != MigrationState.RUNNING:
                return None
            now = datetime.now(UTC)
            seconds = (now - datetime.fromisoformat(found.get("started"))).total_seconds()
            ended = {"finished": now.isoformat(), "seconds": seconds}
            return {"state": state.value, "error": error, **ended}

        self._change(self._names.migrations, operation["version"], change)

    # --- writing ---

    def _write(self, taken: Taken, changes: JSON) -> None:
        """Write the operation's document, if ours was the last write and did not end it."""
        running = taken.mark.get("state") == OperationState.RUNNING
        if not (running and replace(self._client, taken.mark, {**changes, "updated": _now()})):
            message = f"{taken.assignment.key} was taken over (our fence was {taken.fence})"
            raise FenceLost(message)

    def _change(
        self, index: str, key: str, change: Callable[[Document | None], JSON | None]
    ) -> None:
        """Read, change and write a document until nobody was faster; None leaves it as it is."""
        while True:
            found = read(self._client, index, key)
            changes = change(found)
            if changes is None:
                return
            if found is None:
                if create(self._client, index, key, changes):
                    return
            elif replace(self._client, found, changes):
                return

    def _tell(self, event: str, source: JSON) -> None:
        """Add to the history, unless it is told already."""
        kept = ("run", "version", "number", "fence", "generation", "by", "worker", "error")
        told = {name: source[name] for name in kept if source.get(name) is not None}
        key = ":".join(str(told.get(name, "")) for name in ("run", "version", "number", "fence"))
        at = source.get("updated") or _now()
        create(
            self._client, self._names.history, f"{key}:{event}", {**told, "event": event, "at": at}
        )


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _id(version: str, number: int) -> str:
    return f"{version}#{number}"


def _other_run(found: int, wanted: int) -> str:
    return f"the journal is at generation {found}, not {wanted}: another run has begun"


def _owner(found: Document | None) -> Owner | None:
    if found is None or found.get("state") != OperationState.RUNNING:
        return None
    return Owner.model_validate_json(found.get("owner"))


def _is_done(found: Document | None, era: int) -> TypeGuard[Document]:
    if found is None or found.get("era") != era:
        return False
    return bool(found.get("state") == OperationState.DONE)


def _fenced(found: Document | None, generation: int) -> JSON | None:
    if found is None or found.get("state") != OperationState.RUNNING:
        return None
    if found.get("generation") >= generation:
        return None
    return {"fence": found.get("fence") + 1, "generation": generation}


def _seized(
    found: Document | None, assignment: Assignment, owner: Owner, era: int, *, counted: bool
) -> JSON:
    """The operation's document as its new owner writes it."""
    begun = {"cursor": None, "undo": None, "done": 0, "total": None}
    attempts = 0
    if found is not None and found.get("era") == era:
        begun = {}
        if found.get("state") == OperationState.RUNNING:  # a failed one was asked for again
            attempts = found.get("attempts")
    return {
        **begun,
        "version": assignment.key.version,
        "number": assignment.key.number,
        "type": assignment.type,
        "state": OperationState.RUNNING.value,
        "era": era,
        "fence": 1 if found is None else found.get("fence") + 1,
        "generation": assignment.generation,
        "run": assignment.run,
        "by": assignment.by,
        "attempts": attempts + 1 if counted else max(attempts, 1),
        "worker": owner.worker,
        "owner": owner.model_dump_json(),
        "updated": _now(),
    }


def _taken(assignment: Assignment, document: Document, former: Owner | None) -> Taken:
    return Taken(
        assignment=assignment,
        fence=document.get("fence"),
        state=OperationState(document.get("state")),
        cursor=_loads(document.get("cursor")),
        undo=_loads(document.get("undo")),
        done=document.get("done"),
        total=document.get("total"),
        attempts=document.get("attempts"),
        former=former,
        mark=document,
    )


def _loads(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _head(source: JSON) -> Head:
    return Head.model_validate({name: source.get(name) for name in Head.model_fields})


def _operation_record(source: JSON) -> OperationRecord:
    return OperationRecord.model_validate(
        {name: source.get(name) for name in OperationRecord.model_fields}
    )


def _migration_record(source: JSON, operations: list[OperationRecord]) -> MigrationRecord:
    fields = {name: source.get(name) for name in MigrationRecord.model_fields}
    fields["operations"] = sorted(operations, key=lambda each: each.number)
    return MigrationRecord.model_validate(fields)
