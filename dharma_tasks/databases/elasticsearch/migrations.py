"""A migration's document: written after those of its operations, from which it can be told.

A migration that was rolled back and begins anew gets a new `era`. The operations' documents of
an older era count as absent, all at once, but their fences go on.

`generation` is that of the last assignment that went on with the migration. Within one
generation it goes forward, then back, and never forward again; so a worker that was frozen
between its operation's end and the migration's neither ends nor turns what has moved on since.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch.documents import Document, change, now, read
from dharma_tasks.errors import Outdated
from dharma_tasks.migration import JSON
from dharma_tasks.records import MigrationRecord, MigrationState, OperationRecord
from dharma_tasks.work import WAY_BACK, Assignment


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
        forward = assignment.going is MigrationState.RUNNING
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
        forward = assignment.going is MigrationState.RUNNING
        what: JSON = {"checksum": assignment.checksum, "name": assignment.name}

        def how(found: Document | None) -> JSON | None:
            if found is None and over:
                return None
            ours = _ours(assignment, found)
            if found is not None and _has_moved_on(found, assignment, over=over):
                return None
            if found is None or found.get("era") < era:
                new = {"version": assignment.key.version, "era": era, "started": now()}
                return {**what, **ours, **new}
            if over and found.get("state") == assignment.outcome:
                return None
            if forward:  # the way back keeps what was applied
                ours |= what
            return None if ours.items() <= found.source.items() else ours

        change(self._client, self._index, assignment.key.version, how)

    def end(
        self, assignment: Assignment, era: int, state: MigrationState, error: str | None = None
    ) -> JSON:
        """End the migration, where it is still going as the assignment has it go.

        Returns what the history tells of that end, also where it was written before a crash;
        nothing where the migration has moved on.
        """
        shown = error and assignment.failure(error)
        return self._end(
            assignment, era, state, lambda found: {"error": found.get("error") or shown}
        )

    def spare(self, assignment: Assignment, era: int) -> JSON:
        """Let the migration be applied as before: its rollback file has left nothing.

        Returns what the history tells of that failure.
        """
        nothing: JSON = dict.fromkeys(("seconds", "error", "turned"))
        return self._end(assignment, era, MigrationState.APPLIED, lambda _: nothing)

    def _end(
        self,
        assignment: Assignment,
        era: int,
        state: MigrationState,
        more: Callable[[Document], JSON],
    ) -> JSON:
        told: JSON = {}

        def how(found: Document | None) -> JSON | None:
            nonlocal told
            told = {}
            if found is None or found.get("era") != era:
                return None
            generation = found.get("generation") or 0
            if found.get("state") == state and generation <= assignment.generation:
                told = _told(found.source)
                return None
            if (found.get("state"), generation) != (assignment.going, assignment.generation):
                return None
            ended = _ended(found, state)
            told = _told({**found.source, **ended})
            return {**ended, **more(found)}

        change(self._client, self._index, assignment.key.version, how)
        return told


def _ended(found: Document, state: MigrationState) -> JSON:
    at = datetime.now(UTC)
    begun = datetime.fromisoformat(found.get("turned") or found.get("started"))
    took = (at - begun).total_seconds()
    return {"state": state.value, "finished": at.isoformat(), "seconds": took}


def _told(source: JSON) -> JSON:
    return {field: source.get(field) for field in ("name", "checksum", "seconds")}


def _ours(assignment: Assignment, found: Document | None) -> JSON:
    """What a migration's document says while this operation is at work."""
    ours: JSON = {
        "state": assignment.going.value,
        "run": assignment.run,
        "by": assignment.by,
        "generation": assignment.generation,
        "turned": None,
        **dict.fromkeys(("finished", "seconds", "error")),
    }
    if found is not None and assignment.going is MigrationState.ROLLING_BACK:
        ours["turned"] = found.get("turned") or now()
        error = found.get("error") or ""
        if error and not error.startswith(WAY_BACK):
            ours["error"] = error
    return ours


def _has_moved_on(found: Document, assignment: Assignment, *, over: bool) -> bool:
    """Whether a newer run has it, or this one is on its way back already.

    An operation that is done, with `over`, was started by this run, if the document is this run's.
    """
    generation = found.get("generation") or 0
    if generation != assignment.generation:
        return bool(generation > assignment.generation)
    turned = over or found.get("state") == MigrationState.ROLLING_BACK
    return turned and assignment.going is MigrationState.RUNNING


def record(source: JSON, operations: list[OperationRecord]) -> MigrationRecord:
    """The document as planning and `status` see it."""
    fields = {name: source.get(name) for name in MigrationRecord.model_fields}
    fields["operations"] = sorted(operations, key=lambda each: each.number)
    return MigrationRecord.model_validate(fields)
