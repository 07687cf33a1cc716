"""The one loop, driven to every point with a model of a database."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model import Conflict, Crash, Faults, Increment, ModelDatabase, Passing, Server

from dharma_tasks.errors import (
    CutOff,
    FenceLost,
    Halted,
    MigrationFailed,
    OperationFailed,
    Problem,
    Stopped,
)
from dharma_tasks.measures import Measure, Wait
from dharma_tasks.migration import Key
from dharma_tasks.pace import START, Bounds
from dharma_tasks.records import Direction, MigrationState, OperationState
from dharma_tasks.runner import Runner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount, Assignment, Step, Taken, Work

DOCUMENTS = 11


@dataclass
class FakeControl:
    """Says "go on" until `stop_after` questions were asked."""

    stop_after: int | None = None
    asked: int = 0
    reports: list[int] = field(default_factory=list)
    stuck_for: float = 0.0
    handed_on: bool = False
    warnings: list[str] = field(default_factory=list)
    stops: type[Stopped] = Stopped
    end: Stopped | None = None
    signs: int = 0
    waits: list[str] = field(default_factory=list)
    measured: list[tuple[Measure, float, str]] = field(default_factory=list)

    def check(self) -> None:
        self.asked += 1
        if self.stop_after is not None and self.asked > self.stop_after:
            msg = "told to"
            raise self.stops(msg)

    def alive(self, seen: Amount | None = None) -> None:
        self.signs += 1

    def confirm(self) -> None:
        pass

    def report(self, taken: Taken, stuck_for: float) -> None:
        self.reports.append(taken.done)
        self.stuck_for = stuck_for

    def waiting(self, reason: str, stuck_for: float, *, handed_on: bool = False) -> None:
        self.waits.append(reason)
        self.stuck_for, self.handed_on = stuck_for, handed_on

    def ending(self) -> Stopped | None:
        return self.end

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def measure(self, what: Measure, amount: float, detail: str = "") -> None:
        self.measured.append((what, amount, detail))

    def amounts(self, what: Measure, detail: str = "") -> list[float]:
        """What was measured of one kind."""
        return [each[1] for each in self.measured if each[::2] == (what, detail)]


def make_server() -> Server:
    """Return a server with documents that are all zero."""
    return Server(dict.fromkeys(range(DOCUMENTS), 0))


def make_runner(
    server: Server,
    faults: Faults,
    control: FakeControl | None = None,
    stuck_before: float = 0.0,
    *,
    operation: Increment | None = None,
    handed_on: bool = False,
    back: bool = False,
    accept_data_loss: bool = False,
    passed_over: bool = False,
) -> Runner:
    """Return a new worker on the model."""
    assignment = Assignment(
        run="r",
        generation=1,
        by="me",
        key=Key(database="model", version="1.0.0", number=1),
        name="n",
        checksum="c",
        type="increment",
        count=1,
        direction=Direction.BACK if back else Direction.FORWARD,
        outcome=MigrationState.ROLLED_BACK if back else MigrationState.APPLIED,
    )
    return Runner(
        operation=operation or Increment(),
        assignment=assignment,
        database=ModelDatabase(server, faults),
        control=control or FakeControl(),
        settings=Settings(_env_file=None),
        worker="w",
        stuck_before=stuck_before,
        handed_on=handed_on,
        accept_data_loss=accept_data_loss,
        passed_over=passed_over,
    )


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dharma_tasks.pace.LONGEST_PAUSE", 0)


class Slowed(Increment):
    """With a rate."""

    kind: ClassVar[str] = "slowed"
    rate: float

    def bounds(self) -> Bounds:
        return Bounds(rate=self.rate)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept: the clock goes on by that, and by nothing else."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("time.monotonic", lambda: sum(slept))
    return slept


def assert_applied_once(server: Server) -> None:
    """Every document is exactly one higher, and the journal says so."""
    assert set(server.documents.values()) == {1}
    assert server.state is OperationState.DONE
    assert server.migration is MigrationState.APPLIED
    assert server.done == DOCUMENTS


def test_undisturbed() -> None:
    """Without faults the loop prepares once, does every batch and reports each."""
    server, control = make_server(), FakeControl()
    make_runner(server, Faults(), control).run()
    assert_applied_once(server)
    assert server.prepared == 1
    assert control.reports == [0, 0, 3, 6, 9, 11]


def test_a_rate_is_kept_between_batches(slept: list[float]) -> None:
    """Whoever watches gets signs of life while a batch waits, and a stop is answered at once."""
    server, control = make_server(), FakeControl()
    make_runner(server, Faults(), control, operation=Slowed(rate=0.25)).run()
    assert_applied_once(server)
    assert sum(slept) == pytest.approx((DOCUMENTS - 1) / 0.25)
    assert control.signs >= DOCUMENTS - 1
    assert control.asked >= sum(slept) / 0.5


def test_whoever_goes_on_keeps_the_rate_from_the_start(slept: list[float]) -> None:
    """The worker before it may have done a batch just now."""
    server = make_server()
    for _ in range(3):
        stopping = FakeControl(stop_after=3)
        with suppress(Stopped):
            make_runner(server, Faults(), stopping, operation=Slowed(rate=0.25)).run()
    assert server.done <= 1 + sum(slept) * 0.25


def heavy(
    control: FakeControl, *strains: str | Exception | None, rate: float = 0.5
) -> tuple[Runner, ModelDatabase]:
    """Bulk work of two seconds a document, on a database of which this is said."""
    runner = make_runner(make_server(), Faults(), control, operation=Slowed(rate=rate))
    database = runner.database
    assert isinstance(database, ModelDatabase)
    database.strains += strains
    runner.heavy = True
    return runner, database


def test_bulk_work_waits_for_its_database_to_be_well(slept: list[float]) -> None:
    """It says why, gives signs of life, and is not stuck for it."""
    control = FakeControl()
    runner, _ = heavy(control, None, Passing("away"), *["it lags"] * 4, Passing("away"))
    runner.settings = runner.settings.model_copy(update={"retry_seconds": 1})
    assert runner.run().over
    assert control.waits == ["model: away", *["it lags"] * 4, "model: away"]
    assert sum(slept) == pytest.approx(2 * (DOCUMENTS - 1) + 4 * 2, abs=2)
    assert control.signs == 0 < len(control.waits)


def test_it_looks_no_more_often_than_needed(slept: list[float]) -> None:
    """Short batches need not pay for it; and what is not bulk work never does."""
    runner, database = heavy(FakeControl(), rate=2)
    runner.run()
    assert database.looks == 1 + int((DOCUMENTS - 1) * 0.5 / 2)
    light, unasked = heavy(FakeControl(), "it lags")
    light.heavy = False
    light.run()
    assert unasked.looks == 0
    assert slept


def test_a_stop_is_answered_while_it_waits(slept: list[float]) -> None:
    """As between batches."""
    runner, _ = heavy(FakeControl(stop_after=10), *["it lags"] * 100)
    with pytest.raises(Stopped):
        runner.run()
    assert sum(slept) < 10


def test_what_may_not_be_seen_is_not_waited_for(slept: list[float]) -> None:
    """It is said once; what passes is retried like any error."""
    control = FakeControl()
    runner, _ = heavy(control, *[ValueError("not allowed")] * 3, Passing("away"))
    assert runner.run().over
    assert len(control.warnings) == 1
    assert "how model is cannot be seen" in control.warnings[0]
    assert "not allowed" in control.warnings[0]
    assert control.waits == ["model: away"]
    assert slept


def test_what_is_measured() -> None:
    """Each batch with its documents; a fault as a retry, and a batch that it undid only once."""
    server, control = make_server(), FakeControl()
    make_runner(server, Faults({5: Passing, 11: Conflict}), control).run()
    assert_applied_once(server)
    batches = control.amounts(Measure.BATCH)
    assert control.amounts(Measure.DOCUMENTS) == [3, 3, 3, 2]
    assert len(batches) == 4
    assert min(batches) >= 0
    assert [len(control.amounts(Measure.RETRY, kind)) for kind in ("passing", "conflict")] == [1, 1]


def test_who_only_asks_has_done_no_batch() -> None:
    """A server that copies by itself is asked again and again: that is one batch of it."""

    class Asking(Increment):
        def step(self, work: Work[dict[int, int]]) -> Step:
            if next(asked) < 5:
                return Step(work.cursor)
            return Step(work.cursor, done=DOCUMENTS, finished=True)

    asked, control = count(), FakeControl()
    make_runner(make_server(), Faults(), control, operation=Asking()).run()
    assert control.amounts(Measure.DOCUMENTS) == [DOCUMENTS]
    assert len(control.amounts(Measure.BATCH)) == 1


def test_waiting_is_measured_by_its_reason(
    slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it goes on: what waits for hours must not be counted only when it is over."""
    monkeypatch.setattr("random.uniform", lambda _least, _most: 3)
    control = FakeControl(stop_after=60)
    runner, _ = heavy(control, None, Passing("away"), *["it lags"] * 100)
    with pytest.raises(Stopped):
        runner.run()
    waited = {why: control.amounts(Measure.WAITED, why) for why in Wait}
    assert waited[Wait.RETRY] == [3]
    assert set(waited[Wait.STRAIN]) == {2}
    assert sum(sum(each) for each in waited.values()) == pytest.approx(sum(slept))
    assert sum(waited[Wait.RATE]) > 0


@given(st.lists(st.tuples(st.integers(1, 60), st.sampled_from([Crash, Passing, Conflict]))))
def test_every_fault_at_every_point(plan: list[tuple[int, type[BaseException]]]) -> None:
    """Whatever fails wherever, and however often: each document is exactly one higher."""
    server, faults = make_server(), Faults(dict(plan))
    server_attempts_allowed = 1_000
    while server.state is not OperationState.DONE:
        runner = make_runner(server, faults)
        runner.settings = Settings(_env_file=None, max_attempts=server_attempts_allowed)
        try:
            runner.run()
        except Crash:
            continue
    assert_applied_once(server)
    assert server.prepared >= 1


@given(st.integers(0, 12))
def test_stop_at_every_boundary(stop_after: int) -> None:
    """A stop leaves what is done, counts no attempt, and the next worker goes on from there."""
    server = make_server()
    try:
        make_runner(server, Faults(), FakeControl(stop_after)).run()
    except Stopped:
        assert server.attempts <= 0
    make_runner(server, Faults()).run()
    assert_applied_once(server)


@pytest.mark.parametrize(("stops", "halts"), [(Stopped, 0), (Halted, 1)])
def test_what_the_server_does_for_us_is_ended(stops: type[Stopped], halts: int) -> None:
    """Where a person has stopped the run; a worker that shuts down leaves it to the next one."""
    halted = count()

    class Copying(Increment):
        def halt(self, work: Work[dict[int, int]]) -> None:
            assert work.undo
            next(halted)
            raise Passing  # whoever comes next finds it

    server = make_server()
    with pytest.raises(stops):
        make_runner(server, Faults(), FakeControl(4, stops=stops), operation=Copying()).run()
    assert next(halted) == halts
    assert server.attempts <= 0
    make_runner(server, Faults()).run()
    assert_applied_once(server)


def test_a_long_statement_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few looks after the stop; its error is the stop's, even if the run goes on by then."""
    server, control, interrupts = make_server(), FakeControl(), count()

    class Long(Increment):
        def step(self, _work: object) -> Step:
            alive = runner._alive()
            alive(None)
            control.end = Halted("run r is paused")
            for _ in range(5):
                alive(None)
            control.end = None
            raise OperationFailed("canceling statement due to user request")

    runner = make_runner(server, Faults(), control, operation=Long())
    monkeypatch.setattr(runner.database, "interrupt", lambda: next(interrupts))
    with pytest.raises(Halted, match="run r is paused"):
        runner.run()
    assert next(interrupts) == 2
    assert server.attempts == 0
    make_runner(server, Faults()).run()
    assert_applied_once(server)


def test_a_worker_that_was_overtaken_commits_nothing() -> None:
    """Law 4: the first worker's batch is thrown away once a second one has taken over."""
    server, control = make_server(), FakeControl()
    first = make_runner(server, Faults(), control)

    def overtake() -> None:
        if control.asked == 4:
            server.fence += 1

    control_check = control.check
    control.check = lambda: (control_check(), overtake())  # type: ignore[method-assign]
    with pytest.raises(FenceLost):
        first.run()
    done = server.done
    assert sum(server.documents.values()) == done
    make_runner(server, Faults()).run()
    assert_applied_once(server)


def test_a_killer_is_stopped() -> None:
    """Law 10: an operation that kills its worker each time fails with that reason."""
    server = make_server()
    for _ in range(5):
        runner = make_runner(server, Faults())
        runner.operation = _Killer()
        with pytest.raises(Crash):
            runner.run()
    runner = make_runner(server, Faults())
    runner.operation = _Killer()
    with pytest.raises(MigrationFailed, match="begun 5 times without any progress"):
        runner.run()
    assert server.migration is MigrationState.ROLLED_BACK
    assert set(server.documents.values()) == {0}


class _Killer(Increment):
    def step(self, work: object) -> object:  # type: ignore[override]
        raise Crash


def test_passing_errors_count_no_attempt() -> None:
    """A database that is away for long does not look like an operation that kills its worker."""
    server = make_server()
    faults = Faults(dict.fromkeys(range(6, 26), Passing))
    make_runner(server, faults).run()
    assert_applied_once(server)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second goes by each time that somebody looks."""
    seconds = count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(seconds)))


@pytest.mark.usefixtures("clock")
def test_who_is_cut_off_hands_on() -> None:
    """Law 8: a worker that gets errors, and not even the journal, leaves it to another one.

    That one goes on, and being handed on is no attempt; the time without progress adds up.
    """
    server, control = make_server(), FakeControl()
    cut_off = Faults(dict.fromkeys(range(6, 500), Passing))  # from the first batch on
    with pytest.raises(CutOff, match="model has not answered for 1"):
        make_runner(server, cut_off, control).run()
    assert server.attempts == 1
    assert control.handed_on
    assert 10 <= control.stuck_for < 60
    second = FakeControl()
    with pytest.raises(CutOff):
        make_runner(server, cut_off, second, control.stuck_for, handed_on=True).run()
    assert second.handed_on
    assert second.stuck_for >= control.stuck_for + 10
    third = make_runner(server, Faults(), None, second.stuck_for, handed_on=True)
    third.run()
    assert third.first is not None
    assert third.first.attempts == 1
    assert_applied_once(server)


@pytest.mark.usefixtures("clock")
def test_who_never_had_it_hands_no_attempt_on() -> None:
    """The worker before may have died of it: the next one that takes it over is an attempt."""
    control = FakeControl()
    with pytest.raises(CutOff):
        make_runner(make_server(), Faults(dict.fromkeys(range(1, 500), Passing)), control).run()
    assert not control.handed_on


@pytest.mark.usefixtures("clock")
def test_who_reaches_the_journal_keeps_trying() -> None:
    """A lock that others hold is there for every worker: to hand on would help nobody.

    Nor does one try at the journal that fails after all that time.
    """
    server, tries, faults = make_server(), count(), Faults()

    class Locked(Increment):
        def step(self, work: Work[dict[int, int]]) -> Step:
            if next(tries) == 40:
                faults.plan[faults.points + 1] = Passing  # the next question to the journal
            if next(tries) < 100:
                raise Passing
            return super().step(work)

    make_runner(server, faults, operation=Locked()).run()
    assert not faults.plan
    assert_applied_once(server)


@pytest.mark.usefixtures("clock")
def test_the_time_without_progress_is_limited_over_all_workers() -> None:
    """Law 10: `retry_seconds` is not begun anew by whoever it is handed on to."""
    server = make_server()
    with pytest.raises(MigrationFailed):
        make_runner(server, Faults({6: Passing}), stuck_before=4_000).run()


def test_a_passing_error_reaches_the_journal() -> None:
    """It is the operation's last one, in the journal, until a batch goes well."""
    server = make_server()
    faults = Faults({6: Passing, 9: Crash})  # in the first batch; after it was taken over again
    with pytest.raises(Crash):
        make_runner(server, faults).run()
    assert server.error == "model: "
    make_runner(server, Faults()).run()
    assert_applied_once(server)
    assert server.error is None


def test_a_lasting_error_fails_the_migration() -> None:
    """The database's own words are kept; what earlier batches did is not hidden."""
    server = make_server()
    with pytest.raises(MigrationFailed, match="document 7 is bad"):
        make_runner(server, Faults(), operation=Increment(fails_at=7)).run()
    assert server.migration is MigrationState.FAILED
    assert server.error == "model: document 7 is bad"
    assert server.done == 6


@pytest.mark.parametrize(
    ("number", "outcome", "fails_at", "state"),
    [
        (1, MigrationState.APPLIED, 1, MigrationState.ROLLED_BACK),
        (1, MigrationState.APPLIED, 7, MigrationState.FAILED),
        (2, MigrationState.APPLIED, 1, MigrationState.FAILED),
        (3, MigrationState.ROLLED_BACK, 1, MigrationState.APPLIED),
        (3, MigrationState.ROLLED_BACK, 7, MigrationState.FAILED),
        (4, MigrationState.ROLLED_BACK, 1, MigrationState.FAILED),
    ],
)
def test_where_a_failure_leaves_the_migration(
    number: int, outcome: MigrationState, fails_at: int, state: MigrationState
) -> None:
    """As it was, where the first operation of its file, or of its rollback file, left nothing."""
    server = make_server()
    runner = make_runner(server, Faults(), operation=Increment(fails_at=fails_at))
    key = Key(database="model", version="1.0.0", number=number)
    first = 1 if outcome is MigrationState.APPLIED else 3
    runner.assignment = replace(runner.assignment, key=key, count=4, outcome=outcome, first=first)
    with pytest.raises(MigrationFailed) as caught:
        runner.run()
    assert caught.value.state is state
    assert server.migration is state
    assert (server.state is OperationState.PENDING) == (state is MigrationState.APPLIED)


def test_a_conflict_halves_the_batch() -> None:
    """FAULTS 9: down to one document if need be."""
    server = make_server()
    runner = make_runner(server, Faults())
    sizes: list[int] = []
    step = Increment.step

    class Watching(Increment):
        def step(self, work: Work[dict[int, int]]) -> Step:
            sizes.append(work.size)
            if work.size > 1 and len(sizes) < 20:
                raise Conflict
            return step(self, work)

    runner.operation = Watching()
    runner.run()
    assert_applied_once(server)
    assert sizes[:3] == [START, START // 2, START // 4]
    assert min(sizes) == 1


def test_a_server_that_is_slow_to_be_asked_halves_nothing() -> None:
    """Of taking over no batch is too large, and small ones would stay small for long."""
    server = make_server()
    runner = make_runner(server, Faults(dict.fromkeys(range(1, 20), Conflict)))
    sizes: list[int] = []
    step = Increment.step

    class Watching(Increment):
        def step(self, work: Work[dict[int, int]]) -> Step:
            sizes.append(work.size)
            return step(self, work)

    runner.operation = Watching()
    runner.run()
    assert_applied_once(server)
    assert min(sizes) == START


# -- the way back --------------------------------------------------------------------------


@given(
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(1, 60), st.sampled_from([Crash, Passing, Conflict]))),
)
def test_undone_from_anywhere_with_every_fault(
    stop_after: int, plan: list[tuple[int, type[BaseException]]]
) -> None:
    """However far forward it came, and whatever fails on the way back: each document is as it was.

    And applied again after that, each is one higher.
    """
    server = make_server()
    with suppress(Stopped):
        make_runner(server, Faults(), FakeControl(stop_after)).run()
    faults = Faults(dict(plan))
    while server.state is not OperationState.PENDING:
        runner = make_runner(server, faults, back=True)
        runner.settings = Settings(_env_file=None, max_attempts=1_000)
        with suppress(Crash):
            runner.run()
    assert set(server.documents.values()) == {0}
    assert server.migration in {MigrationState.ROLLED_BACK, MigrationState.PENDING}
    make_runner(server, Faults()).run()
    assert set(server.documents.values()) == {1}


class Final(Increment):
    """It cannot be undone, and goes on on the server."""

    halted: ClassVar[int] = 0

    def irreversible(self) -> Problem:
        return Problem("", "", "nobody knows what it was", "")

    def halt(self, work: Work[dict[int, int]]) -> None:
        assert work.undo
        Final.halted += 1


def test_what_cannot_be_undone_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where a person accepts that: it stays, with a warning, and nothing of it goes on."""
    monkeypatch.setattr(Final, "halted", 0)
    server, control = make_server(), FakeControl()
    make_runner(server, Faults()).run()
    accepting = make_runner(
        server, Faults(), control, operation=Final(), back=True, accept_data_loss=True
    )
    accepting.run()
    assert server.migration is MigrationState.ROLLED_BACK
    assert set(server.documents.values()) == {1}
    assert control.warnings == ["model:1.0.0#1 increment: left as it is: nobody knows what it was"]
    why = "left as it is: nobody knows what it was"
    assert server.audited == [f"passed_over model:1.0.0#1 by me: {why}"]
    assert Final.halted == 1


def test_what_was_only_declared_has_nothing_to_halt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of it the journal has none of the names that `halt` would need."""
    monkeypatch.setattr(Final, "halted", 0)
    server = make_server()
    make_runner(server, Faults()).run()
    server.undo = {"irreversible": "taken over by dharma baseline"}
    make_runner(server, Faults(), operation=Final(), back=True, accept_data_loss=True).run()
    assert server.migration is MigrationState.ROLLED_BACK
    assert Final.halted == 0


def test_what_has_become_irreversible_is_not_passed_over() -> None:
    """It was planned while its way back was there: now it fails for good, and says what helps."""
    server = make_server()
    make_runner(server, Faults()).run()
    server.undo = {"last": 10, "irreversible": "what was kept of it is removed"}
    with pytest.raises(MigrationFailed, match=r"cannot be undone: what was kept.*--accept-data"):
        make_runner(server, Faults(), back=True).run()
    assert set(server.documents.values()) == {1}
    assert server.migration is MigrationState.FAILED
    make_runner(server, Faults(), back=True, accept_data_loss=True).run()
    assert server.migration is MigrationState.ROLLED_BACK


def test_what_was_never_begun_is_no_loss() -> None:
    """Taken, and its worker died before it had looked: nobody needs to accept anything."""
    server = make_server()
    with suppress(Stopped):
        make_runner(server, Faults(), FakeControl(1), operation=Final()).run()
    assert server.fence == 1
    make_runner(server, Faults(), operation=Final(), back=True, accept_data_loss=True).run()
    assert server.migration is MigrationState.ROLLED_BACK
    assert server.audited == []


def test_a_failure_on_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The migration has failed, half undone; nothing more is promised than to go on back."""
    server = make_server()
    make_runner(server, Faults()).run()

    def fail(_operation: object, _work: object) -> Step:
        raise OperationFailed("no way back")

    monkeypatch.setattr(Increment, "undo", fail)
    with pytest.raises(MigrationFailed, match="no way back") as caught:
        make_runner(server, Faults(), back=True).run()
    assert caught.value.state is MigrationState.FAILED
    assert server.state is OperationState.UNDOING
