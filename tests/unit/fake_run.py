"""A run in a fake Redis, driven step by step as workers would."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime

import pytest
from fakeredis import FakeRedis
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from dharma_tasks.errors import Problem
from dharma_tasks.loader import Loaded
from dharma_tasks.migration import Key, Migration
from dharma_tasks.planner import Plan, Request, plan
from dharma_tasks.records import MigrationRecord, MigrationState, Survey
from dharma_tasks.run import Event, Next, Progress, Run
from dharma_tasks.runs_at_work import RunsAtWork
from dharma_tasks.runs_steered import RunsSteered
from dharma_tasks.submit import make_run

NAMESPACE = "t"


def without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the DHARMA_ variables of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("DHARMA_")]:
        monkeypatch.delenv(name)


def with_short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a read that blocks meet the client's own timeout, as it does where leases are short."""

    def blocks(*_arguments: object, **_options: object) -> None:
        raise RedisTimeoutError

    monkeypatch.setattr(FakeRedis, "blpop", blocks)


def migration(
    database: str, version: str, *needs: str, operations: int = 1, name: str = "change"
) -> Migration:
    """A migration of so many operations that depends on `needs`."""
    return Migration(
        database=database,
        version=version,
        name=name,
        migration_type="schema",
        dependencies=needs,
        operations=tuple({"type": f"kind_{n}"} for n in range(1, operations + 1)),
        file=f"{database}/{version}.json",
    ).with_checksum()


class ReadFolder:
    """A folder that was read, in which nothing is wrong."""

    def __init__(self, *migrations: Migration, warnings: tuple[Problem, ...] = ()) -> None:
        self.migrations = migrations
        self.warnings = warnings

    def judged(self, _applied: object = None) -> Loaded:
        """As `Read.judged`."""
        return Loaded(self.migrations, self.warnings)


def loaded(*migrations: Migration) -> Loaded:
    """A folder of these migrations."""
    return Loaded(migrations, ())


def key(upcoming: Next) -> Key:
    """The key of an operation that is next."""
    return Key(database=upcoming.database, version=upcoming.version, number=upcoming.number)


def applied(upcoming: Next, seconds: float = 1.3) -> Event:
    """What a worker tells when a migration is applied."""
    return Event(
        at=datetime.now(UTC),
        kind="applied",
        database=upcoming.database,
        version=upcoming.version,
        text="change",
        seconds=seconds,
    )


def failed(upcoming: Next, text: str) -> Event:
    """What a worker tells when an operation failed for good."""
    return Event(
        at=datetime.now(UTC),
        kind="failed",
        database=upcoming.database,
        version=upcoming.version,
        text=text,
    )


def progress(upcoming: Next, **changes: object) -> Progress:
    """An operation that a worker has begun ten seconds ago."""
    now = time.time()
    shown = Progress(
        version=upcoming.version,
        name="change",
        number=upcoming.number,
        count=1,
        type="update_documents",
        summary="users",
        worker="celery@host",
        done=61_000,
        total=100_000,
        since=now - 10,
        heartbeat=now,
    )
    return shown.model_copy(update=changes)


def _record(file: Migration) -> MigrationRecord:
    return MigrationRecord(
        version=file.version,
        name=file.name,
        state=MigrationState.APPLIED,
        checksum=file.checksum,
        run="r",
        by="me",
        started=datetime.now(UTC),
    )


class AnyRuns(RunsAtWork, RunsSteered):
    """The runs as workers have them, and people too."""


class Driver:
    """Submits and works through a run by hand."""

    def __init__(self, redis: Redis, *migrations: Migration) -> None:
        self.redis = redis
        self.runs = AnyRuns(redis, NAMESPACE)
        self.migrations = migrations

    def submit(
        self, *, by: str = "me@here", whereabouts: dict[str, str] | None = None, **request: object
    ) -> Run:
        """Submit these migrations; return the run that does them."""
        wanted = Request.model_validate(request)
        run = make_run(loaded(*self.migrations), wanted, by, whereabouts or {})
        return self.runs.submit(run, self.migrations)

    def plan(self, run: Run, *applied: str) -> Plan:
        """Plan from journals in which nothing is there but what was `applied` before."""
        there = [each for each in self.migrations if each.reference in applied]
        surveys = {
            name: Survey(
                database=name,
                migrations=[_record(each) for each in there if each.database == name],
            )
            for name in run.surveyed
        }
        return plan(self.migrations, surveys, Request(databases=run.databases))

    def start(self, run: Run) -> list[Next]:
        """Plan, open every journal, and return what has become ready."""
        made = self.plan(run)
        assert self.runs.start(run, made)
        return [n for name in made.orders for n in self.runs.begun(run, name, 1)]

    def move(self, run: Run, upcoming: Next, *, last: bool = True) -> list[Next]:
        """End an operation."""
        following = None if last else upcoming.after
        return self.runs.moved(run, upcoming, following, applied(upcoming))

    def fail(self, run: Run, upcoming: Next, text: str = "E11000 duplicate key") -> None:
        """End an operation for good."""
        self.runs.failed(run, upcoming, failed(upcoming, text))
