"""A database in memory with a journal, to drive the runner to every point without an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dharma_tasks.databases.base import Database, Fault
from dharma_tasks.errors import FenceLost, OperationFailed, Outdated, Problem
from dharma_tasks.findings import Finding
from dharma_tasks.journal import Declaration, Entry, Journal, Opening, Ranges
from dharma_tasks.migration import JSON, Key
from dharma_tasks.operations.base import Operation
from dharma_tasks.records import (
    Head,
    HistoryRecord,
    MigrationState,
    OperationState,
    Owner,
    RangeRecord,
    Survey,
)
from dharma_tasks.work import (
    Amount,
    Assignment,
    Earlier,
    Prepared,
    Range,
    Step,
    Taken,
    Walked,
    Work,
)


class Crash(BaseException):
    """The worker dies here: nothing of it runs any more."""


class Passing(Exception):
    """A passing error of the model."""


class Conflict(Exception):
    """A write conflict of the model."""


@dataclass
class Server:
    """What survives a crash: the documents, and the journal's one operation record."""

    documents: dict[int, int]
    fence: int = 0
    state: OperationState = OperationState.PENDING
    migration: MigrationState = MigrationState.PENDING
    cursor: int | None = None
    undo: JSON | None = None
    walked: Walked | None = None
    done: int = 0
    attempts: int = 0
    error: str | None = None
    prepared: int = 0
    audited: list[str] = field(default_factory=list)
    whereabouts: str = "the model"
    ranges: list[RangeState] = field(default_factory=list)


@dataclass
class RangeState:
    """The journal's record of one range."""

    undo: JSON
    cursor: int | None
    fence: int = 0
    state: OperationState = OperationState.PENDING
    done: int = 0
    attempts: int = 0
    error: str | None = None


@dataclass
class Faults:
    """At which points, counted over the whole life of the test, what goes wrong."""

    plan: dict[int, type[BaseException]] = field(default_factory=dict)
    points: int = 0

    def point(self) -> None:
        """Pass one point; raise what was planned for it."""
        self.points += 1
        if self.points in self.plan:
            raise self.plan.pop(self.points)


class ModelJournal(Journal[dict[int, int]]):
    """The promises of `Journal`, kept in memory: a transaction is a copy that is put back."""

    def __init__(self, server: Server, faults: Faults) -> None:
        self.server = server
        self.faults = faults

    def survey(self) -> Survey:
        return Survey(database="model")

    def head(self) -> Head | None:
        return self.survey().head

    def state(self, version: str) -> MigrationState:
        return self.server.migration

    def history(self, limit: int) -> list[HistoryRecord]:
        return []

    def begin(self, opening: Opening, expected: int) -> int:
        return expected + 1

    def declare(self, declaration: Declaration, expected: int) -> None:
        raise NotImplementedError

    def owner(self, key: Key) -> Owner | None:
        self.faults.point()
        return None

    def earlier(self, key: Key) -> list[Earlier]:
        return []

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        self.faults.point()
        server = self.server
        going, over = assignment.at_work, assignment.over
        if server.state is OperationState.UNDOING and not assignment.back:
            msg = "it is being undone"
            raise Outdated(msg)
        if server.state is not over:
            if assignment.back and server.state is not going:
                server.walked = Walked(server.cursor, server.done)
                for each in server.ranges:
                    each.fence += 1
                server.cursor, server.done, server.attempts = None, 0, 0
            server.state = going
            server.migration = assignment.going
            server.fence += 1
            server.attempts += counted
            server.error = error
        taken = Taken(
            assignment,
            server.fence,
            server.state,
            cursor=server.cursor,
            undo=server.undo,
            done=server.done,
            attempts=server.attempts,
            walked=server.walked,
        )
        self.faults.point()
        return taken

    def _fenced(self, taken: Taken) -> None:
        self.faults.point()
        if self.server.fence != taken.fence:
            msg = "the fence is higher"
            raise FenceLost(msg)

    @property
    def ranges(self) -> ModelRanges:
        return ModelRanges(self.server, self.faults)

    def prepare(self, taken: Taken, prepared: Prepared) -> Taken:
        self._fenced(taken)
        self.server.undo = prepared.recorded
        self.server.cursor = prepared.cursor
        self.server.ranges = [RangeState(each.undo, each.cursor) for each in prepared.ranges]
        self.server.prepared += 1
        self.faults.point()
        return taken.prepared(prepared)

    def step(
        self, taken: Taken, batch: Callable[[dict[int, int]], Step], *, transactional: bool
    ) -> Taken:
        copy = deepcopy(self.server.documents)
        step = batch(copy)
        self._fenced(taken)
        after = taken.stepped(step)
        self.server.documents = copy
        self.server.cursor = after.cursor
        self.server.done = after.done
        self.server.state = after.state
        self.server.attempts = 0
        self.server.error = None
        if after.over:
            self.server.migration = taken.assignment.outcome
        if after.state is OperationState.PENDING:
            self.server.cursor = self.server.undo = self.server.walked = None
        self.faults.point()
        return after

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        self._fenced(taken)
        for each in self.server.ranges:
            each.fence += 1
            if each.state is OperationState.FAILED:
                each.state = OperationState.RUNNING
        if state is MigrationState.APPLIED:
            self.server.state = OperationState.PENDING
        elif not taken.assignment.back:
            self.server.state = OperationState.FAILED
        self.server.migration = state
        self.server.error = error

    def note(self, taken: Taken, error: str | None) -> None:
        self._fenced(taken)
        self.server.attempts -= 1

    def audit(self, entry: Entry) -> None:
        self.server.audited.append(f"{entry.event} {entry.key} by {entry.by}: {entry.detail}")


class ModelRanges(Ranges[dict[int, int]]):
    """The promises of `Ranges`, likewise."""

    def __init__(self, server: Server, faults: Faults) -> None:
        self.server = server
        self.faults = faults

    def of(self, key: Key) -> list[RangeRecord]:
        self.faults.point()
        return [
            RangeRecord(
                number=number,
                state=each.state,
                cursor=each.cursor,
                done=each.done,
                error=each.error,
            )
            for number, each in enumerate(self.server.ranges, start=1)
        ]

    def owner(self, key: Key) -> Owner | None:
        self.faults.point()
        return None

    def owners(self, key: Key) -> list[Owner]:
        return []

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        self.faults.point()
        found = self._found(assignment)
        if self.server.state is not OperationState.RUNNING:
            msg = "the operation is not at work"
            raise Outdated(msg)
        if found.state is not OperationState.DONE:
            found.attempts = found.attempts + counted
            found.state = OperationState.RUNNING
            found.fence += 1
            found.error = error
        taken = Taken(
            assignment,
            found.fence,
            found.state,
            cursor=found.cursor,
            undo=found.undo,
            done=found.done,
            attempts=found.attempts,
        )
        self.faults.point()
        return taken.within(self.server.undo or {})

    def step(
        self, taken: Taken, batch: Callable[[dict[int, int]], Step], *, transactional: bool
    ) -> Taken:
        copy = deepcopy(self.server.documents)
        step = batch(copy)
        found, after = self._fenced(taken), taken.stepped(step)
        self.server.documents = copy
        found.cursor, found.done, found.state = after.cursor, after.done, after.state
        found.attempts, found.error = 0, None
        self.faults.point()
        return after

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        found = self._fenced(taken)
        found.state, found.error = OperationState.FAILED, error

    def note(self, taken: Taken, error: str | None) -> None:
        self._fenced(taken).attempts -= 1

    def _found(self, assignment: Assignment) -> RangeState:
        assert assignment.key.range is not None
        return self.server.ranges[assignment.key.range - 1]

    def _fenced(self, taken: Taken) -> RangeState:
        self.faults.point()
        found = self._found(taken.assignment)
        if (found.fence, found.state) != (taken.fence, OperationState.RUNNING):
            msg = "the fence is higher"
            raise FenceLost(msg)
        return found


class ModelDatabase(Database[dict[int, int]]):
    """A connection to the model's server."""

    name: ClassVar[str] = "model"

    def __init__(self, server: Server, faults: Faults) -> None:
        self._journal = ModelJournal(server, faults)
        self.recovered = 0
        self.strains: list[str | Exception | None] = []
        """What is said of the next looks at it; then that it is well."""
        self.looks = 0

    @property
    def journal(self) -> ModelJournal:
        return self._journal

    @property
    def handle(self) -> dict[int, int]:
        return self._journal.server.documents

    def whereabouts(self) -> str:
        return self._journal.server.whereabouts

    def resources(self) -> JSON:
        return {}

    def free(self, owner: Owner) -> None:
        raise NotImplementedError

    def count(self, names: Sequence[str]) -> dict[str, int | None]:
        raise NotImplementedError

    def strain(self, warn: Callable[[str], None]) -> str | None:
        self.looks += 1
        found = self.strains.pop(0) if self.strains else None
        if isinstance(found, Exception):
            raise found
        return found

    def examine(self) -> list[Finding]:
        raise NotImplementedError

    def classify(self, error: BaseException) -> Fault:
        if isinstance(error, Conflict):
            return Fault.CONFLICT
        return Fault.PASSING if isinstance(error, Passing) else Fault.LASTING

    def describe(self, error: BaseException) -> str:
        return f"model: {error}"

    def watched(self, alive: Callable[[Amount | None], None]) -> AbstractContextManager[Any]:
        return nullcontext()

    def recover(self) -> None:
        self.recovered += 1

    def close(self) -> None:
        pass


class Increment(Operation[dict[int, int]]):
    """Adds one to each document, `size` at a time: wrong whenever anything runs twice."""

    kind: ClassVar[str] = "increment"
    size: int = 3
    fails_at: int | None = None
    parallel: int = 1

    @property
    def summary(self) -> str:
        return "documents"

    def prepare(self, work: Work[dict[int, int]]) -> Prepared:
        last = max(work.handle, default=0)
        ends = [(last + 1) * (n + 1) // self.parallel - 1 for n in range(self.parallel)]
        ranges = [
            Range(after, {"last": end}) for after, end in zip([None, *ends], ends, strict=False)
        ]
        parts = tuple(ranges) if self.parallel > 1 else ()
        return Prepared({"last": last}, total=len(work.handle), ranges=parts)

    def step(self, work: Work[dict[int, int]]) -> Step:
        after = -1 if work.cursor is None else work.cursor
        keys = [k for k in sorted(work.handle) if after < k <= work.undo["last"]]
        batch = keys[: min(self.size, work.size)]
        for key in batch:
            if key == self.fails_at:
                msg = f"document {key} is bad"
                raise OperationFailed(msg)
            work.handle[key] += 1
        finished = len(batch) == len(keys)
        return Step(batch[-1] if batch else after, done=len(batch), finished=finished)

    def irreversible(self) -> Problem | None:
        return None

    def undo(self, work: Work[dict[int, int]]) -> Step:
        """From the last document that was done to the first; in ranges, what is above zero."""
        assert work.walked is not None
        if self.parallel > 1:
            above = [k for k, value in work.handle.items() if value > 0][: self.size]
            for key in above:
                work.handle[key] -= 1
            return Step({}, done=len(above), finished=not above)
        below = work.walked.cursor if work.cursor is None else work.cursor - 1
        keys = [k for k in sorted(work.handle, reverse=True) if k <= below]
        batch = keys[: min(self.size, work.size)]
        for key in batch:
            work.handle[key] -= 1
        finished = len(batch) == len(keys)
        return Step(batch[-1] if batch else below, done=len(batch), finished=finished)
