"""What a run is: what was submitted, how it stands, and what is shown of it.

It is kept in Redis, by `runs.py`.
"""

from __future__ import annotations

import re
import secrets
import time
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, TypeGuard

from pydantic import BaseModel, ConfigDict

from dharma_tasks.errors import Problem
from dharma_tasks.limits import Limits
from dharma_tasks.migration import Key, Migration
from dharma_tasks.records import Direction


def new_run_id(now: datetime) -> str:
    """Make an id that sorts by time, to a quarter of a millisecond; people can say it aloud."""
    part = now.microsecond * 0x1000 // 1_000_000
    return f"{now:%Y%m%d-%H%M%S}-{part:03x}{secrets.token_hex(2)}"


def is_run_id(text: str | None) -> TypeGuard[str]:
    """Whether it is an id that `new_run_id` has made, and so sorts by time."""
    return text is not None and re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{6,}", text) is not None


class RunState(StrEnum):
    """How a run stands."""

    PLANNING = "planning"
    RUNNING = "running"
    FAILING = "failing"
    """An operation failed for good; migrations that are open in other databases finish."""
    PAUSED = "paused"
    """Nothing moves until it is resumed; then it is again what it was."""
    CANCELLING = "cancelling"
    """Nothing new begins; the migrations that are open are undone (on the way back: finish)."""
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"

    @property
    def over(self) -> bool:
        """Whether nothing of the run will run any more."""
        return self not in _OPEN

    @property
    def rests(self) -> bool:
        """Whether nothing of the run is to be done at this moment."""
        return self.over or self is RunState.PAUSED


_OPEN = {
    RunState.PLANNING,
    RunState.RUNNING,
    RunState.FAILING,
    RunState.PAUSED,
    RunState.CANCELLING,
}


class Run(BaseModel):
    """What was submitted; never changed afterwards."""

    model_config = ConfigDict(frozen=True)

    id: str
    created: datetime
    by: str
    target: str
    """The highest version to apply; on the way back the one that stays."""
    databases: tuple[str, ...]
    """The databases it may change: it has them to itself."""
    surveyed: tuple[str, ...]
    """Those, and the ones that their migrations depend on."""
    allow_out_of_order: bool = False
    allow_major: bool = False
    direction: Direction = Direction.FORWARD
    accept_data_loss: bool = False
    """Whether what cannot be undone is passed over on the way back."""
    limits: Limits = Limits()
    whereabouts: dict[str, str] = {}
    """What must be true of databases: see `Database.whereabouts`. The others may be anywhere."""
    fingerprint: str
    """Equal for two submits that want the same."""


class Next(NamedTuple):
    """An operation whose chain is to be sent; where `until` is set, it is to be undone.

    Undoing goes down to the operation `until`.
    """

    database: str
    version: str
    number: int
    until: int | None = None

    @classmethod
    def parse(cls, database: str, text: str) -> Next:
        """Make it from its `text`."""
        version, number, *until = text.split()
        return cls(database, version, int(number), int(until[0]) if until else None)

    @property
    def text(self) -> str:
        """How a run's record knows it: `VERSION NUMBER`, or `VERSION NUMBER UNTIL`."""
        return " ".join(str(part) for part in self[1:] if part is not None)

    @property
    def after(self) -> Next:
        """The operation that follows it, whichever way it goes."""
        return self._replace(number=self.number + (1 if self.until is None else -1))

    def rest(self, operations: int, rollback: int) -> list[Next]:
        """This operation and what follows it, in a migration of so many operations.

        `rollback` is how many its rollback file has, which are numbered on.
        """
        if self.until is not None:
            numbers = range(self.number, self.until - 1, -1)
        else:
            end = operations if self.number <= operations else operations + rollback
            numbers = range(self.number, end + 1)
        return [self._replace(number=number) for number in numbers]

    @property
    def key(self) -> Key:
        """The same, as the journal and the lease know it."""
        return Key(database=self.database, version=self.version, number=self.number)


class Job(NamedTuple):
    """What a worker needs to carry out one operation."""

    run: Run
    at: Next
    generation: int
    migration: Migration
    since: float
    """When the migration began in this run, seconds since 1970."""
    stuck_for: float
    """As in `Progress`, like `handed_on`."""
    handed_on: bool
    state: RunState
    """The run's, when this was read."""
    before: str | None = None
    """With a key: the version that must be over before it begins, where the plan has one."""

    @property
    def forward(self) -> bool:
        """Whether it brings its migration forward, in a run that goes forward."""
        return (
            self.run.direction is Direction.FORWARD
            and self.at.until is None
            and self.at.number <= len(self.migration.operations)
        )

    @property
    def cancelled(self) -> bool:
        """Whether it must not be carried out, but its migration be undone."""
        return self.forward and self.state is RunState.CANCELLING

    @property
    def turned(self) -> bool:
        """Whether it goes back in a run that goes forward, or is to: that waits for nobody."""
        return self.cancelled or (self.run.direction is Direction.FORWARD and not self.forward)


class Progress(BaseModel):
    """What a database does at this moment, for whoever watches. Times are seconds since 1970."""

    version: str
    name: str
    number: int
    count: int
    back: bool = False
    """Whether it is undone."""
    type: str
    summary: str
    worker: str
    done: int = 0
    total: int | None = None
    since: float
    since_done: int = 0
    """What was done at `since`: the rate is over this worker's own time."""
    heartbeat: float
    limit: float | None = None
    """How many documents or rows a second it may work through."""
    waiting: str | None = None
    """Why it does not move: a passing error, a worker that is too old."""
    opens: float | None = None
    """When the run's window opens, outside of which it rests."""
    stuck_for: float = 0.0
    """Seconds that passing errors had kept it from moving, over all its workers, at `heartbeat`."""
    handed_on: bool = False
    """Whether a worker that was cut off has left it, in order, to another one."""

    def resting(self, at: Next) -> bool:
        """Whether this is about `at`, and that rests until a time that has not come."""
        here = (at.version, at.number, at.until is not None)
        is_it = here == (self.version, self.number, self.back)
        return is_it and self.opens is not None and time.time() < self.opens

    @property
    def rate(self) -> float:
        """Documents, rows or statements a second, since this worker took the operation."""
        elapsed = self.heartbeat - self.since
        return (self.done - self.since_done) / elapsed if elapsed > 0 else 0.0


class Event(BaseModel):
    """Something that happened in a run. `kind` is one of the words used in `flow/`."""

    at: datetime
    kind: str
    database: str | None = None
    version: str | None = None
    text: str
    seconds: float | None = None
    """How long the migration took in this run."""


class Snapshot(BaseModel):
    """How a run stands, read at once. `total` and `done` count migrations by database.

    `ranges` are those that are open of an operation that is cut into some.
    `was` is what a paused run is again when it is resumed.
    """

    run: Run
    state: RunState
    was: RunState | None = None
    total: dict[str, int]
    done: dict[str, int]
    working: dict[str, Next]
    ranges: dict[str, list[int]] = {}
    generations: dict[str, int]
    problems: list[Problem]
    progress: dict[str, Progress]


class Ended(NamedTuple):
    """How runs have ended, as long as Redis has kept count.

    `last` is by database: of those that were to change it and were not refused, the last one.
    """

    counts: dict[RunState, int]
    last: dict[str, RunState]
