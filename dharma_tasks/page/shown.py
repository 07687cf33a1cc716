"""What the page shows: the document that `page.js` asks for every second.

Numbers and times that people read are written out here, so that the page and the command line say
the same. Every text may hold whatever a file or a database says: the page shows it as text.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel

from dharma_tasks.records import MigrationState
from dharma_tasks.run import RunState

__all__ = ["DatabaseShown", "EntryShown", "Moving", "Now", "RunShown", "Shown", "Step", "Trouble"]


class Step(BaseModel):
    """One migration in the line of versions."""

    version: str
    name: str
    state: MigrationState


class Now(BaseModel):
    """The operation that a database is at. `share` is what is done, from 0 to 1, if it is known.

    `numbers` are done and total, the rate, the time left and the limit, as far as they are known;
    `heartbeat` is how old the last sign of life is, and empty before the first; `quiet` says that
    it is too old for an operation that nobody has told to rest.
    """

    what: str
    share: float | None = None
    numbers: list[str] = []
    worker: str | None = None
    heartbeat: str = ""
    quiet: bool = False


class Moving(BaseModel):
    """The migration that a run is at in a database, the `position`-th of how many: `3/7`.

    `waits` says why it does not move, which may be before its first operation.
    """

    version: str
    title: str
    position: str
    now: Now | None = None
    waits: str = ""


class Trouble(BaseModel):
    """A migration that needs a person. `error` is the database's own message."""

    title: str
    error: str | None
    todo: str
    command: str | None = None


class DatabaseShown(BaseModel):
    """One database. `read` is when its journal was read last; `stale` why not since then.

    `earlier` and `later` are how many steps are left out at the ends of the line. `ended` says what
    came of the last run.
    """

    name: str
    current: str | None = None
    applied: int = 0
    total: int = 0
    steps: list[Step] = []
    earlier: int = 0
    later: int = 0
    moving: Moving | None = None
    ended: str = ""
    troubles: list[Trouble] = []
    read: datetime | None = None
    stale: str | None = None
    stale_since: datetime | None = None


class RunShown(BaseModel):
    """A run that is not over, and what to do where it waits for a person."""

    id: str
    by: str
    created: datetime
    goal: str
    state: RunState
    databases: list[str]
    command: str | None = None


class EntryShown(BaseModel):
    """One entry of an audit trail. `what` names the migration, `text` is what is long."""

    at: datetime
    database: str
    event: str
    what: str
    took: str
    by: str
    text: str


class Shown(BaseModel):
    """Everything. `lost` says why nothing newer than what was known at `lost_since` is shown."""

    at: datetime
    lost: str | None = None
    lost_since: datetime | None = None
    workers: list[str] = []
    runs: list[RunShown] = []
    databases: list[DatabaseShown] = []
    history: list[EntryShown] = []
