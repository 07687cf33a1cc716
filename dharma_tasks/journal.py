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
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.migration import Key
from dharma_tasks.records import (
    SCHEMA_VERSION,
    Direction,
    Head,
    HistoryRecord,
    MigrationState,
    Owner,
    RangeRecord,
    Survey,
)
from dharma_tasks.work import Assignment, Earlier, Prepared, Step, Taken

HandleT = TypeVar("HandleT")


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

    `checksum` is what the journal keeps, with the values: see `Migration.stamp`. `types` are those
    of its operations, in order. What `state` means is said in
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


def confirm_schema(database: str, found: int) -> None:
    """Refuse to work in a journal that a newer release has made.

    Raises:
        Refused: its schema version is higher than the one that is known here.
    """
    if found > SCHEMA_VERSION:
        what = f"the journal of {database} has the schema version {found}, this worker knows"
        todo = "Update the workers: a newer release works in this journal."
        raise Refused([Problem("", "", f"{what} {SCHEMA_VERSION}", todo)])


class Ledger(ABC, Generic[HandleT]):
    """What workers take over and work through under a fence: operations, or ranges of them.

    All writes are durable when a call returns.
    """

    @abstractmethod
    def owner(self, key: Key) -> Owner | None:
        """Who has it now, for `Database.free` and for nothing else."""

    @abstractmethod
    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Take it over in one atomic write: see the top of this file.

        `counted` says whether this is a new attempt; a worker that goes on after a passing error
        does not count, and `error` is what it was: kept as the last one until a batch goes well.
        What failed before goes on from its cursor, and its attempts begin again. What is done
        already is returned as it is.

        Raises:
            Outdated: the head is at another generation, or there is nothing to take any more.
        """

    @abstractmethod
    def step(self, taken: Taken, batch: Callable[[HandleT], Step], *, transactional: bool) -> Taken:
        """Run one batch and write its checkpoint.

        With `transactional`, both commit in one transaction, where the database has any;
        without, the checkpoint is written after the batch. Raises `FenceLost`, and whatever the
        batch or the database raises.
        """

    @abstractmethod
    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        """Write the lasting error; `state` is what becomes of the migration. Raises `FenceLost`."""

    @abstractmethod
    def note(self, taken: Taken, error: str | None) -> None:
        """Write a passing error, or with None an orderly stop: neither counts as an attempt.

        Raises `FenceLost`.
        """


class Journal(Ledger[HandleT]):
    """The storage of one database's journal; what it takes over are operations."""

    @abstractmethod
    def survey(self) -> Survey:
        """Read everything; write nothing. Works, and says `head=None`, before the first run."""

    @abstractmethod
    def head(self) -> Head | None:
        """Read the head alone; None before the first run."""

    @abstractmethod
    def state(self, version: str) -> MigrationState:
        """Read how one migration stands at this moment; PENDING where nothing is recorded."""

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
          that are done, as what `types` says, stay as they are, with their undo data, unless the
          migration is rolled back; every other one of `types` is done, and irreversible with
          the reason. Nothing of a rollback file counts as begun.
        - ROLLED_BACK: nothing of any operation is recorded but its fence; it may begin anew. A
          migration without a record has none after it.
        - RUNNING, ROLLING_BACK: the failure is forgotten, and cursors stay: an operation that
          failed is running again; the attempts of an open one begin again.
        - None: only name and checksum are written.

        The last three change only what is there: a migration without a record stays without.

        Raises:
            FenceLost: the head's generation is neither `expected` nor this declaration's own.
        """

    @property
    def ranges(self) -> Ranges[HandleT] | None:
        """Those into which operations are cut; None where no operation of the database is."""
        return None

    @abstractmethod
    def earlier(self, key: Key) -> list[Earlier]:
        """The operations of its migration that are done before this one, which is taken."""

    @abstractmethod
    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """As in `Ledger`, of an operation.

        Makes the migration's and the operation's record on first use (a migration that another run
        has `rolled_back` begins anew with the checksum given; a `failed` one goes on). With an
        operation that is done already the migration is brought to its outcome, if that write had
        been lost.

        On the way back, the first taking moves cursor and count of the way forward to
        `Taken.walked`, sets the operation to `undoing` and the migration to `rolling_back`;
        `undo` stays. The same write raises the fence, and that of each range, so whoever still
        went forward commits nothing any more (Law 8, FAULTS 22). One that is pending, or has no
        record, is undone already: it is returned with the state PENDING, and the migration brought
        to its outcome. The migration keeps its error, if it failed before.

        Raises:
            Outdated: the head is at another generation, or another run's; this very run has
                rolled the migration back, or has undone the operation; an earlier operation of the
                migration is not done; the operation is being undone and was to go forward; or, on
                the way back, a later operation is not undone.
        """

    @abstractmethod
    def prepare(self, taken: Taken, prepared: Prepared) -> Taken:
        """Write what the operation found before its first effect, and its ranges with it.

        Raises `FenceLost`.
        """

    @abstractmethod
    def step(self, taken: Taken, batch: Callable[[HandleT], Step], *, transactional: bool) -> Taken:
        """As in `Ledger`, of an operation.

        The last step of the last operation brings the migration to its outcome in the same write.
        What is undone is pending again, with nothing of it recorded but its fence.
        """

    @abstractmethod
    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        """Write the lasting error and the migration's state. Raises `FenceLost`.

        An operation that was being undone stays `undoing`, without an owner and with no
        attempts: its cursor is of use on the way back only. A migration that failed before
        keeps its first error. Every range of it is fenced.

        The state APPLIED is for the first operation of a rollback file that has left nothing: it is
        pending again, the migration is applied as before, and the error is in the history.
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


class Ranges(Ledger[HandleT]):
    """The ranges of the operations that are worked through in several side by side.

    `Journal.prepare` makes them, in the write that records what the operation has found. Each has
    a cursor, a fence, attempts and an owner of its own. What raises the fence of an operation
    that is to end (another run, its failure, its way back) raises those of its ranges.
    """

    @abstractmethod
    def of(self, key: Key) -> list[RangeRecord]:
        """Those of the operation `key`, in order."""

    @abstractmethod
    def owners(self, key: Key) -> list[Owner]:
        """Who has any of them now, for `Database.free` and for nothing else."""

    @abstractmethod
    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """As in `Ledger`, of a range. `Taken.undo` is the operation's, with the range's end.

        Raises:
            Outdated: the operation is not at work any more: it has failed, or is undone.
        """
