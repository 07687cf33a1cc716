"""What is asked between the batches of a range, by whoever has it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from fake_run import NAMESPACE, Driver, key, migration, progress
from fakeredis import FakeRedis, FakeServer

from dharma_tasks.control import OperationControl
from dharma_tasks.errors import Halted, LeaseLost, RangeLeft
from dharma_tasks.identity import owner
from dharma_tasks.lease import Leases
from dharma_tasks.range_control import HelperControl, RangeLeases
from dharma_tasks.records import OperationState
from dharma_tasks.run import Event, Next, Run
from dharma_tasks.work import Assignment, Taken

AT = Next("mongodb", "1.0.0", 1)
KEY = key(AT)


@dataclass
class Stage:
    """A run at an operation that one worker has, and another one that helps."""

    server: FakeServer = field(default_factory=FakeServer)
    crowded: bool = False

    def __post_init__(self) -> None:
        redis = FakeRedis(server=self.server, decode_responses=True)
        self.driver = Driver(redis, migration("mongodb", "1.0.0"))
        self.run: Run = self.driver.submit()
        self.driver.start(self.run)
        self.leases = Leases(redis, NAMESPACE, 10)
        self.control = self._control(OperationControl)
        self.ranges = RangeLeases(self.control, owner("whole", {}))

    def _control(self, kind: type[OperationControl], number: int | None = None) -> OperationControl:
        at = KEY if number is None else KEY.of_range(number)
        return kind(
            lease=self.leases.acquire(at, owner("w", {}), self.run.id),
            leases=self.leases,
            runs=self.driver.runs,
            run=self.run.id,
            key=at,
            progress=progress(AT),
            shutting_down=lambda: False,
        )

    def helper(self, number: int) -> HelperControl:
        """A worker that has nothing else to do."""
        made = self._control(HelperControl, number)
        assert isinstance(made, HelperControl)
        made.crowded = lambda: self.crowded
        return made

    def shown(self) -> list[int]:
        """What rescuers see."""
        snapshot = self.driver.runs.snapshot(self.run.id)
        assert snapshot is not None
        return snapshot.ranges.get("mongodb", [])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """It asks Redis each time."""
    monkeypatch.setattr("dharma_tasks.control.ASK_SECONDS", 0)
    monkeypatch.setattr("dharma_tasks.range_control.ASK_SECONDS", 0)
    return Stage()


def test_a_range_is_held_beside_its_operation(stage: Stage) -> None:
    """Until it is done with; what another worker has is not to be had."""
    with stage.ranges.hold(1, lambda: None) as mine:
        assert mine is not None
        assert stage.leases.holder(KEY.of_range(1)) is not None
        mine.check()
        stage.helper(2)
        with stage.ranges.hold(2, lambda: None) as theirs:
            assert theirs is None
        assert mine.sharing(4) == 2
    assert stage.leases.holder(KEY.of_range(1)) is None


@pytest.mark.parametrize("lost", [KEY, KEY.of_range(1)])
def test_either_lease_may_be_lost(stage: Stage, lost: object) -> None:
    """Who has lost that on the operation has no business in its ranges either."""
    with stage.ranges.hold(1, lambda: None) as mine:
        assert mine is not None
        stage.driver.redis.set(f"{NAMESPACE}:lease:{lost}", "somebody else")
        with pytest.raises(LeaseLost):
            mine.check()
        with pytest.raises(LeaseLost):
            mine.alive()


def test_it_looks_after_its_operation_between_batches(stage: Stage) -> None:
    """And answers whatever that is asked."""

    def look() -> None:
        msg = "a range has failed"
        raise RangeLeft(msg)

    with stage.ranges.hold(1, look) as mine:
        assert mine is not None
        with pytest.raises(RangeLeft):
            mine.check()
        stage.driver.runs.pause(stage.run, _event())
        with pytest.raises(Halted, match="is paused"):
            mine.check()


def test_what_is_left_is_shown_to_rescuers(stage: Stage) -> None:
    """And again only when it has changed; without Redis nobody is sent, and the work goes on."""
    stage.ranges.show([1, 2, 3])
    assert stage.shown() == [1, 2, 3]
    stage.server.connected = False
    stage.ranges.show([2, 3])
    with stage.ranges.hold(2, lambda: None) as none:
        assert none is None
    assert stage.control.sharing(4) == 4, "to be sure, as if all of them were at work"
    stage.server.connected = True
    stage.ranges.show([2, 3])
    assert stage.shown() == [2, 3]


def test_who_helps_makes_room(stage: Stage) -> None:
    """In order: its range waits for another worker."""
    helper = stage.helper(3)
    helper.check()
    stage.crowded = True
    with pytest.raises(RangeLeft, match="other work waits"):
        helper.check()


def test_who_helps_goes_on_without_redis(stage: Stage) -> None:
    """As long as its lease lasts, like any other work."""
    helper = stage.helper(3)
    assignment = Assignment("r", 1, "me", KEY.of_range(3), "n", "c", "a", 1)
    helper.crowded = lambda: bool(stage.driver.redis.llen("queue"))
    stage.server.connected = False
    helper.check()
    helper.report(Taken(assignment, 1, OperationState.RUNNING), 0)


def test_who_helps_shows_nothing(stage: Stage) -> None:
    """How far the operation is, is shown by who has it; a range that moves may be sent soon."""
    helper = stage.helper(3)
    runs = stage.driver.runs
    name = f"{stage.run.id}:{KEY.of_range(3)}"
    for _ in range(2):
        runs.claim_rescue(name, 0.001)
    helper.waiting("it lags", 0)
    assignment = Assignment("r", 1, "me", KEY.of_range(3), "n", "c", "a", 1)
    helper.report(Taken(assignment, 1, OperationState.RUNNING), 0)
    snapshot = runs.snapshot(stage.run.id)
    assert snapshot is not None
    assert snapshot.progress == {}
    assert stage.driver.redis.get(runs._tries(name)) is None


def _event() -> Event:
    return Event.model_validate({"at": "2026-01-01T00:00:00Z", "kind": "paused", "text": ""})
