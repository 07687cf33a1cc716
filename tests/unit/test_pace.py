"""The size of batches and the length of pauses."""

from __future__ import annotations

import pytest

from dharma_tasks.pace import LARGEST, START, Bounds, Pace


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def passes(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock in the test's hand."""
    return Clock(monkeypatch)


def throttled(clock: Clock, pace: Pace, until: float, seconds: float = 0.1) -> int:
    """Do batches that take `seconds` each, until the clock says so; returns the documents."""
    done = 0
    while clock.now + pace.owed < until:
        clock.passes(pace.owed)
        clock.passes(seconds)
        size = pace.size
        done += size
        pace.went_well(seconds, done=size)
    return done


def test_keeps_within_the_bounds() -> None:
    """From the first batch on, however fast or slow they are."""
    pace = Pace(1.0, bounds=Bounds(least=100, most=300))
    assert pace.size == 300
    for _ in range(10):
        pace.went_well(60.0)
    assert pace.size == 100
    for _ in range(10):
        pace.went_well(0.01)
    assert pace.size == 300
    assert Pace(1.0, bounds=Bounds(least=5_000)).size == 5_000


def test_the_operations_own_time_wins() -> None:
    """`seconds` of the bounds is what batches are brought to."""
    pace = Pace(1.0, bounds=Bounds(seconds=0.5))
    pace.went_well(1.0)
    assert pace.size == START / 2


def test_a_conflict_goes_below_the_least() -> None:
    """Bounds are a wish; a batch that can never commit is no work (FAULTS 9)."""
    pace = Pace(1.0, bounds=Bounds(least=1_000, most=1_000))
    pace.conflicted()
    assert pace.size == 500
    pace.went_well(0.1)
    assert pace.size == 550


def test_keeps_the_rate_over_time(clock: Clock) -> None:
    """Batches are small enough to be smooth, and their pauses make the rate."""
    pace = Pace(1.0, bounds=Bounds(rate=1_000))
    assert pace.size == 1_000
    assert throttled(clock, pace, 200) == pytest.approx(100_000, rel=0.02)


def test_a_low_rate_waits_after_each_document(clock: Clock) -> None:
    """One document in four seconds, whatever `min` says."""
    pace = Pace(1.0, bounds=Bounds(least=50, rate=0.25))
    assert pace.size == 1
    assert throttled(clock, pace, 200) == pytest.approx(25, abs=1)


def test_lost_time_makes_no_burst(clock: Clock) -> None:
    """What a slow minute has left undone is not made good at once."""
    pace = Pace(1.0, bounds=Bounds(rate=1_000))
    clock.passes(0.5)
    pace.went_well(0.5, done=1_000)
    clock.passes(60)
    pace.went_well(60, done=pace.size)
    assert throttled(clock, pace, clock.now + 10) <= 12_000


def test_restarts_make_no_burst(clock: Clock) -> None:
    """A worker that is killed after each batch gets its successor no batch more than the rate."""
    done, begun = 0, clock.now
    while clock.now < begun + 60:
        pace = Pace(1.0, bounds=Bounds(rate=1_000))
        if done:
            pace.resumed()
        clock.passes(pace.owed + 0.05)
        done += pace.size
    assert done <= 61_000


def test_without_a_rate_nothing_is_owed(clock: Clock) -> None:
    """Full speed is the default."""
    pace = Pace(1.0)
    pace.resumed()
    pace.went_well(0.1, done=50_000)
    assert pace.owed == 0


def test_the_lower_rate_counts() -> None:
    """That of the operation, and that of the run."""
    assert Bounds().slowed(None).rate is None
    assert Bounds().slowed(5).rate == 5
    assert Bounds(rate=3).slowed(5).rate == 3
    assert Bounds(rate=7, most=9).slowed(5) == Bounds(rate=5, most=9)


def test_waiting_on_purpose_is_not_being_stuck(clock: Clock) -> None:
    """Only the time in which something was tried counts for `retry_seconds`."""
    pace = Pace(seconds=1.0)
    pace.pause()
    clock.passes(70)
    pace.held(60)
    assert pace.stuck_for == pytest.approx(10)


def test_grows_towards_the_wanted_time() -> None:
    """Quick batches grow, at most twofold a step, up to the limit; slow ones shrink."""
    pace = Pace(seconds=1.0)
    pace.went_well(0.1)
    assert pace.size == 2 * START
    pace.went_well(0.8)
    assert pace.size == 2 * START * 1.25
    pace.went_well(10.0)
    assert pace.size < 2 * START
    for _ in range(20):
        pace.went_well(0.0)
    assert pace.size == LARGEST


def test_begins_smaller_after_attempts_that_came_to_nothing() -> None:
    """A worker killed before its first checkpoint, again and again, gets there all the same.

    Found by `make chaos`: workers killed every six seconds, a first batch of three seconds.
    """
    pace = Pace(seconds=1.0)
    pace.begun(1)
    assert pace.size == START
    sizes = []
    for attempts in (2, 3, 4, 5, 20):
        pace.begun(attempts)
        sizes.append(pace.size)
    assert sizes == [START // 4, START // 16, START // 64, START // 256, 1]
    pace.begun(2)
    assert pace.size == 1


def test_conflicts_halve_down_to_one_and_growth_is_slow_after() -> None:
    """FAULTS 9."""
    pace = Pace(seconds=1.0)
    for _ in range(20):
        pace.conflicted()
    assert pace.size == 1
    sizes = []
    for _ in range(30):
        pace.went_well(0.001)
        sizes.append(pace.size)
    assert sizes == sorted(sizes)
    assert 1 < sizes[-1] < START


def test_pauses_get_longer_and_have_jitter() -> None:
    """Many workers that fail at once do not come back at once."""
    pauses = []
    for _ in range(200):
        pace = Pace(seconds=1.0)
        pauses.append([pace.pause() for _ in range(8)])
    assert max(first for first, *_ in pauses) <= 0.2
    assert max(last for *_, last in pauses) > 5
    assert max(last for *_, last in pauses) <= 10
    assert len({last for *_, last in pauses}) > 100


def test_stuck_since_the_first_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement may run for hours; only what fails without moving is stuck (Law 10)."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pace = Pace(seconds=1.0)
    now = 5_000.0
    assert pace.stuck_for == 0
    pace.pause()
    now = 5_010.0
    pace.pause()
    assert pace.stuck_for == 10
    pace.went_well(1.0, moved=False)
    assert pace.stuck_for == 10
    pace.went_well(1.0)
    assert pace.stuck_for == 0


def test_the_time_of_earlier_workers_counts_until_it_moves() -> None:
    """What each of them has waited is one wait to who looks at it (Law 10)."""
    pace = Pace(seconds=1.0, stuck_before=50.0)
    pace.pause()
    assert pace.stuck_in_all - pace.stuck_for == pytest.approx(50)
    pace.went_well(1.0)
    assert pace.stuck_in_all == 0


def test_a_good_batch_ends_the_series_of_pauses() -> None:
    """The next failure begins with a short pause again."""
    pace = Pace(seconds=1.0)
    for _ in range(10):
        pace.pause()
    pace.went_well(1.0)
    assert pace.pause() <= 0.2


def test_ranges_share_a_rate(clock: Clock) -> None:
    """Together they keep it, also where another one comes in between."""
    alone = Pace(1.0, bounds=Bounds(rate=100))
    assert alone.size == 100
    alone.share(4)
    assert alone.size == 25
    assert throttled(clock, alone, clock.now + 20) == pytest.approx(500, abs=25)
    alone.share(1)
    assert throttled(clock, alone, clock.now + 20) == pytest.approx(2_000, abs=125)


def test_whoever_shares_nothing_has_no_rate(clock: Clock) -> None:
    """Without one, the number of ranges changes nothing."""
    pace = Pace(1.0)
    before = pace.size
    pace.share(4)
    assert (pace.size, pace.owed) == (before, 0.0)
