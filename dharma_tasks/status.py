"""What is applied, pending and running: the journals, the folder and Redis, read side by side.

The journals are the truth (Law 1); `reading` says how they are reached. Redis only adds what is
alive; without it the journals still show everything that was committed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel
from redis import Redis
from redis.exceptions import RedisError

from dharma_tasks.bounds import Bounds
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Refused, Unreachable
from dharma_tasks.lease import Leases
from dharma_tasks.loader import read_folder
from dharma_tasks.migration import Key, Migration, order_of
from dharma_tasks.planner import half_undone
from dharma_tasks.reading import SURVEY, Answers, Relayed, Send, ask
from dharma_tasks.records import MigrationRecord, MigrationState, OperationState, Survey, applied
from dharma_tasks.redis_client import require_redis
from dharma_tasks.run import RunState, Snapshot
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.values import Values
from dharma_tasks.versions import Versions
from dharma_tasks.workers import Workers

__all__ = [
    "Alive",
    "DatabaseStatus",
    "Files",
    "MigrationStatus",
    "OperationStatus",
    "Pulse",
    "Status",
    "assemble",
    "at_work",
    "feel",
    "look",
    "read_files",
]


class OperationStatus(BaseModel):
    """One operation of a migration; see `OperationRecord`."""

    type: str
    state: OperationState
    done: int = 0
    total: int | None = None
    attempts: int = 0
    error: str | None = None
    worker: str | None = None


class MigrationStatus(BaseModel):
    """One migration, and how its file fits.

    `changed`: it is not what was applied any more; `missing`: it is not in the folder and should
    be (`newer`: it is above every file that is); `moved`: the version that its file says by now;
    `late`: it is below one that is applied already. `half_undone`: the only way from here is
    further back.
    """

    version: str
    name: str
    state: MigrationState
    operations: list[OperationStatus] = []
    started: datetime | None = None
    finished: datetime | None = None
    seconds: float | None = None
    by: str | None = None
    error: str | None = None
    changed: bool = False
    missing: bool = False
    newer: bool = False
    moved: str | None = None
    late: bool = False
    half_undone: bool = False


class Alive(BaseModel):
    """What a database does now. `age` is that of the last heartbeat, in seconds.

    `undo` says that the operation is being undone.
    """

    run: str
    version: str
    name: str
    operation: int
    operations: int
    undo: bool = False
    type: str
    summary: str
    done: int
    total: int | None
    rate: float
    age: float
    holder: str | None
    waiting: str | None


class DatabaseStatus(BaseModel):
    """One database. `current` is the highest applied version; `error` why it cannot be read.

    Then nothing of it is known; whoever watches is shown what there was `as_of` that time, as until
    it is read again after the end of a run. `known` is False where there is no URL and no live
    worker serves it.
    """

    current: str | None = None
    migrations: list[MigrationStatus] = []
    known: bool = True
    error: str | None = None
    as_of: datetime | None = None
    run: str | None = None
    run_state: RunState | None = None
    progress: Alive | None = None

    @property
    def applied(self) -> int:
        """How many migrations are applied."""
        return sum(found.state is MigrationState.APPLIED for found in self.migrations)

    def below(self, migration: MigrationStatus) -> str | None:
        """The highest applied version before `migration`, which is one of these."""
        before = self.migrations[: self.migrations.index(migration)]
        applied = [each.version for each in before if each.state is MigrationState.APPLIED]
        return applied[-1] if applied else None


class Status(BaseModel):
    """Everything. `redis` says why Redis cannot be read, None where it can.

    `problems` are those of the folder, where a submit would refuse it: what is pending is not
    known then.
    """

    databases: dict[str, DatabaseStatus]
    redis: str | None = None
    runs: list[str] = []
    workers: list[str] = []
    problems: list[str] = []

    @property
    def unreachable(self) -> bool:
        """Whether a database did not answer, or none is known at all."""
        states = self.databases.values()
        return any(found.error for found in states) or not any(found.known for found in states)


@dataclass(frozen=True)
class Pulse:
    """What Redis says at one moment; empty, but for the `error`, where it does not answer."""

    redis: Redis | None = None
    error: str | None = None
    snapshots: Sequence[Snapshot] = ()
    workers: tuple[str, ...] = ()
    served: frozenset[str] = frozenset()
    leases: Leases | None = None

    def snapshot(self, database: str) -> Snapshot | None:
        """The open run that has this database."""
        return next((found for found in self.snapshots if database in found.run.databases), None)


@dataclass(frozen=True)
class Files:
    """The migrations of a folder; None where it is not there, or where it has `problems`."""

    migrations: Sequence[Migration] | None = None
    problems: list[str] = field(default_factory=list)


def read_files(settings: Settings, folder: Path, surveys: Iterable[Survey]) -> Files:
    """Read the migrations of `folder`, if it is there; not what is wrong in what is applied."""
    if not folder.is_dir():
        return Files()
    try:
        values = Values(settings=settings.values, required=False)
        found = read_folder(folder, values, Bounds.of(settings))
        return Files(found.judged(applied(surveys)).migrations)
    except Refused as refused:
        return Files(problems=[str(problem) for problem in refused.problems])


def look(settings: Settings, folder: Path | None, send: Send) -> Status:
    """Read everything there is, at once; change nothing.

    `folder` is that of the migrations (None: the settings'), if it is there; `send` asks workers.
    What cannot be read is said in the result; nothing is raised.
    """
    pulse = _pulse(settings)
    answers = ask(SURVEY, NAMES, settings, Relayed(pulse.redis, pulse.served, send))
    files = read_files(settings, folder or settings.migrations_dir, answers.found.values())
    found = assemble(answers, files.migrations, pulse)
    return found.model_copy(update={"problems": files.problems})


def assemble(
    answers: Answers[Survey], migrations: Sequence[Migration] | None, pulse: Pulse
) -> Status:
    """Put together what the journals, the folder and Redis have said."""
    return Status(
        databases={name: _database(name, answers, migrations, pulse) for name in NAMES},
        redis=pulse.error,
        runs=[found.run.id for found in pulse.snapshots],
        workers=list(pulse.workers),
    )


def _pulse(settings: Settings) -> Pulse:
    try:
        return feel(require_redis(settings), settings)
    except (Unreachable, RedisError) as error:
        return Pulse(error=str(error))


def feel(redis: Redis, settings: Settings) -> Pulse:
    """Read what Redis says now.

    Raises:
        RedisError: it does not answer.
    """
    workers = Workers(redis, settings.namespace).alive()
    return Pulse(
        redis=redis,
        snapshots=Runs(redis, settings.namespace).open(),
        workers=tuple(worker.name for worker in workers),
        served=frozenset(name for worker in workers for name in worker.databases),
        leases=Leases(redis, settings.namespace, settings.lease_seconds),
    )


# -- put together --------------------------------------------------------------------------


def _database(
    name: str, answers: Answers[Survey], migrations: Sequence[Migration] | None, pulse: Pulse
) -> DatabaseStatus:
    survey = answers.found.get(name)
    error = answers.errors.get(name)
    known = survey is not None or error is not None
    snapshot = pulse.snapshot(name)
    alive = at_work(name, snapshot, pulse.leases)
    records = survey.by_version() if survey else {}
    files = {m.version: m for m in migrations or () if m.database == name} if survey else {}
    versions = sorted({*records, *files}, key=order_of)
    found = [_migration(records.get(version), files.get(version), alive) for version in versions]
    if files:
        _mark(found, Versions(list(files.values()), list(records.values())))
    done = [m.version for m in found if m.state is MigrationState.APPLIED]
    if alive and alive.version in done:  # the journal is ahead: the run is about to be told
        alive = None
    return DatabaseStatus(
        current=done[-1] if done else None,
        migrations=found,
        known=known,
        error=error,
        run=snapshot.run.id if snapshot else None,
        run_state=snapshot.state if snapshot else None,
        progress=alive,
    )


def at_work(name: str, snapshot: Snapshot | None, leases: Leases | None) -> Alive | None:
    """What an open run says of this database, as far as it is about its next operation."""
    if snapshot is None or leases is None:
        return None
    at, progress = snapshot.working.get(name), snapshot.progress.get(name)
    if not at or not progress or (at.version, at.number) != (progress.version, progress.number):
        return None
    holder = _holder(leases, Key(database=name, version=at.version, number=at.number))
    return Alive(
        run=snapshot.run.id,
        version=progress.version,
        name=progress.name,
        operation=progress.number,
        operations=progress.count,
        undo=at.until is not None,
        type=progress.type,
        summary=progress.summary,
        done=progress.done,
        total=progress.total,
        rate=round(progress.rate, 1),
        age=round(max(time.time() - progress.heartbeat, 0), 1),
        holder=holder,
        waiting=progress.waiting,
    )


def _holder(leases: Leases, key: Key) -> str | None:
    try:
        owner = leases.holder(key)
    except RedisError:
        return None
    return f"{owner.worker} (pid {owner.pid})" if owner else None


def _migration(
    record: MigrationRecord | None, file: Migration | None, alive: Alive | None
) -> MigrationStatus:
    types = [str(operation["type"]) for operation in file.operations] if file else []
    if file and record and any(each.number > len(types) for each in record.operations):
        types += [str(operation["type"]) for operation in file.rollback]  # which has begun
    if record is None:
        if file is None:
            raise ValueError
        pending = [OperationStatus(type=kind, state=OperationState.PENDING) for kind in types]
        return MigrationStatus(
            version=file.version, name=file.name, state=MigrationState.PENDING, operations=pending
        )
    return MigrationStatus(
        version=record.version,
        name=record.name,
        state=record.state,
        operations=list(_operations(record, types, alive)),
        started=record.started,
        finished=record.finished,
        seconds=record.seconds,
        by=record.by,
        error=record.error,
        changed=file is not None
        and file.checksum != record.checksum
        and record.state is not MigrationState.ROLLED_BACK,
        half_undone=half_undone(record, file),
    )


def _mark(found: Sequence[MigrationStatus], versions: Versions) -> None:
    """Say of each whether its file is missing, has another version by now, or is late."""
    moved = {r.version: file.version for r in versions.records if (file := versions.moved(r))}
    missing = {
        record.version: record
        for record in versions.without_file
        if versions.missing(record) or versions.newer(record) or record.version in moved
    }
    late = {file.version for file in versions.files if versions.late(file)} - {*moved.values()}
    for each in found:
        each.moved = moved.get(each.version)
        each.late = each.version in late
        each.missing = each.version in missing
        each.newer = each.missing and versions.newer(missing[each.version])


def _operations(
    record: MigrationRecord, types: Sequence[str], alive: Alive | None
) -> Iterator[OperationStatus]:
    """Those that the journal knows, the live one with its newest numbers, and those to come."""
    known = {operation.number: operation for operation in record.operations}
    for number in range(1, max([len(types), *known]) + 1):
        operation = known.get(number)
        if operation is None:
            yield OperationStatus(type=types[number - 1], state=OperationState.PENDING)
        else:
            live = alive and (alive.version, alive.operation) == (record.version, number)
            yield OperationStatus(
                type=operation.type,
                state=operation.state,
                done=max(operation.done, alive.done) if alive and live else operation.done,
                total=alive.total if alive and live else operation.total,
                attempts=operation.attempts,
                error=operation.error,
                worker=operation.worker,
            )
