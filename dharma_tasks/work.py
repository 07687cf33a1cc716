"""What a worker has in hand: its assignment, what it took over, and what an operation gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from dharma_tasks.migration import JSON, Key
from dharma_tasks.records import GONE, Direction, MigrationState, OperationState, Owner

WAY_BACK = "on the way back: "
"""What the error of a migration begins with that failed while it was rolled back."""

SEALED = "sealed"
"""Under which `undo` says why this worker cannot go on with what another one has begun."""

HandleT = TypeVar("HandleT")


@dataclass(frozen=True)
class Assignment:
    """One operation that a worker is asked to carry out, with what the journal notes of it.

    `count` is the number of operations; the end of the last one brings the migration to
    `outcome`. With `direction` BACK the operation is undone, and the last one is number `until`;
    the outcome is FAILED where that leaves operations that cannot be undone. The operations of
    a rollback file are carried out forward: they are numbered on from those of the migration,
    which are all done, and their outcome is ROLLED_BACK. `first` is where the file begins that the
    operation is in. `after` is a version that must be over before its migration begins, in the
    direction in which this one goes.
    """

    run: str
    generation: int
    by: str
    key: Key
    name: str
    checksum: str
    type: str
    count: int
    direction: Direction = Direction.FORWARD
    outcome: MigrationState = MigrationState.APPLIED
    until: int = 1
    first: int = 1
    after: str | None = None

    def of_range(self, number: int) -> Assignment:
        """The assignment to work through one range of the operation."""
        return replace(self, key=self.key.of_range(number))

    @property
    def before(self) -> MigrationState | None:
        """What the migration is again if this operation fails and leaves nothing, if that is sure.

        It is where nothing comes before the operation.
        """
        if self.back or self.key.number != self.first:
            return None
        forward = self.going is MigrationState.RUNNING
        return MigrationState.ROLLED_BACK if forward else MigrationState.APPLIED

    def follows(self, state: MigrationState) -> bool:
        """Whether the version `after`, where that is its state, is over as it has to be."""
        if self.going is MigrationState.RUNNING:
            return state is MigrationState.APPLIED
        return state in GONE

    @property
    def going(self) -> MigrationState:
        """The migration's state while the operation is at work."""
        forward = self.outcome is MigrationState.APPLIED
        return MigrationState.RUNNING if forward else MigrationState.ROLLING_BACK

    @property
    def at_work(self) -> OperationState:
        """The operation's own state while it is at work."""
        return OperationState.UNDOING if self.back else OperationState.RUNNING

    @property
    def over(self) -> OperationState:
        """The operation's own state at its end."""
        return OperationState.PENDING if self.back else OperationState.DONE

    def failure(self, error: str) -> str:
        """The error of an operation as the migration shows it."""
        return error if self.going is MigrationState.RUNNING else f"{WAY_BACK}{error}"

    @property
    def back(self) -> bool:
        """Whether the operation is to be undone."""
        return self.direction is Direction.BACK

    @property
    def last(self) -> bool:
        """Whether the migration has its outcome when this operation is over."""
        return self.key.number == (self.until if self.back else self.count)


@dataclass(frozen=True)
class Range:
    """One of the ranges of an operation that are worked through side by side.

    Its first batch begins at `cursor`. `undo` is where it ends: it replaces those parts of what
    the operation has recorded.
    """

    cursor: Any
    undo: JSON


@dataclass(frozen=True)
class Prepared:
    """What an operation found before its first effect. `undo` also holds recorded identities.

    Where what was found makes it impossible to undo the operation, `undo["irreversible"]` says
    why, in words for people. With `ranges` the operation is worked through in them, which together
    are all of it; `undo["ranges"]` says how many they are.
    """

    undo: JSON
    total: int | None = None
    ranges: tuple[Range, ...] = ()

    @property
    def recorded(self) -> JSON:
        """What the journal keeps as `undo`."""
        return self.undo | {"ranges": len(self.ranges)} if self.ranges else self.undo

    @property
    def cursor(self) -> Any:
        """Where the operation is after it: with ranges one of them may begin at any moment."""
        return {} if self.ranges else None


@dataclass(frozen=True)
class Step:
    """The result of one batch.

    `cursor` is where the next batch begins, in the database's own JSON (BSON for MongoDB);
    `done` is how many documents, rows or statements this batch has worked through; `total`
    replaces the estimate where it is better known now.
    """

    cursor: Any
    done: int = 0
    finished: bool = False
    total: int | None = None


@dataclass(frozen=True)
class Amount:
    """How far a server says it is with a long statement, in a unit of its own."""

    done: int
    total: int


@dataclass(frozen=True)
class Walked:
    """How far an operation had come when it began to be undone."""

    cursor: Any = None
    done: int = 0


@dataclass(frozen=True)
class Earlier:
    """What is known of an operation that is done: what it found, and its last cursor."""

    undo: JSON
    cursor: Any = None


@dataclass(frozen=True)
class Taken:
    """An operation that is this worker's, as of its last journal write.

    `former` is who had it before. `undo` is None until `prepare` was written. `walked` is None
    on the way forward. `mark` is the storage's own (for Elasticsearch the document's sequence
    number).
    """

    assignment: Assignment
    fence: int
    state: OperationState
    cursor: Any = None
    undo: JSON | None = None
    done: int = 0
    total: int | None = None
    attempts: int = 1
    former: Owner | None = None
    walked: Walked | None = None
    mark: Any = None

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do: it is done, or on the way back undone."""
        return self.state is self.assignment.over

    @property
    def ranges(self) -> int:
        """Into how many ranges the operation is cut; 0 on the way back, and where it is not."""
        forward = not self.assignment.back and self.assignment.key.range is None
        return int((self.undo or {}).get("ranges", 0)) if forward else 0

    def within(self, recorded: JSON) -> Taken:
        """This record of a range, with what its operation has recorded."""
        return replace(self, undo=recorded | (self.undo or {}))

    def prepared(self, prepared: Prepared) -> Taken:
        """This record, after `prepare` was written."""
        undo, cursor, total = prepared.recorded, prepared.cursor, prepared.total
        return replace(self, undo=undo, cursor=cursor, total=total)

    def stepped(self, step: Step) -> Taken:
        """This record, after `step` was written: the cursor moved, so attempts begin again."""
        return replace(
            self,
            cursor=step.cursor,
            done=self.done + step.done,
            total=self.total if step.total is None else step.total,
            state=self.assignment.over if step.finished else self.assignment.at_work,
            attempts=0,
        )


@dataclass(frozen=True)
class Work(Generic[HandleT]):
    """What an operation gets to work with; it needs nothing else, and gets nothing else.

    `handle` is the database's own (connection, session, …), inside the batch's transaction
    where there is one. `size` is how many documents this batch should have, `rate` how many a
    second the server may work through where it goes on without us. `label` names
    run, operation and fence: it goes along to the server (comment, X-Opaque-Id) where that
    helps a successor. `key` names the operation; `walked` is, on the way back, how far the
    way forward had come. `confirm` raises `LeaseLost` unless the lease is ours now: called
    immediately before a command that no transaction protects. `warn` logs what a user should
    know, with the operation's context. `earlier` reads the operations of its migration that
    are done before it. `scrub` takes secrets out of a text.
    """

    handle: HandleT
    cursor: Any
    undo: JSON
    size: int
    label: str
    key: Key
    confirm: Callable[[], None]
    warn: Callable[[str], None] = field(default=lambda _message: None)
    walked: Walked | None = None
    earlier: Callable[[], list[Earlier]] = field(default=list)
    rate: float | None = None
    scrub: Callable[[str], str] = field(default=str)
