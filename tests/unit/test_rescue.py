"""Law 5: work that nobody does is sent again, once an interval over all workers."""

from __future__ import annotations

from datetime import UTC, datetime

import fakeredis
import pytest
from redis import Redis

from dharma_tasks.identity import owner
from dharma_tasks.lease import Leases
from dharma_tasks.messages import Message
from dharma_tasks.migration import Key, Migration
from dharma_tasks.planner import Request, plan
from dharma_tasks.records import MigrationRecord, MigrationState, Survey
from dharma_tasks.rescue import Rescuer
from dharma_tasks.run import Event, Next, Progress, Run, RunState
from dharma_tasks.runs_at_work import RunsAtWork
from dharma_tasks.settings import Settings

KEY = Key(database="mongodb", version="1.0.0", number=1)


@pytest.fixture
def redis() -> Redis:
    """A Redis of the test's own."""
    return fakeredis.FakeRedis(decode_responses=True)


@pytest.fixture
def settings() -> Settings:
    """Settings with an interval that a test need not wait for."""
    return Settings(_env_file=None, rescue_seconds=0.1)


@pytest.fixture
def runs(redis: Redis) -> RunsAtWork:
    """The runs of the default namespace."""
    return RunsAtWork(redis, "dharma")


def make_migration() -> Migration:
    """Return a migration of two operations."""
    return Migration(
        database="mongodb",
        version="1.0.0",
        name="n",
        migration_type="data",
        operations=({"type": "a"}, {"type": "b"}),
        file="mongodb/001_n.json",
    ).with_checksum()


@pytest.fixture
def run(runs: RunsAtWork) -> Run:
    """A run that was just submitted: nothing was sent."""
    made = Run(
        id="r1",
        created=datetime.now(UTC),
        by="me",
        target="latest",
        databases=("mongodb",),
        surveyed=("mongodb",),
        fingerprint="f",
    )
    return runs.submit(made, [make_migration()])


def rescuer(redis: Redis, settings: Settings, queued: int = 0) -> Rescuer:
    """Return a worker's rescuer, as it is after its start."""
    return Rescuer(settings, redis, ["mongodb"], queued=lambda database: queued)


def begin(runs: RunsAtWork, run: Run) -> None:
    """Bring the run to where its first operation is next."""
    survey = Survey(database="mongodb")
    made = plan([make_migration()], {"mongodb": survey}, Request(target="latest"))
    assert runs.start(run, made)
    assert runs.begun(run, "mongodb", 1) == [Next("mongodb", "1.0.0", 1)]


def names(chains: list[list[Message]]) -> list[list[str]]:
    """Return the tasks of each chain."""
    return [[message.task for message in chain] for chain in chains]


def test_a_submit_that_died_before_it_sent(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """A run without its survey is surveyed; without its beginning, begun."""
    assert names(rescuer(redis, settings).look()) == [["survey"]]
    survey = Survey(database="mongodb")
    runs.start(run, plan([make_migration()], {"mongodb": survey}, Request(target="latest")))
    assert names(rescuer(redis, settings).look()) == [["begin"]]


def test_the_rest_of_the_chain(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """What is sent again begins with the operation that is next, not with the first."""
    begin(runs, run)
    assert names(rescuer(redis, settings).look()) == [["mongodb.a", "mongodb.b"]]
    event = Event(at=datetime.now(UTC), kind="applied", text="")
    at = Next("mongodb", "1.0.0", 1)
    runs.moved(run, at, at.after, event)
    assert names(rescuer(redis, settings).look()) == [["mongodb.b"]]


def test_a_plan_with_nothing_to_do_whose_worker_died(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """It is ended, or every later submit would wait for it."""
    applied = MigrationRecord(
        version="1.0.0",
        name="n",
        state=MigrationState.APPLIED,
        checksum=make_migration().checksum,
        run="r0",
        by="me",
        started=datetime.now(UTC),
    )
    survey = Survey(database="mongodb", migrations=[applied])
    runs.start(run, plan([make_migration()], {"mongodb": survey}, Request(target="latest")))
    assert runs.state(run.id) is RunState.RUNNING
    assert rescuer(redis, settings).look() == []
    assert runs.state(run.id) is RunState.DONE


def test_progress_shortens_the_interval_again(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """An operation that moves between two deaths of its worker is not made to wait longer."""
    begin(runs, run)
    name = f"{run.id}:{KEY}"
    waits = []
    for _ in range(6):
        assert runs.claim_rescue(name, 1)
        waits.append(redis.pttl(f"dharma:rescue:{name}"))
        redis.delete(f"dharma:rescue:{name}")
    assert max(waits[:3]) <= 1_000
    assert waits[3:] == sorted(waits[3:])
    assert waits[-1] > 4_000
    runs.report(run.id, "mongodb", make_progress())
    assert runs.claim_rescue(name, 1)
    assert redis.pttl(f"dharma:rescue:{name}") <= 1_000


def make_progress() -> Progress:
    """Return the progress of the first operation."""
    return Progress(
        version="1.0.0",
        name="n",
        number=1,
        count=2,
        type="a",
        summary="",
        worker="w",
        since=0,
        heartbeat=1,
    )


def test_a_live_lease_is_left_alone(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """Somebody works on it; a dead neighbour's lease does not count."""
    begin(runs, run)
    leases = Leases(redis, "dharma", 10)
    lease = leases.acquire(KEY, owner("w", {}), run.id)
    assert rescuer(redis, settings).look() == []
    lease.release()
    dead = owner("w", {})
    leases.acquire(KEY, dead.model_copy(update={"started": dead.started - 1}), run.id)
    assert names(rescuer(redis, settings).look()) == [["mongodb.a", "mongodb.b"]]


def test_what_is_queued_is_left_alone(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """Messages that wait for a busy worker are not multiplied."""
    begin(runs, run)
    assert rescuer(redis, settings, queued=1).look() == []


def test_once_an_interval_over_all_workers(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """FAULTS 26: of many rescuers that see the same orphan one sends it, later and later."""
    begin(runs, run)
    claim, seconds = f"dharma:rescue:r1:{KEY}", 10
    slow = settings.model_copy(update={"rescue_seconds": seconds})
    sent = [rescuer(redis, slow).look() for _ in range(5)]
    assert [len(chains) for chains in sent] == [1, 0, 0, 0, 0]
    for _ in range(3):
        assert redis.pttl(claim) <= seconds * 1000
        redis.delete(claim)
        assert rescuer(redis, slow).look()
    assert redis.pttl(claim) > seconds * 1000


def test_the_gap_between_two_operations_is_not_an_orphan(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """A worker that has looked before waits for a second look that says the same."""
    begin(runs, run)
    leases = Leases(redis, "dharma", 10)
    lease = leases.acquire(KEY, owner("w", {}), run.id)
    looking = rescuer(redis, settings)
    assert looking.look() == []
    lease.release()
    assert looking.look() == []
    assert names(looking.look()) == [["mongodb.a", "mongodb.b"]]


def test_a_run_that_is_over_is_left_alone(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """Nothing of it is sent any more."""
    begin(runs, run)
    runs.end(run, RunState.CANCELLED, [])
    assert rescuer(redis, settings).look() == []


def test_ranges_that_nobody_has(
    redis: Redis, settings: Settings, runs: RunsAtWork, run: Run
) -> None:
    """They are sent for while somebody has their operation; else that one is, which has them."""
    begin(runs, run)
    leases = Leases(redis, "dharma", 10)
    runs.ranges(run.id, KEY, [1, 2, 4])
    assert names(rescuer(redis, settings).look()) == [["mongodb.a", "mongodb.b"]]
    me = owner("me", {})
    leases.acquire(KEY, me, run.id)
    leases.acquire(KEY.of_range(2), me, run.id)
    sent = [chain[0] for chain in rescuer(redis, settings).look()]
    assert [(each.task, each.arguments["range"], each.spare) for each in sent] == [
        ("mongodb.a", 1, True),
        ("mongodb.a", 4, True),
    ]
    assert rescuer(redis, settings).look() == [], "once an interval"


def test_no_ranges_once_the_operation_is_over(redis: Redis, runs: RunsAtWork, run: Run) -> None:
    """Nor can a worker that was frozen in it name any then."""
    begin(runs, run)
    runs.ranges(run.id, KEY, [1, 2])
    at = Next("mongodb", "1.0.0", 1)
    runs.moved(run, at, at.after, Event(at=datetime.now(UTC), kind="applied", text=""))
    runs.ranges(run.id, KEY, [1])
    snapshot = runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.ranges == {}
    runs.ranges("unknown", KEY, [1])
    assert runs.snapshot("unknown") is None
    assert redis.keys("dharma:run:unknown*") == []
