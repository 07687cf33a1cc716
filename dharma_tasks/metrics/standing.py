"""How the runs stand, as Redis says."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from redis import Redis

from dharma_tasks.lease import Leases
from dharma_tasks.run import Ended, Progress, RunState, Snapshot
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Workers


class Standing(StrEnum):
    """How what is next in a database stands, for an open run."""

    WORKING = "working"
    """A worker has its lease, and nothing is in the way."""
    WAITING = "waiting"
    """A worker has its lease, and waits: a passing error, or a database that is not well."""
    UNATTENDED = "unattended"
    """No worker has its lease; one that serves the database will take it over."""
    UNSERVED = "unserved"
    """No live worker serves the database."""
    DEPENDING = "depending"
    """On a migration of another database; or its journal is not opened yet."""
    RESTING = "resting"
    """Outside of the run's window."""
    PAUSED = "paused"
    """Until a person says `dharma resume`."""

    @property
    def moves(self) -> bool:
        """Whether there should be signs of life."""
        return self in {Standing.WORKING, Standing.WAITING, Standing.UNATTENDED}


@dataclass(frozen=True)
class Position:
    """What one database is at. `lease` is for how many seconds it was not renewed, if held."""

    standing: Standing
    progress: Progress | None = None
    lease: float | None = None


@dataclass(frozen=True)
class Seen:
    """What Redis said, `at` so many seconds of the monotonic clock. The rest is by database."""

    at: float
    snapshots: Sequence[Snapshot]
    ended: Ended
    serving: Mapping[str, int]
    positions: Mapping[str, Position]


class Lookout:
    """Looks at the runs of one namespace."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        """`redis` answers with text."""
        self._runs = Runs(redis, settings.namespace)
        self._leases = Leases(redis, settings.namespace, settings.lease_seconds)
        self._workers = Workers(redis, settings.namespace)

    def look(self) -> Seen:
        """Read Redis.

        Raises:
            RedisError: it does not answer.
        """
        at, snapshots = time.monotonic(), self._runs.open()
        serving = Counter(name for each in self._workers.alive() for name in each.databases)
        positions = {
            name: found
            for snapshot in snapshots
            for name in snapshot.run.databases
            if (found := self._position(name, snapshot, served=serving[name] > 0))
        }
        return Seen(at, snapshots, self._runs.ended(), serving, positions)

    def _position(self, name: str, snapshot: Snapshot, *, served: bool) -> Position | None:
        at, progress = snapshot.working.get(name), snapshot.progress.get(name)
        if at is None:
            return _between(name, snapshot, served=served)
        if progress and (progress.version, progress.number) != (at.version, at.number):
            progress = None
        held = self._leases.held(at.key)
        lease = None if held is None or held.free else self._leases.age(at.key)
        if snapshot.state is RunState.PAUSED:
            standing = Standing.PAUSED
        elif not served:
            standing = Standing.UNSERVED
        elif progress and progress.resting(at):
            standing = Standing.RESTING
        elif lease is None:
            standing = Standing.UNATTENDED
        else:
            waits = progress is not None and progress.waiting is not None
            standing = Standing.WAITING if waits else Standing.WORKING
        return Position(standing, progress, lease)


def _between(name: str, snapshot: Snapshot, *, served: bool) -> Position | None:
    """Of a database in which nothing is begun; None where nothing will be."""
    over = snapshot.done.get(name, 0) >= snapshot.total.get(name, 0)
    if over or RunState.RUNNING not in {snapshot.state, snapshot.was}:
        return None
    if snapshot.state is RunState.PAUSED:
        return Position(Standing.PAUSED)
    return Position(Standing.DEPENDING if served else Standing.UNSERVED)
