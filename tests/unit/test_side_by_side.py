"""An operation that is cut into ranges, driven to every point with a model of a database."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model import Conflict, Crash, Faults, Increment, ModelDatabase, Passing, Server
from structlog.testing import capture_logs
from test_runner import FakeControl, assert_applied_once, make_runner, make_server

from dharma_tasks.errors import FenceLost, MigrationFailed, Outdated, Stopped
from dharma_tasks.measures import Measure
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.runner import Runner
from dharma_tasks.settings import Settings

RANGES = 4
MANY = 1_000


@dataclass
class FakeRange(FakeControl):
    """A range in the hands of the worker that has the operation."""

    between: Callable[[], None] = lambda: None

    def check(self) -> None:
        super().check()
        self.between()


@dataclass
class FakeRanges:
    """Leases on ranges. Those in `others` are another worker's, who does them `first`."""

    server: Server
    faults: Faults
    others: set[int] = field(default_factory=set)
    fails_at: int | None = None
    control: FakeRange = field(default_factory=FakeRange)
    shown: list[list[int]] = field(default_factory=list)
    held: list[int] = field(default_factory=list)

    def show(self, left: Sequence[int]) -> None:
        self.shown.append([*left])

    @contextmanager
    def hold(self, number: int, between: Callable[[], None]) -> Iterator[FakeRange | None]:
        if number in self.others:
            self.others.remove(number)
            helper(self.server, self.faults, number, fails_at=self.fails_at)
            yield None
        else:
            self.held.append(number)
            self.control.between = between
            yield self.control


def helper(
    server: Server,
    faults: Faults,
    number: int,
    control: FakeControl | None = None,
    fails_at: int | None = None,
) -> None:
    """Another worker, which works through one range, or dies in it."""
    whole = cut(server, faults, fails_at=fails_at)
    runner = Runner(
        operation=whole.operation,
        assignment=whole.assignment.of_range(number),
        database=ModelDatabase(server, faults),
        control=control or FakeControl(),
        settings=whole.settings,
        worker="helper",
    )
    try:
        runner.run()
    except (Crash, FenceLost, MigrationFailed):
        return


def cut(
    server: Server,
    faults: Faults,
    *,
    ranges: FakeRanges | None = None,
    fails_at: int | None = None,
    back: bool = False,
) -> Runner:
    """The worker that has the operation."""
    operation = Increment(size=2, parallel=RANGES, fails_at=fails_at)
    runner = make_runner(server, faults, operation=operation, back=back)
    runner.ranges = ranges or FakeRanges(server, faults)
    runner.settings = Settings(_env_file=None, max_attempts=MANY)
    return runner


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Without waits, and without writing a thousand stacks."""
    monkeypatch.setattr("dharma_tasks.pace.LONGEST_PAUSE", 0)
    monkeypatch.setattr("dharma_tasks.side_by_side.LOOK_SECONDS", 0)
    with capture_logs():
        yield


def test_one_worker_alone() -> None:
    """It does one range after the other, and the operation knows how far all of them are."""
    server = make_server()
    ranges = FakeRanges(server, Faults())
    runner = cut(server, Faults(), ranges=ranges)
    runner.run()
    assert_applied_once(server)
    assert ranges.held == [1, 2, 3, 4]
    assert ranges.shown[0] == [1, 2, 3, 4]
    assert ranges.shown[-1] == []
    assert {each.state for each in server.ranges} == {OperationState.DONE}
    control = runner.control
    assert isinstance(control, FakeControl)
    assert control.reports == sorted(control.reports)
    assert len(set(control.reports)) > RANGES, "it is shown how far a range is before its end"
    measured = control.amounts(Measure.DOCUMENTS) + ranges.control.amounts(Measure.DOCUMENTS)
    assert sum(measured) == server.done


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 150), st.sampled_from([Crash, Passing, Conflict]))),
    st.sets(st.integers(1, RANGES)),
)
def test_every_fault_at_every_point(
    plan: list[tuple[int, type[BaseException]]], others: set[int]
) -> None:
    """Whatever fails wherever, with any of the ranges in other hands: each is one higher."""
    server, faults = make_server(), Faults(dict(plan))
    while server.state is not OperationState.DONE:
        try:
            cut(server, faults, ranges=FakeRanges(server, faults, set(others))).run()
        except Crash:
            continue
    assert_applied_once(server)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 150), st.sampled_from([Crash, Passing]))),
    st.sets(st.integers(1, RANGES)),
    st.integers(0, 10),
)
def test_a_range_that_fails_is_the_operations_failure(
    plan: list[tuple[int, type[BaseException]]], others: set[int], bad: int
) -> None:
    """With the first error; then all of it is undone, wherever the other ranges are."""
    server, faults = make_server(), Faults(dict(plan))
    failure = None
    while failure is None:
        ranges = FakeRanges(server, faults, set(others), bad)
        try:
            cut(server, faults, ranges=ranges, fails_at=bad).run()
        except Crash:
            continue
        except MigrationFailed as error:
            failure = error
    assert f"document {bad} is bad" in str(failure)
    assert f"of {RANGES}: " in str(failure)
    assert server.state is OperationState.FAILED
    assert server.migration is MigrationState.FAILED
    while server.migration is not MigrationState.ROLLED_BACK:
        try:
            cut(server, faults, back=True).run()
        except Crash:
            continue
    assert set(server.documents.values()) == {0}


def test_who_is_in_a_range_when_the_operation_is_undone_commits_nothing() -> None:
    """FAULTS 22: the way back fences out every range before it undoes anything."""
    server = make_server()

    stopping = cut(
        server, Faults(), ranges=FakeRanges(server, Faults(), control=FakeRange(stop_after=5))
    )
    with pytest.raises(Stopped):
        stopping.run()
    control = FakeControl()
    late = control.check

    def overtake() -> None:
        late()
        if control.asked == 2:
            cut(server, Faults(), back=True).run()

    control.check = overtake  # type: ignore[method-assign]
    helper(server, Faults(), 4, control)
    assert set(server.documents.values()) == {0}
    with pytest.raises(Outdated):
        ModelDatabase(server, Faults()).journal.ranges.take(
            cut(server, Faults()).assignment.of_range(4),
            None,
            counted=True,  # type: ignore[arg-type]
        )


def test_a_failed_range_begins_again_with_its_operation() -> None:
    """Its failure is told by then: a new submit goes on from the checkpoints of all ranges."""
    server = make_server()
    with pytest.raises(MigrationFailed):
        cut(server, Faults(), fails_at=7).run()
    done = sum(server.documents.values())
    assert 0 < done < len(server.documents)
    cut(server, Faults()).run()
    assert_applied_once(server)


def test_a_stop_leaves_both_in_order() -> None:
    """Neither the range nor the operation has an attempt counted for it."""
    server = make_server()
    with pytest.raises(Stopped):
        cut(server, Faults(), ranges=FakeRanges(server, Faults(), control=FakeRange(4))).run()
    assert server.attempts <= 0
    assert all(each.attempts <= 0 for each in server.ranges)
    cut(server, Faults()).run()
    assert_applied_once(server)


def test_attempts_begin_again_when_any_range_moves() -> None:
    """Deployments all day stop nothing: what counts is whether the operation gets any further."""
    server = make_server()
    for _ in range(3):
        with pytest.raises(Crash):
            cut(server, Faults({16: Crash})).run()
    assert 0 < server.done < len(server.documents)
    assert server.attempts <= 1
