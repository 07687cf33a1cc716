"""The run's record: who has which database, what is next, and how a run ends."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from fake_run import NAMESPACE, Driver, applied, failed, migration, progress
from fakeredis import FakeRedis

from dharma_tasks.dispatch import shown
from dharma_tasks.errors import Problem, Stopped
from dharma_tasks.messages import operation_chain
from dharma_tasks.migration import reference
from dharma_tasks.records import Direction, Survey
from dharma_tasks.run import Ended, Event, Next, RunState
from dharma_tasks.runs import OPEN_SECONDS, OVER_SECONDS, Busy, Runs

M1, M2, M3 = (Next("mongodb", version, 1) for version in ("1.0.0", "1.1.0", "1.2.0"))
P1, P2 = (Next("postgresql", version, 1) for version in ("1.0.0", "1.1.0"))


@pytest.fixture
def redis() -> FakeRedis:
    """A Redis with nothing in it."""
    return FakeRedis(decode_responses=True)


@pytest.fixture
def crossed(redis: FakeRedis) -> Driver:
    """Two databases whose migrations wait for each other: m1, then p1, then m2; p2, m3 free."""
    return Driver(
        redis,
        migration("mongodb", "1.0.0"),
        migration("mongodb", "1.1.0", "postgresql:1.0.0"),
        migration("mongodb", "1.2.0"),
        migration("postgresql", "1.0.0", "mongodb:1.0.0"),
        migration("postgresql", "1.1.0"),
    )


# -- submit --------------------------------------------------------------------------------


def test_a_submit_claims_its_databases(crossed: Driver) -> None:
    """After a submit the run is planning, and every worker can read its migrations."""
    run = crossed.submit()
    snapshot = crossed.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.state is RunState.PLANNING
    assert run.databases == ("mongodb", "postgresql")
    assert {m.reference for m in crossed.runs.migrations(run)} == {
        m.reference for m in crossed.migrations
    }
    assert [found.run.id for found in crossed.runs.open()] == [run.id]


def test_the_same_submit_joins(crossed: Driver) -> None:
    """Two that want the same get one run, whoever asks."""
    run = crossed.submit()
    assert crossed.submit(by="you@there").id == run.id


def test_another_submit_is_told_who_is_active(crossed: Driver) -> None:
    """One that wants something else on a shared database waits for its turn."""
    run = crossed.submit()
    with pytest.raises(Busy, match=f"run {run.id} is active on postgresql") as caught:
        crossed.submit(databases=("postgresql",))
    assert caught.value.other == run.id


def test_runs_without_a_shared_database_are_both_active(redis: FakeRedis) -> None:
    """A run of one database does not keep another database waiting."""
    driver = Driver(redis, migration("mongodb", "1.0.0"), migration("postgresql", "1.0.0"))
    first = driver.submit(databases=("mongodb",))
    second = driver.submit(databases=("postgresql",))
    assert {found.run.id for found in driver.runs.open()} == {first.id, second.id}


def test_two_directions_that_rely_on_each_other(crossed: Driver) -> None:
    """What one run is undoing another one must not build on, in whatever database it does so."""
    back = {"direction": Direction.BACK, "target": "0.0.0"}
    forward = crossed.submit(databases=("postgresql",))
    with pytest.raises(Busy, match=f"run {forward.id} is active on mongodb"):
        crossed.submit(databases=("mongodb",), **back)
    crossed.runs.end(forward, RunState.CANCELLED, [])
    undoing = crossed.submit(databases=("mongodb",), **back)
    with pytest.raises(Busy, match=f"run {undoing.id} is active on mongodb"):
        crossed.submit(databases=("postgresql",))
    assert crossed.submit(databases=("postgresql",), **back)


def test_two_directions_that_have_nothing_in_common(redis: FakeRedis) -> None:
    """Databases whose migrations do not depend on each other may go in both at once."""
    driver = Driver(redis, migration("mongodb", "1.0.0"), migration("postgresql", "1.0.0"))
    driver.submit(databases=("mongodb",))
    driver.submit(databases=("postgresql",), direction=Direction.BACK, target="0.0.0")
    assert len(driver.runs.open()) == 2


def test_a_claim_whose_run_is_gone_is_taken(crossed: Driver, redis: FakeRedis) -> None:
    """Redis may lose a run's record and keep the claim: the next submit is not held up by it."""
    run = crossed.submit()
    redis.delete(f"{NAMESPACE}:run:{run.id}")
    again = crossed.submit(databases=("mongodb",))
    assert again.id != run.id
    assert redis.hget(f"{NAMESPACE}:active", "mongodb") == again.id


# -- start, advance ------------------------------------------------------------------------


def test_surveys_are_collected(crossed: Driver) -> None:
    """Whoever brings a survey sees which ones are there."""
    run = crossed.submit()
    assert set(crossed.runs.put_survey(run, Survey(database="mongodb"))) == {"mongodb"}
    both = crossed.runs.put_survey(run, Survey(database="postgresql"))
    assert set(both) == crossed.runs.surveyed(run) == {"mongodb", "postgresql"}


def test_only_one_worker_starts_a_run(crossed: Driver) -> None:
    """Two workers that bring the last survey at once make one plan."""
    run = crossed.submit()
    plan = crossed.plan(run)
    assert crossed.runs.start(run, plan)
    assert not crossed.runs.start(run, plan)
    assert crossed.runs.plan(run) == plan


def test_nothing_begins_before_its_journal_is_open(crossed: Driver) -> None:
    """A database whose generation was not raised has nothing ready (Law 2)."""
    run = crossed.submit()
    crossed.runs.start(run, crossed.plan(run))
    assert crossed.runs.advance(run) == []
    assert crossed.runs.begun(run, "mongodb", 1) == [M1]


def test_migrations_wait_for_other_databases(crossed: Driver) -> None:
    """Each migration begins when what it depends on is applied, and not before."""
    run = crossed.submit()
    assert crossed.start(run) == [M1]
    assert crossed.move(run, M1) == [P1]
    assert set(crossed.move(run, P1)) == {M2, P2}
    assert crossed.move(run, P2) == []
    assert crossed.move(run, M2) == [M3]
    assert crossed.runs.state(run.id) is RunState.RUNNING
    assert crossed.move(run, M3) == []
    assert crossed.runs.state(run.id) is RunState.DONE


def test_a_dependency_must_be_confirmed_by_its_database(crossed: Driver) -> None:
    """Redis saying that a dependency is applied is a hint: its journal has to say so (Law 7)."""
    run = crossed.submit()
    crossed.start(run)
    crossed.move(run, M1)
    wanted = Next("postgresql", "1.0.0", 1)
    with pytest.raises(Stopped, match=r"waits until mongodb:1\.0\.0 is confirmed"):
        crossed.runs.job(run.id, wanted)
    crossed.runs.confirm(run, reference("mongodb", "1.0.0"))
    assert crossed.runs.job(run.id, wanted).generation == 1


def test_a_dependency_outside_of_the_plan_is_confirmed_too(crossed: Driver) -> None:
    """It was applied when the journals were read; since then somebody may have undone it."""
    run = crossed.submit(databases=("postgresql",))
    made = crossed.plan(run, "mongodb:1.0.0")
    assert crossed.runs.start(run, made)
    assert crossed.runs.begun(run, "postgresql", 1) == [P1]
    chain = operation_chain(crossed.runs, run, P1)
    assert [message.task for message in chain] == ["confirm", "postgresql.kind_1"]
    with pytest.raises(Stopped, match=r"waits until mongodb:1\.0\.0 is confirmed"):
        crossed.runs.job(run.id, P1)
    crossed.runs.confirm(run, reference("mongodb", "1.0.0"))
    assert crossed.move(run, P1) == [P2]
    assert [message.task for message in operation_chain(crossed.runs, run, P2)] == [
        "postgresql.kind_1"
    ]


def test_flower_shows_which_migration_and_operation(crossed: Driver) -> None:
    """The arguments have the name, as people know the migration, and which operation of how many.

    Of a run that an older release has submitted nobody kept the names.
    """
    run = crossed.submit(databases=("postgresql",))
    assert crossed.runs.start(run, crossed.plan(run, "mongodb:1.0.0"))
    chain = operation_chain(crossed.runs, run, P1)
    assert [shown(message) for message in chain] == [
        f"database mongodb, version 1.0.0 change, run {run.id}",
        f"version 1.0.0 change, operation 1 of 1, run {run.id}",
    ]
    crossed.redis.delete(f"{NAMESPACE}:run:{run.id}:names")
    older = operation_chain(crossed.runs, run, P1)
    assert [shown(message) for message in older] == [
        f"database mongodb, version 1.0.0, run {run.id}",
        f"version 1.0.0, operation 1 of 1, run {run.id}",
    ]
    assert older == chain


def test_what_turns_back_waits_for_nobody(crossed: Driver) -> None:
    """A run that is cancelled before its dependency is confirmed could not end otherwise."""
    run = crossed.submit(databases=("postgresql",))
    assert crossed.runs.start(run, crossed.plan(run, "mongodb:1.0.0"))
    crossed.runs.begun(run, "postgresql", 1)
    crossed.runs.cancel(run, applied(P1), keep=False)
    assert crossed.runs.job(run.id, P1).cancelled
    undo = P1._replace(until=1)
    crossed.runs.moved(run, P1, undo, applied(P1), ended=False)
    assert crossed.runs.job(run.id, undo).at == undo


def test_what_is_confirmed_is_not_asked_again(crossed: Driver) -> None:
    """Its database may be away by then, and has nothing to add."""
    run = crossed.submit(databases=("postgresql",), direction=Direction.BACK, target="0.0.0")
    assert crossed.runs.start(run, crossed.plan(run, "mongodb:1.0.0"))
    crossed.runs.begun(run, "postgresql", 1)
    crossed.runs.confirm(run, reference("mongodb", "1.0.0"))
    chain = operation_chain(crossed.runs, run, P1)
    assert [message.task for message in chain] == ["postgresql.kind_1"]


def test_a_run_with_nothing_to_do_is_done(crossed: Driver) -> None:
    """An empty plan ends at once and gives the databases back."""
    run = crossed.submit()
    empty = crossed.plan(run).model_copy(update={"orders": {}, "dependencies": {}})
    assert crossed.runs.start(run, empty)
    assert crossed.runs.advance(run) == []
    assert crossed.runs.state(run.id) is RunState.DONE
    assert crossed.runs.open() == []


# -- operations ----------------------------------------------------------------------------


def test_operations_follow_each_other(redis: FakeRedis) -> None:
    """Only the last operation's end applies the migration."""
    driver = Driver(redis, migration("mongodb", "1.0.0", operations=2))
    run = driver.submit()
    (first,) = driver.start(run)
    assert driver.move(run, first, last=False) == []
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.working == {"mongodb": Next("mongodb", "1.0.0", 2)}
    assert snapshot.done == {}
    driver.move(run, Next("mongodb", "1.0.0", 2))
    assert driver.runs.state(run.id) is RunState.DONE


def test_a_duplicate_moves_nothing(crossed: Driver) -> None:
    """The second delivery that ends an operation is told to stop, and counts nothing (Law 6)."""
    run = crossed.submit()
    crossed.start(run)
    crossed.move(run, M1)
    with pytest.raises(Stopped, match=r"mongodb:1\.0\.0#1 was finished by another delivery"):
        crossed.move(run, M1)
    snapshot = crossed.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.done == {"mongodb": 1}
    assert len(crossed.runs.events(run.id)) == 1


def test_a_job_is_given_for_the_next_operation_only(crossed: Driver) -> None:
    """A delivery for an operation that is not next, or for no run at all, stops."""
    run = crossed.submit()
    crossed.start(run)
    job = crossed.runs.job(run.id, M1)
    assert (job.run, job.migration.version, job.generation) == (run, "1.0.0", 1)
    with pytest.raises(Stopped, match=r"is at 1\.0\.0 1 in mongodb"):
        crossed.runs.job(run.id, M2)
    with pytest.raises(Stopped, match="not known"):
        crossed.runs.job("nobody", M1)


def test_progress_is_shown_until_the_migration_ends(crossed: Driver) -> None:
    """What a worker reports is in the snapshot, and gone when its migration is applied."""
    run = crossed.submit()
    crossed.start(run)
    shown = progress(M1)
    crossed.runs.report(run.id, "mongodb", shown)
    snapshot = crossed.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.progress == {"mongodb": shown}
    assert shown.rate == pytest.approx(6100)
    crossed.move(run, M1)
    snapshot = crossed.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.progress == {}


# -- ends ----------------------------------------------------------------------------------


def test_a_failure_lets_others_finish(redis: FakeRedis) -> None:
    """After a failure nothing new begins; what is open ends, and then the run has failed."""
    driver = Driver(
        redis,
        migration("mongodb", "1.0.0"),
        migration("mongodb", "1.1.0"),
        migration("postgresql", "1.0.0", operations=2),
        migration("postgresql", "1.1.0"),
    )
    run = driver.submit()
    assert set(driver.start(run)) == {M1, P1}
    driver.fail(run, M1)
    assert driver.runs.state(run.id) is RunState.FAILING
    assert driver.move(run, P1, last=False) == []
    assert driver.runs.state(run.id) is RunState.FAILING
    assert driver.move(run, Next("postgresql", "1.0.0", 2)) == []
    assert driver.runs.state(run.id) is RunState.FAILED
    assert [event.kind for event in driver.runs.events(run.id)] == ["failed", "applied"]


def test_who_waits_is_told_of_once(crossed: Driver) -> None:
    """Several workers that try again and again make no list that grows."""
    run = crossed.submit()
    for _ in range(50):
        for worker in ("one", "two"):
            event = Event(at=datetime.now(UTC), kind="waiting", text=f"{worker} has no key")
            crossed.runs.add_event(run.id, event)
    told = [each.text for each in crossed.runs.events(run.id)]
    assert told == ["one has no key", "two has no key"]
    crossed.redis.rpush(f"{NAMESPACE}:run:{run.id}:events", "garbage")
    crossed.runs.add_event(run.id, event)


def test_a_failure_is_told_once(crossed: Driver) -> None:
    """The duplicate of a failed operation changes nothing."""
    run = crossed.submit()
    crossed.start(run)
    crossed.fail(run, M1)
    crossed.fail(run, M1)
    assert crossed.runs.state(run.id) is RunState.FAILED
    assert len(crossed.runs.events(run.id)) == 1


def test_an_end_before_its_time(crossed: Driver) -> None:
    """A refused plan ends the run with its reasons, once; the first end stays."""
    run = crossed.submit()
    problem = Problem("mongodb/1.json", "version", "comes late", "Renumber it.")
    crossed.runs.end(run, RunState.REFUSED, [problem])
    crossed.runs.end(run, RunState.CANCELLED, [])
    snapshot = crossed.runs.snapshot(run.id)
    assert snapshot is not None
    assert (snapshot.state, snapshot.problems) == (RunState.REFUSED, [problem])
    with pytest.raises(Stopped, match="is refused"):
        crossed.runs.job(run.id, M1)


@pytest.mark.parametrize("end", ["done", "failed", "ended"])
def test_the_end_gives_everything_back(redis: FakeRedis, end: str) -> None:
    """However a run ends: its claims are free, it is not open, and each of its keys runs out."""
    driver = Driver(
        redis,
        migration("mongodb", "1.0.0", "postgresql:1.0.0"),
        migration("postgresql", "1.0.0"),
    )
    run = driver.submit()
    driver.runs.put_survey(run, Survey(database="mongodb"))
    (first,) = driver.start(run)
    assert all(redis.ttl(name) > OVER_SECONDS for name in redis.keys(f"{NAMESPACE}:run:*"))
    driver.runs.confirm(run, first.database + ":1.0.0")
    driver.runs.report(run.id, first.database, progress(first))
    if end == "done":
        (second,) = driver.move(run, first)
        driver.move(run, second)
    elif end == "failed":
        driver.fail(run, first)
    else:
        driver.runs.end(run, RunState.CANCELLED, [])
    assert redis.hgetall(f"{NAMESPACE}:active") == {}
    assert driver.runs.open() == []
    left = {name: redis.ttl(name) for name in redis.keys(f"{NAMESPACE}:run:*")}
    assert left
    assert all(0 < ttl <= OVER_SECONDS for ttl in left.values()), left
    assert OPEN_SECONDS > OVER_SECONDS
    assert driver.submit().id != run.id


def test_the_end_keeps_the_claims_of_others(crossed: Driver, redis: FakeRedis) -> None:
    """A run that ends late does not free a database that another run has by now."""
    run = crossed.submit()
    redis.hset(f"{NAMESPACE}:active", "mongodb", "another")
    crossed.runs.end(run, RunState.CANCELLED, [])
    assert redis.hgetall(f"{NAMESPACE}:active") == {"mongodb": "another"}


def test_ends_are_counted(crossed: Driver) -> None:
    """By state, each run once; a refused one does not hide how the one before it has ended."""
    failing = crossed.submit()
    (at,) = crossed.start(failing)
    for _ in range(2):
        crossed.fail(failing, at)
    refused = crossed.submit()
    for _ in range(2):
        crossed.runs.end(refused, RunState.REFUSED, [])
    assert crossed.runs.ended() == Ended(
        {RunState.FAILED: 1, RunState.REFUSED: 1},
        dict.fromkeys(("mongodb", "postgresql"), RunState.FAILED),
    )
    away = crossed.submit(databases=("postgresql",))
    crossed.runs.end(away, RunState.UNREACHABLE, [])
    cancelled = crossed.submit(databases=("postgresql",))
    event = Event(at=datetime.now(UTC), kind="cancelled", text="")
    crossed.runs.cancel(cancelled, event, keep=False)
    assert crossed.runs.ended().last == {
        "mongodb": RunState.FAILED,
        "postgresql": RunState.CANCELLED,
    }


def test_a_run_that_redis_does_not_know(redis: FakeRedis) -> None:
    """A run that Redis has lost has no state and no snapshot."""
    runs = Runs(redis, NAMESPACE)
    assert runs.state("gone") is None
    assert runs.snapshot("gone") is None


# -- the way back --------------------------------------------------------------------------


def test_what_failed_turns_back(redis: FakeRedis) -> None:
    """Its operations are undone from the one that failed; the run ends when that is done."""
    driver = Driver(
        redis, migration("mongodb", "1.0.0", operations=3), migration("mongodb", "1.1.0")
    )
    run = driver.submit()
    (begun,) = driver.start(run)
    driver.move(run, begun, last=False)
    at = begun.after
    undo = at._replace(until=1)
    assert driver.runs.failed(run, at, failed(at, "no"), undo) == [undo]
    assert driver.runs.failed(run, at, failed(at, "no"), undo) == []
    assert driver.runs.state(run.id) is RunState.FAILING
    job = driver.runs.job(run.id, undo)
    assert (job.at, undo.rest(3, 0)) == (undo, [undo, undo.after])
    with pytest.raises(Stopped):
        driver.runs.job(run.id, at)
    assert driver.runs.moved(run, undo, undo.after, applied(undo), ended=False) == []
    assert driver.runs.moved(run, undo.after, None, applied(undo), ended=False) == []
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    assert (snapshot.state, snapshot.done) == (RunState.FAILED, {})


def test_a_run_back_begins_where_the_plan_says(redis: FakeRedis) -> None:
    """At the last operation of each migration, or in its rollback file."""
    driver = Driver(
        redis, migration("mongodb", "1.0.0", operations=2), migration("mongodb", "1.1.0")
    )
    run = driver.submit()
    file = Next("mongodb", "1.1.0", 2)
    made = driver.plan(run).model_copy(
        update={
            "orders": {"mongodb": ("1.1.0", "1.0.0")},
            "first": {"mongodb:1.1.0": file.text, "mongodb:1.0.0": "1.0.0 2 1"},
        }
    )
    assert driver.runs.start(run, made)
    assert driver.runs.begun(run, "mongodb", 1) == [file]
    assert file.rest(1, 2) == [file, file.after]
    driver.runs.moved(run, file, file.after, applied(file))
    (undo,) = driver.runs.moved(run, file.after, None, applied(file))
    assert undo == Next("mongodb", "1.0.0", 2, until=1)


@pytest.mark.parametrize("accepted", [True, False])
def test_what_the_plan_passes_over(redis: FakeRedis, *, accepted: bool) -> None:
    """That is of one operation, as it was planned, and only where a person has accepted it."""
    driver = Driver(redis, migration("mongodb", "1.0.0", operations=2))
    asked = {"direction": Direction.BACK, "target": "0.0.0", "accept_data_loss": accepted}
    run = driver.submit(**asked)
    made = driver.plan(run)
    over = {reference("mongodb", "1.0.0"): (2,)}
    assert driver.runs.start(run, made.model_copy(update={"passed_over": over}))
    driver.runs.begun(run, "mongodb", 1)
    found = []
    for number in (2, 1):
        at = Next("mongodb", "1.0.0", number, 1)
        redis.hset(f"{NAMESPACE}:run:{run.id}", "working:mongodb", at.text)
        found.append(driver.runs.passes_over(driver.runs.job(run.id, at)))
    assert found == [accepted, False]
