"""The size of batches and the length of pauses."""

from __future__ import annotations

import pytest

from dharma_tasks.pace import LARGEST, START, Pace


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
