"""The journal: what is applied, what is next, and where to resume. It is the truth (Law 1).

Every target database holds its own; `dharma_tasks/databases/` has one storage for each. This
file says what all of them promise. Three rules carry the promise of "nothing twice":

- `take` is *one* atomic, durable write: it raises the fence and returns fence, cursor and
  state together, and fails where the head's generation is not the run's (Laws 2 and 4).
- Every later write says "where fence = mine"; when that fails, `FenceLost` is raised and
  nothing of the batch is kept.
- `step` commits a batch's effect and its checkpoint together, where the database can (Law 3).
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, model_validator

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.migration import JSON, Key

SCHEMA_VERSION = 1
"""Of the journal's own tables, collections and indices; kept in its head.

It rises when an older release must not work in the journal any more; a field that an older one
may overlook is no reason.
"""

WAY_BACK = "on the way back: "
"""What the error of a migration begins with that failed while it was rolled back."""

HandleT = TypeVar("HandleT")


class MigrationState(StrEnum):
    """The state of a migration, as users see it. One without a record is pending."""

    PENDING = "pending"
    RUNNING = "running"
    APPLIED = "applied"
    FAILED = "failed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


class OperationState(StrEnum):
    """The state of an operation. One without a record is pending.

    An operation that is undone goes from wherever it is to `undoing`, and from there back to
    `pending`: one record, and so one fence, for both ways. While it is `undoing` its cursor is
    that of the way back.
    """

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNDOING = "undoing"


class Direction(StrEnum):
    """Which way a run, or an operation in it, goes."""

    FORWARD = "forward"
    BACK = "back"


class Owner(BaseModel):
    """Who works on an operation, precisely enough to see that it is dead and to free its things.

    `resources` is the database's own: a MongoDB session's id, a PostgreSQL backend's pid and
    start. It is written before the first effect, so that a successor can end them (Law 4).
    """

    model_config = ConfigDict(frozen=True)

    worker: str
    node: str
    boot: str
    pid: int
    started: float
    resources: JSON = {}


class OperationRecord(BaseModel):
    """An operation in the journal, as `status` shows it.

    `attempts` counts how often it was begun since its cursor last moved, `worker` is who had it
    last, `error` why it failed, or the passing error since which no batch went well.
    `irreversible` is why what it has found cannot be undone, as `prepare` has recorded it.
    """

    number: int
    type: str
    state: OperationState
    done: int = 0
    total: int | None = None
    attempts: int = 0
    error: str | None = None
    worker: str | None = None
    updated: datetime | None = None
    irreversible: str | None = None


class MigrationRecord(BaseModel):
    """A migration in the journal. Times are UTC; `started` is the first start of the way forward.

    `seconds` is from there to `finished`, or where it was rolled back (or failed at that) from
    when that began; None where it was only declared to be as it is. `error` is the first one:
    what then fails on the way back is the operation's. Of a migration that had been applied, it
    is that of the way back, and begins with `WAY_BACK`. `checksum` and `values` are those of
    `Migration`, kept as one: its `stamp`.
    """

    version: str
    name: str
    state: MigrationState
    checksum: str
    run: str
    by: str
    started: datetime
    finished: datetime | None = None
    seconds: float | None = None
    error: str | None = None
    operations: list[OperationRecord] = []
    values: str = ""

    @model_validator(mode="before")
    @classmethod
    def _two(cls, data: Any) -> Any:
        checksum, _, values = str(data.get("checksum", "")).partition("+")
        return data | {"checksum": checksum, "values": values or data.get("values") or ""}


class HistoryRecord(BaseModel):
    """One entry of the audit trail: when, what, in which run, and who asked for it.

    `worker` is who took the operation, `error` why it failed, `detail` what else is to say. An
    entry that ends a migration says which it was and how many `seconds` it took, where the
    journal still knows.
    """

    at: datetime
    event: str
    run: str
    by: str
    version: str | None = None
    number: int | None = None
    worker: str | None = None
    detail: str | None = None
    error: str | None = None
    name: str | None = None
    checksum: str | None = None
    seconds: float | None = None


class Head(BaseModel):
    """The journal's one head record."""

    identity: str
    schema_version: int = SCHEMA_VERSION
    run: str | None = None
    generation: int = 0
    direction: Direction = Direction.FORWARD
    plan: str | None = None


class Survey(BaseModel):
    """All that planning and `status` need, read at once. No `head` before the first run."""

    database: str
    head: Head | None = None
    migrations: list[MigrationRecord] = []

    def by_version(self) -> dict[str, MigrationRecord]:
        """The records by version."""
        return {record.version: record for record in self.migrations}


@dataclass(frozen=True)
class Opening:
    """What a run writes into the head: see `Journal.begin`."""

    run: str
    direction: Direction
    plan: str
    by: str
    accept_data_loss: bool = False

    @property
    def detail(self) -> str:
        """What the audit trail says of it."""
        return f"{self.direction}{' --accept-data-loss' if self.accept_data_loss else ''}"


@dataclass(frozen=True)
class Amendment:
    """What a person declares to be true of one migration; nothing of it is carried out.

    `types` are those of its operations, in order. What `state` means is said in
    `Journal.declare`; None is for a migration that is as it is, with another name or checksum.
    """

    version: str
    name: str
    checksum: str
    types: tuple[str, ...]
    state: MigrationState | None


@dataclass(frozen=True)
class Declaration:
    """What a person declares to be true of a database: see `Journal.declare`.

    `run` is an id of its own, as a run has one. `event` is the word in the history: baseline,
    retry, mark_applied, mark_rolled_back, accept_checksum. `reason` is for people: the history's
    detail, and why an operation that was only declared to be done cannot be undone.
    """

    run: str
    by: str
    event: str
    reason: str
    amendments: tuple[Amendment, ...]


@dataclass(frozen=True)
class Pruned:
    """What was kept for one operation's way back, and is gone: so many `documents`."""

    version: str
    number: int
    documents: int


@dataclass(frozen=True)
class Assignment:
    """One operation that a worker is asked to carry out, with what the journal notes of it.

    `count` is the number of operations; the end of the last one brings the migration to
    `outcome`. With `direction` BACK the operation is undone, and the last one is number `until`;
    the outcome is FAILED where that leaves operations that cannot be undone. The operations of
    a rollback file are carried out forward: they are numbered on from those of the migration,
    which are all done, and their outcome is ROLLED_BACK. `first` is where the file begins that the
    operation is in.
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

    @property
    def before(self) -> MigrationState | None:
        """What the migration is again if this operation fails and leaves nothing, if that is sure.

        It is where nothing comes before the operation.
        """
        if self.back or self.key.number != self.first:
            return None
        forward = self.going is MigrationState.RUNNING
        return MigrationState.ROLLED_BACK if forward else MigrationState.APPLIED

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
class Entry:
    """What a person did to a run, for the audit trail. `detail` tells it from a second time."""

    event: str
    run: str
    by: str
    key: Key
    detail: str

    @property
    def id(self) -> str:
        """The same for two entries that say the same."""
        said = "\n".join((self.event, self.run, self.by, str(self.key), self.detail))
        return hashlib.sha256(said.encode()).hexdigest()


@dataclass(frozen=True)
class Prepared:
    """What an operation found before its first effect. `undo` also holds recorded identities.

    Where what was found makes it impossible to undo the operation, `undo["irreversible"]` says
    why, in words for people.
    """

    undo: JSON
    total: int | None = None


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

    def prepared(self, prepared: Prepared) -> Taken:
        """This record, after `prepare` was written."""
        return replace(self, undo=prepared.undo, total=prepared.total)

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
    where there is one. `size` is how many documents this batch should have. `label` names
    run, operation and fence: it goes along to the server (comment, X-Opaque-Id) where that
    helps a successor. `key` names the operation; `walked` is, on the way back, how far the
    way forward had come. `confirm` raises `LeaseLost` unless the lease is ours now: called
    immediately before a command that no transaction protects. `warn` logs what a user should
    know, with the operation's context. `earlier` reads the operations of its migration that
    are done before it.
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


def confirm_schema(database: str, found: int) -> None:
    """Refuse to work in a journal that a newer release has made.

    Raises:
        Refused: its schema version is higher than the one that is known here.
    """
    if found > SCHEMA_VERSION:
        what = f"the journal of {database} has the schema version {found}, this worker knows"
        todo = "Update the workers: a newer release works in this journal."
        raise Refused([Problem("", "", f"{what} {SCHEMA_VERSION}", todo)])


class Journal(ABC, Generic[HandleT]):
    """The storage of one database's journal. All writes are durable when a call returns."""

    @abstractmethod
    def survey(self) -> Survey:
        """Read everything; write nothing. Works, and says `head=None`, before the first run."""

    @abstractmethod
    def history(self, limit: int) -> list[HistoryRecord]:
        """Read the audit trail's last `limit` entries, oldest first; write nothing."""

    @abstractmethod
    def begin(self, opening: Opening, expected: int) -> int:
        """Open a run: make the journal if it is missing, raise the generation from `expected`.

        Raises every open fence too, so that workers of another run cannot write any more.
        Harmless when repeated for the same run. Returns the run's generation.

        Raises:
            FenceLost: the head's generation is neither `expected` nor this run's own.
            Refused: the journal is a newer release's, here and wherever it is written to.
        """

    @abstractmethod
    def declare(self, declaration: Declaration, expected: int) -> None:
        """Write what a person declares to be true, with an entry in the history for each.

        Makes the journal if it is missing, raises the generation from `expected`, and with it
        every open fence: no worker of any run writes any more, and what was planned before is
        refused. Harmless when repeated, also after a later run has gone on from it.

        - APPLIED: the record is made where there is none, and gets name and checksum. Operations
          that are done stay as they are, with their undo data, unless the migration is rolled
          back; every other one of `types` is done, and irreversible with the reason. Nothing of
          a rollback file counts as begun.
        - ROLLED_BACK: nothing of any operation is recorded but its fence; it may begin anew. A
          migration without a record has none after it.
        - RUNNING, ROLLING_BACK: the failure is forgotten, and cursors stay: an operation that
          failed is running again; the attempts of an open one begin again.
        - None: only name and checksum are written.

        The last three change only what is there: a migration without a record stays without.

        Raises:
            FenceLost: the head's generation is neither `expected` nor this declaration's own.
        """

    @abstractmethod
    def owner(self, key: Key) -> Owner | None:
        """Who has the operation now, for `Database.free` and for nothing else."""

    @abstractmethod
    def earlier(self, key: Key) -> list[Earlier]:
        """The operations of its migration that are done before this one, which is taken."""

    @abstractmethod
    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Take the operation over in one atomic write: see the top of this file.

        Makes the migration's and the operation's record on first use (a migration that another run
        has `rolled_back` begins anew with the checksum given; a `failed` one goes on). `counted`
        says whether this is a new attempt; a worker that goes on after a passing error does not
        count, and `error` is what it was: kept as the last one until a batch goes well. An
        operation that is done already is returned as it is, with the migration brought to its
        outcome if that write had been lost.

        On the way back, the first taking moves cursor and count of the way forward to
        `Taken.walked`, sets the operation to `undoing` and the migration to `rolling_back`;
        `undo` stays. The same write raises the fence, so whoever still went forward commits
        nothing any more (Law 8). One that is pending, or has no record, is undone already: it
        is returned with the state PENDING, and the migration brought to its outcome. The
        migration keeps its error, if it failed before.

        Raises:
            Outdated: the head is at another generation; this very run has rolled the migration
                back, or has undone the operation; an earlier operation of the migration is not
                done; the operation is being undone and was to go forward; or, on the way back, a
                later operation is not undone.
        """

    @abstractmethod
    def prepare(self, taken: Taken, prepared: Prepared) -> Taken:
        """Write what the operation found before its first effect. Raises `FenceLost`."""

    @abstractmethod
    def step(self, taken: Taken, batch: Callable[[HandleT], Step], *, transactional: bool) -> Taken:
        """Run one batch and write its checkpoint.

        With `transactional`, both commit in one transaction, where the database has any;
        without, the checkpoint is written after the batch. The last step of the last
        operation brings the migration to its outcome in the same write. What is undone is
        pending again, with nothing of it recorded but its fence. Raises `FenceLost`, and
        whatever the batch or the database raises.
        """

    @abstractmethod
    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        """Write the lasting error and the migration's state. Raises `FenceLost`.

        An operation that was being undone stays `undoing`, without an owner and with no
        attempts: its cursor is of use on the way back only. A migration that failed before
        keeps its first error.

        The state APPLIED is for the first operation of a rollback file that has left nothing: it is
        pending again, the migration is applied as before, and the error is in the history.
        """

    @abstractmethod
    def note(self, taken: Taken, error: str | None) -> None:
        """Write a passing error, or with None an orderly stop: neither counts as an attempt.

        Raises `FenceLost`.
        """

    def prune(self, before: datetime, *, run: str, by: str) -> list[Pruned]:  # noqa: ARG002
        """Remove what operations have kept for their way back, all of it before `before`.

        Only of migrations that are over. What is done is irreversible after that, and says so. For
        each such operation the history gets an entry, "pruned". A database in which nothing is
        kept apart has nothing to remove.
        """
        return []

    @abstractmethod
    def audit(self, entry: Entry) -> None:
        """Add an entry to the history, once: where one says the same already it adds nothing.

        It needs no fence, for nobody resumes from it.
        """
