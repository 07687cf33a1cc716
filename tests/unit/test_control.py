"""What is shown of an operation, and what the next worker on it learns from that."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from fake_run import NAMESPACE, Driver, key, migration, progress
from fakeredis import FakeRedis

from dharma_tasks.control import OperationControl
from dharma_tasks.errors import Cancelled, Halted
from dharma_tasks.identity import owner
from dharma_tasks.lease import Leases
from dharma_tasks.limits import Window
from dharma_tasks.messages import orphans
from dharma_tasks.records import OperationState
from dharma_tasks.run import Event, Next, Run
from dharma_tasks.work import Amount, Assignment, Taken

FIRST, SECOND = (Next("mongodb", "1.0.0", number) for number in (1, 2))


@pytest.fixture
def driver() -> Driver:
    """One migration of two operations."""
    redis = FakeRedis(decode_responses=True)
    return Driver(redis, migration("mongodb", "1.0.0", operations=2))


@pytest.fixture
def run(driver: Driver) -> Run:
    """A run that is at its first operation."""
    run = driver.submit()
    driver.start(run)
    return run


def make_control(driver: Driver, run: Run, window: Window | None = None) -> OperationControl:
    """Return what a worker has that begins on the first operation."""
    job = driver.runs.job(run.id, FIRST)
    leases = Leases(driver.redis, NAMESPACE, 10)
    return OperationControl(
        lease=leases.acquire(key(FIRST), owner("w", {}), run.id),
        leases=leases,
        runs=driver.runs,
        run=run.id,
        key=key(FIRST),
        progress=progress(FIRST, stuck_for=job.stuck_for, handed_on=job.handed_on),
        shutting_down=lambda: False,
        window=window,
    )


def make_taken() -> Taken:
    """Return what the journal answers to who takes the operation over."""
    assignment = Assignment(
        run="r",
        generation=1,
        by="me",
        key=key(FIRST),
        name="n",
        checksum="c",
        type="kind_1",
        count=2,
    )
    return Taken(assignment, 1, OperationState.RUNNING)


def test_the_next_worker_learns_for_how_long_it_has_been_stuck(driver: Driver, run: Run) -> None:
    """Until it moves, whoever has it: also where the same worker has it again in between."""
    first = make_control(driver, run)
    first.waiting("lock timeout", stuck_for=12.0)
    first.report(make_taken(), stuck_for=12.0)
    first.lease.release()
    second = make_control(driver, run)
    assert (second.progress.stuck_for, second.progress.handed_on) == (12.0, False)
    second.report(make_taken(), stuck_for=0.0)
    assert driver.runs.job(run.id, FIRST).stuck_for == 0


def test_the_next_worker_learns_that_it_was_handed_on(driver: Driver, run: Run) -> None:
    """Until one has taken the operation over: from then on its end is an attempt of its own."""
    first = make_control(driver, run)
    first.waiting("connection refused", stuck_for=12.0, handed_on=True)
    first.lease.release()
    second = make_control(driver, run)
    assert second.progress.handed_on
    second.report(make_taken(), stuck_for=12.0)
    left = driver.runs.job(run.id, FIRST)
    assert (left.stuck_for, left.handed_on) == (12.0, False)


def test_what_is_over_soon_is_not_shown(driver: Driver, run: Run) -> None:
    """A small operation costs no message to Redis for its progress bar."""
    control = make_control(driver, run)
    control._reported = time.time() + 60
    control.report(make_taken(), stuck_for=0.0)
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.progress == {}


def test_another_operation_was_stuck(driver: Driver, run: Run) -> None:
    """What is shown of a database may still be its former operation."""
    make_control(driver, run).waiting("connection refused", stuck_for=12.0, handed_on=True)
    driver.move(run, FIRST, last=False)
    second = driver.runs.job(run.id, SECOND)
    assert (second.stuck_for, second.handed_on) == (0, False)


def closed_for(seconds: float) -> Window:
    """A window that opens then."""
    now = datetime.now(UTC)
    opens = (now + timedelta(seconds=seconds)).time()
    return Window(start=opens, end=(now - timedelta(seconds=60)).time(), timezone="UTC")


def orphaned(driver: Driver, run: Run) -> list[list[str]]:
    """The tasks that a rescuer would send."""
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    found = orphans(driver.runs, Leases(driver.redis, NAMESPACE, 10), snapshot, ["mongodb"])
    return [[message.task for message in chain] for _, chain in found]


def test_outside_its_window_it_rests_and_nobody_sends_it(driver: Driver, run: Run) -> None:
    """From the first question on; when the window opens, rescuers send it as any orphan."""
    control = make_control(driver, run, closed_for(3))
    with pytest.raises(Halted, match="outside the window"):
        control.check()
    control.lease.release()
    assert orphaned(driver, run) == []
    until = time.monotonic() + 60
    while not orphaned(driver, run):
        assert time.monotonic() < until
    make_control(driver, run, control.window).check()


def test_a_cancelled_run_turns_back_outside_its_window(driver: Driver, run: Run) -> None:
    """It does nothing more but to say what is to be undone, which then rests on its own."""
    control = make_control(driver, run, closed_for(60))
    with pytest.raises(Halted):
        control.check()
    control.lease.release()
    driver.runs.cancel(run, Event(at=datetime.now(UTC), kind="cancelled", text=""), keep=False)
    assert orphaned(driver, run) == [["mongodb.kind_1"]]
    with pytest.raises(Cancelled):
        make_control(driver, run, control.window).check()


def test_inside_its_window_it_works(driver: Driver, run: Run) -> None:
    """As without one."""
    now = datetime.now(UTC)
    ends = [(now + timedelta(seconds=each)).time() for each in (-60, 60)]
    make_control(driver, run, Window(start=ends[0], end=ends[1], timezone="UTC")).check()


def test_a_long_statement_shows_how_far_it_is(driver: Driver, run: Run) -> None:
    """In the operation's place, at a rate of its own; each phase begins anew, as does a batch."""
    control = make_control(driver, run)
    control.report(make_taken(), 0)

    def shown() -> tuple[int, int | None, int]:
        snapshot = driver.runs.snapshot(run.id)
        assert snapshot is not None
        found = snapshot.progress["mongodb"]
        return found.done, found.total, found.since_done

    for done, total, begun in ((5, 100, 5), (60, 100, 5), (8, 100, 8), (9, 70, 9)):
        control.alive(Amount(done, total))
        assert shown() == (done, total, begun)
    control.alive()
    assert shown()[0] == 0
