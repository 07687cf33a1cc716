"""What a journal says, of a whole database, of its migrations and of its history."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from dharma_tasks.migration import JSON, Reference, reference

SCHEMA_VERSION = 1
"""Of the journal's own tables, collections and indices; kept in its head.

It rises when an older release must not work in the journal any more; a field that an older one
may overlook is no reason.
"""


class MigrationState(StrEnum):
    """The state of a migration, as users see it. One without a record is pending."""

    PENDING = "pending"
    RUNNING = "running"
    APPLIED = "applied"
    FAILED = "failed"
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"


GONE = (MigrationState.PENDING, MigrationState.ROLLED_BACK)
"""Nothing of such a migration is there."""


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


class RangeRecord(BaseModel):
    """A range of an operation in the journal; the fields are those of `OperationRecord`."""

    number: int
    state: OperationState
    cursor: Any = None
    done: int = 0
    error: str | None = None


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
    entry that ends a migration, by which a worker takes an operation of one, or by which a person
    declares something of it, says its `name` and `checksum` as they were then; an end says how many
    `seconds` it took. They are written with the end itself; older releases wrote less.
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

    @field_validator("checksum")
    @classmethod
    def _without_values(cls, stamp: str | None) -> str | None:
        return stamp and stamp.partition("+")[0]


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

    @property
    def generation(self) -> int:
        """That of the head, which `Journal.begin` expects."""
        return self.head.generation if self.head else 0

    def by_version(self) -> dict[str, MigrationRecord]:
        """The records by version."""
        return {record.version: record for record in self.migrations}


def applied(surveys: Iterable[Survey]) -> dict[Reference, str]:
    """What is applied by these journals, with its checksums."""
    return {
        reference(survey.database, record.version): record.checksum
        for survey in surveys
        for record in survey.migrations
        if record.state is MigrationState.APPLIED
    }
