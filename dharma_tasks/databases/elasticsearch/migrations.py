"""A migration's document: written after those of its operations, from which it can be told.

A migration that was rolled back and begins anew gets a new `era`. The operations' documents of
an older era count as absent, all at once, but their fences go on.

`generation` is that of the last assignment that went on with the migration. Within one
generation it goes forward, then back, and never forward again; so a worker that was frozen
between its operation's end and the migration's neither ends nor turns what has moved on since.
"""

from __future__ import annotations

from datetime import UTC, datetime

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch.documents import Document, change, now, read
from dharma_tasks.errors import Outdated
from dharma_tasks.journal import Assignment, MigrationRecord, MigrationState, OperationRecord
from dharma_tasks.migration import JSON


class Migrations:
    """The index of the migrations; a document's id is the version."""

    def __init__(self, client: Elasticsearch, index: str) -> None:
        """Remember where it is."""
        self._client = client
        self._index = index

    def era(self, assignment: Assignment) -> int:
        """Which beginning of the migration this is; one that was rolled back begins anew.

        Raises:
            Outdated: this very run has rolled it back.
        """
        found = read(self._client, self._index, assignment.key.version)
        if found is None:
            return 1
        era: int = found.get("era")
        forward = _going(assignment) is MigrationState.RUNNING
        if not (forward and found.get("state") == MigrationState.ROLLED_BACK):
            return era
        if found.get("run") == assignment.run:
            msg = f"this run has rolled {assignment.key.version} back: it does not begin it anew"
            raise Outdated(msg)
        return era + 1

    def start(self, assignment: Assignment, era: int, *, over: bool) -> None:
        """Make the document, or set it to running or to rolling back.

        With `over`, where the operation was found at its end, only what a crash has left.
        """
        going = _going(assignment)
        ours: JSON = {
            "state": going.value,
            "run": assignment.run,
            "by": assignment.by,
            "generation": assignment.generation,
            "finished": None,
            "seconds": None,
        }
        what: JSON = {"checksum": assignment.checksum, "name": assignment.name, "error": None}
        if going is MigrationState.RUNNING:
            ours |= what  # the way back keeps what was applied, and why it failed

        def how(found: Document | None) -> JSON | None:
            if found is None and over:
                return None
            if found is None or found.get("era") < era:
                new = {"version": assignment.key.version, "era": era, "started": now()}
                return {**what, **ours, **new}
            if over and found.get("state") == assignment.outcome:
                return None
            if _has_moved_on(found, assignment) or ours.items() <= found.source.items():
                return None
            return ours

        change(self._client, self._index, assignment.key.version, how)

    def end(
        self, assignment: Assignment, era: int, state: MigrationState, error: str | None = None
    ) -> None:
        """End the migration, where it is still going as the assignment has it go."""
        going = {
            "era": era,
            "state": _going(assignment).value,
            "generation": assignment.generation,
        }

        def how(found: Document | None) -> JSON | None:
            if found is None or not going.items() <= found.source.items():
                return None
            at = datetime.now(UTC)
            seconds = (at - datetime.fromisoformat(found.get("started"))).total_seconds()
            ended: JSON = {"state": state.value, "finished": at.isoformat(), "seconds": seconds}
            return ended if error is None else {**ended, "error": error}

        change(self._client, self._index, assignment.key.version, how)


def _going(assignment: Assignment) -> MigrationState:
    """Running, or rolling back: also by the operations of a rollback file."""
    if assignment.back or assignment.outcome is not MigrationState.APPLIED:
        return MigrationState.ROLLING_BACK
    return MigrationState.RUNNING


def _has_moved_on(found: Document, assignment: Assignment) -> bool:
    """Whether a newer run has it, or this one is on its way back already."""
    generation = found.get("generation") or 0
    if generation != assignment.generation:
        return bool(generation > assignment.generation)
    turned = found.get("state") == MigrationState.ROLLING_BACK
    return turned and _going(assignment) is MigrationState.RUNNING


def record(source: JSON, operations: list[OperationRecord]) -> MigrationRecord:
    """The document as planning and `status` see it."""
    fields = {name: source.get(name) for name in MigrationRecord.model_fields}
    fields["operations"] = sorted(operations, key=lambda each: each.number)
    return MigrationRecord.model_validate(fields)
