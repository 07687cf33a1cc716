"""A run that a person pauses, resumes or cancels: its state, and what is done about it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_run import NAMESPACE, Driver, failed, key, migration, progress, without_settings
from fakeredis import FakeRedis

from dharma_tasks.cli import common, main, steering
from dharma_tasks.control import OperationControl
from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import Cancelled, Halted, MigrationFailed, Problem, StepAside, Stopped
from dharma_tasks.flow import asked
from dharma_tasks.flow.context import Context
from dharma_tasks.flow.operation import _failed, carry_out
from dharma_tasks.identity import owner
from dharma_tasks.journal import Entry
from dharma_tasks.lease import Leases
from dharma_tasks.messages import Chain
from dharma_tasks.migration import Migration
from dharma_tasks.records import (
    Direction,
    MigrationRecord,
    MigrationState,
    OperationRecord,
    OperationState,
    Survey,
)
from dharma_tasks.rescue import Rescuer
from dharma_tasks.run import Event, Next, Run, RunState
from dharma_tasks.runs import Busy
from dharma_tasks.settings import Settings
from dharma_tasks.submit import who_asks
from dharma_tasks.workers import Worker, Workers

M1, M2 = (Next("mongodb", version, 1) for version in ("1.0.0", "1.1.0"))
P1 = Next("postgresql", "1.0.0", 1)


@pytest.fixture
def redis() -> Any:
    """A Redis with nothing in it."""
    return FakeRedis(decode_responses=True)


@pytest.fixture
def driver(redis: Any) -> Driver:
    """Two migrations of mongodb, and one of postgresql that needs the first."""
    return Driver(
        redis,
        migration("mongodb", "1.0.0", operations=2),
        migration("mongodb", "1.1.0"),
        migration("postgresql", "1.0.0", "mongodb:1.0.0"),
    )


@pytest.fixture
def run(driver: Driver) -> Run:
    """A run that is at its first operation."""
    run = driver.submit()
    assert driver.start(run) == [M1]
    return run


def told(kind: str = "paused") -> Event:
    """What whoever watches is told."""
    return Event(at=datetime.now(UTC), kind=kind, text="by me")


def state(driver: Driver, run: Run) -> RunState | None:
    """The run's."""
    return driver.runs.state(run.id)


# -- paused --------------------------------------------------------------------------------


def test_a_paused_run_starts_nothing(driver: Driver, run: Run) -> None:
    """What just ends is taken note of; what follows waits until it is resumed."""
    assert driver.runs.pause(run, told()) is RunState.RUNNING
    assert driver.runs.pause(run, told()) is RunState.PAUSED
    with pytest.raises(Halted, match="is paused"):
        driver.runs.job(run.id, M1)
    driver.move(run, M1, last=False)
    assert driver.move(run, M1.after) == []
    assert driver.runs.advance(run) == []
    with pytest.raises(Busy):
        driver.submit(databases=("postgresql",))
    assert driver.runs.resume(run, told("resumed")) is RunState.PAUSED
    assert state(driver, run) is RunState.RUNNING
    assert set(driver.runs.advance(run)) == {M2, P1}
    assert driver.runs.resume(run, told("resumed")) is RunState.RUNNING
    kinds = [event.kind for event in driver.runs.events(run.id)]
    assert kinds == ["paused", "applied", "resumed"]


def test_a_run_that_is_paused_at_its_very_end(driver: Driver, run: Run) -> None:
    """It is over when it is resumed, and not before."""
    driver.move(run, M1, last=False)
    driver.move(run, M1.after)
    driver.move(run, M2)
    driver.runs.pause(run, told())
    driver.move(run, P1)
    assert state(driver, run) is RunState.PAUSED
    driver.runs.resume(run, told())
    driver.runs.advance(run)
    assert state(driver, run) is RunState.DONE
    assert driver.runs.pause(run, told()) is RunState.DONE


def test_paused_before_there_is_a_plan(driver: Driver) -> None:
    """Nobody starts it; resumed, it is planned as if nothing had been."""
    run = driver.submit()
    driver.runs.pause(run, told())
    assert not driver.runs.start(run, driver.plan(run))
    driver.runs.resume(run, told())
    assert driver.start(run) == [M1]


def test_a_failure_while_it_is_paused(driver: Driver, run: Run) -> None:
    """It stays paused, and has failed when it goes on: first what was done is undone."""
    driver.runs.pause(run, told())
    undo = M1._replace(until=1)
    driver.runs.failed(run, M1, failed(M1, "no"), undo)
    assert state(driver, run) is RunState.PAUSED
    driver.runs.resume(run, told())
    assert state(driver, run) is RunState.FAILING
    driver.runs.moved(run, undo, None, told("rolled_back"), ended=False)
    assert state(driver, run) is RunState.FAILED


def test_a_paused_run_that_cannot_go_on_ends(driver: Driver) -> None:
    """A survey that was under way may still find that the database is not to be reached."""
    run = driver.submit()
    driver.runs.pause(run, told())
    driver.runs.end(run, RunState.UNREACHABLE, [Problem("", "", "no", "")])
    assert state(driver, run) is RunState.UNREACHABLE


# -- cancelled -----------------------------------------------------------------------------


def test_cancelled_before_anything_began(driver: Driver, redis: Any) -> None:
    """It ends at once, paused or not, and gives its databases back."""
    run = driver.submit()
    driver.runs.pause(run, told())
    assert driver.runs.cancel(run, told("cancelled"), keep=False) is RunState.PAUSED
    assert state(driver, run) is RunState.CANCELLED
    assert redis.hgetall(f"{NAMESPACE}:active") == {}
    second = driver.submit()
    driver.runs.start(second, driver.plan(second))
    driver.runs.cancel(second, told("cancelled"), keep=False)
    assert state(driver, second) is RunState.CANCELLED
    assert driver.runs.cancel(second, told(), keep=True) is RunState.CANCELLED
    assert driver.runs.open() == []


def test_cancelled_in_the_middle(driver: Driver, run: Run) -> None:
    """Nothing new begins, the databases are kept, and it ends when what is open is undone."""
    driver.move(run, M1, last=False)
    driver.move(run, M1.after)
    driver.runs.cancel(run, told("cancelled"), keep=False)
    assert state(driver, run) is RunState.CANCELLING
    assert driver.runs.cancel(run, told(), keep=False) is RunState.CANCELLING
    assert driver.runs.job(run.id, M2).cancelled
    assert driver.runs.job(run.id, P1).cancelled  # it need not be confirmed any more
    undo = M2._replace(until=1)
    assert driver.runs.moved(run, M2, undo, told(), ended=False) == []
    assert not driver.runs.job(run.id, undo).cancelled
    driver.runs.failed(run, undo, failed(undo, "no way back"))
    with pytest.raises(Busy):
        driver.submit(databases=("postgresql",))
    driver.runs.moved(run, P1, None, told("left"), ended=False)
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    assert (snapshot.state, snapshot.done) == (RunState.CANCELLED, {"mongodb": 1})


def test_a_way_back_may_be_paused(driver: Driver, run: Run) -> None:
    """Also that of a run that is cancelled; and a paused run may be cancelled."""
    driver.runs.cancel(run, told(), keep=False)
    driver.runs.pause(run, told())
    driver.runs.failed(run, M1, failed(M1, "no"), M1._replace(until=1))
    driver.runs.resume(run, told())
    assert state(driver, run) is RunState.CANCELLING
    driver.runs.pause(run, told())
    driver.runs.cancel(run, told(), keep=False)
    assert state(driver, run) is RunState.CANCELLING


def test_cancelled_and_kept(driver: Driver, run: Run) -> None:
    """It ends at once, whatever is open, also where it was being cancelled already."""
    driver.runs.cancel(run, told(), keep=False)
    assert driver.runs.cancel(run, told(), keep=True) is RunState.CANCELLING
    assert state(driver, run) is RunState.CANCELLED
    with pytest.raises(Halted, match="is cancelled"):
        driver.runs.job(run.id, M1)
    assert driver.submit().id != run.id


def test_a_rollback_that_is_cancelled(driver: Driver) -> None:
    """What is open is undone to its end, for half of it would be of no use; nothing new begins."""
    run = driver.submit(direction=Direction.BACK, target="0.0.0")
    order = {"orders": {"mongodb": ("1.1.0", "1.0.0")}, "dependencies": {}}
    first = {"mongodb:1.1.0": "1.1.0 1 1", "mongodb:1.0.0": "1.0.0 2 1"}
    made = driver.plan(run).model_copy(update={**order, "first": first})
    driver.runs.start(run, made)
    (undo,) = driver.runs.begun(run, "mongodb", 1)
    driver.runs.cancel(run, told(), keep=False)
    job = driver.runs.job(run.id, undo)
    assert (job.forward, job.cancelled) == (False, False)
    assert sent(driver) == [["mongodb.kind_1"]]
    driver.runs.moved(run, undo, None, told("rolled_back"))
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    assert (snapshot.state, snapshot.done) == (RunState.CANCELLED, {"mongodb": 1})


# -- between batches -----------------------------------------------------------------------


def control(driver: Driver, run: Run, *, forward: bool = True) -> OperationControl:
    """What a worker asks that is at the first operation."""
    leases = Leases(driver.redis, NAMESPACE, 10)
    return OperationControl(
        lease=leases.acquire(key(M1), owner("w", {}), run.id),
        leases=leases,
        runs=driver.runs,
        run=run.id,
        key=key(M1),
        progress=progress(M1),
        shutting_down=lambda: False,
        forward=forward,
        _asked=0,
    )


def test_the_question_between_batches(driver: Driver, run: Run) -> None:
    """Who works on a paused run stops; of a cancelled one only who goes forward."""
    asks = control(driver, run)
    asks.check()
    driver.runs.pause(run, told())
    assert isinstance(asks.ending(), Halted)
    asks._asked = 0
    with pytest.raises(Halted, match="is paused"):
        asks.check()
    driver.runs.resume(run, told())
    assert asks.ending() is None
    driver.runs.cancel(run, told(), keep=False)
    asks._asked = 0
    with pytest.raises(Cancelled):
        asks.check()
    asks.lease.release()
    assert control(driver, run, forward=False).ending() is None
    driver.redis.flushall()
    gone = asks.ending()
    assert isinstance(gone, Stopped)
    assert not isinstance(gone, Halted)  # what the server does for us, a new submit adopts


# -- rescuers, messages --------------------------------------------------------------------


def sent(driver: Driver) -> list[list[str]]:
    """What a rescuer sends that looks for the first time, by task."""
    settings = Settings(_env_file=None, namespace=NAMESPACE, rescue_seconds=0.1)  # type: ignore[call-arg]
    rescuer = Rescuer(settings, driver.redis, ["mongodb", "postgresql"], lambda _database: 0)
    return [[message.task for message in chain] for chain in rescuer.look()]


def test_rescuers_leave_a_paused_run_alone(driver: Driver) -> None:
    """Whatever it is at."""
    run = driver.submit()
    driver.runs.pause(run, told())
    assert sent(driver) == []
    driver.runs.resume(run, told())
    driver.start(run)
    driver.runs.pause(run, told())
    assert sent(driver) == []
    driver.runs.resume(run, told())
    assert sent(driver) == [["mongodb.kind_1", "mongodb.kind_2"]]


def test_rescuers_send_a_cancelled_run_back(driver: Driver, run: Run) -> None:
    """One message for each database, which asks no other database first."""
    driver.move(run, M1, last=False)
    driver.move(run, M1.after)
    driver.runs.cancel(run, told(), keep=False)
    assert sent(driver) == [["mongodb.kind_1"], ["postgresql.kind_1"]]


# -- the turn ------------------------------------------------------------------------------

CREATE = {"type": "create_collection", "collection": "c"}
REMOVE = {"type": "remove_field", "collection": "c", "field": "f"}


class FakeDatabase:
    """A database with a journal that says what the test wants, and takes entries."""

    name = "mongodb"

    def __init__(self) -> None:
        self.journal = self
        self.records: list[MigrationRecord] = []
        self.entries: list[Entry] = []
        self.error: Exception | None = None

    def survey(self) -> Survey:
        """What is there."""
        if self.error is not None:
            raise self.error
        return Survey(database="mongodb", migrations=self.records)

    def audit(self, entry: Entry) -> None:
        """Keep it, or fail."""
        if self.error is not None:
            raise self.error
        self.entries.append(entry)

    def classify(self, error: BaseException) -> Fault:
        """Nothing passes."""
        return Fault.LASTING

    def describe(self, error: BaseException) -> str:
        """The message."""
        return f"described: {error}"


def real(*operations: dict[str, Any]) -> Migration:
    """A migration of MongoDB with operations that there are."""
    return Migration(
        database="mongodb",
        version="1.0.0",
        name="change",
        migration_type="schema",
        operations=operations,
        file="mongodb/001_change.json",
    ).with_checksum()


class Turning:
    """A cancelled run at an operation, and a worker that its message comes to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *operations: dict[str, Any]) -> None:
        self.driver = Driver(FakeRedis(decode_responses=True), real(*operations))
        self.run = self.driver.submit()
        self.driver.start(self.run)
        self.driver.runs.cancel(self.run, told(), keep=False)
        settings = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
        self.context = Context(
            settings, self.driver.redis, worker="w@h", shutting_down=lambda: False
        )
        self.database = FakeDatabase()
        monkeypatch.setattr(self.context, "database", lambda _name: self.database)

    def journal(self, migration: MigrationState, *operations: OperationState) -> None:
        """Let the journal say this."""
        (file,) = self.driver.migrations
        kinds = [str(each["type"]) for each in file.operations]
        record = MigrationRecord(
            version="1.0.0",
            name="change",
            state=migration,
            checksum="c",
            run="r",
            by="me",
            started=datetime.now(UTC),
            operations=[
                OperationRecord(number=n, type=kinds[n - 1], state=each)
                for n, each in enumerate(operations, start=1)
            ],
        )
        self.database.records = [record]

    def turn(self) -> list[list[dict[str, Any]]]:
        """Carry the message out; return the arguments of what is to be sent."""
        chains = carry_out(self.context, self.run.id, M1)
        return [[message.arguments for message in chain] for chain in chains]

    @property
    def told(self) -> tuple[str, str]:
        """The last event."""
        event = self.driver.runs.events(self.run.id)[-1]
        return event.kind, event.text


def test_what_has_not_begun_is_not_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal knows nothing of it: nothing is written there, and the run is over."""
    turning = Turning(monkeypatch, CREATE)
    assert turning.turn() == []
    assert turning.told == ("cancelled", "mongodb:1.0.0#1 had not begun")
    assert turning.driver.runs.state(turning.run.id) is RunState.CANCELLED


def test_what_was_applied_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker died between its last write and telling the run: that is made up for."""
    turning = Turning(monkeypatch, CREATE)
    turning.journal(MigrationState.APPLIED, OperationState.DONE)
    assert turning.turn() == []
    assert turning.told[0] == "applied"
    snapshot = turning.driver.runs.snapshot(turning.run.id)
    assert snapshot is not None
    assert (snapshot.state, snapshot.done) == (RunState.CANCELLED, {"mongodb": 1})


def test_an_earlier_run_had_come_further(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is undone from there, down to what cannot be undone."""
    turning = Turning(monkeypatch, REMOVE, CREATE, CREATE, CREATE)
    done = OperationState.DONE
    turning.journal(MigrationState.RUNNING, done, done, OperationState.RUNNING)
    (chain,) = turning.turn()
    assert [(each["operation"], each["undo_until"]) for each in chain] == [(3, 2), (2, 2)]


def test_what_cannot_be_undone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is the last thing that was begun, all of the migration stays."""
    turning = Turning(monkeypatch, CREATE, REMOVE)
    turning.journal(MigrationState.RUNNING, OperationState.DONE, OperationState.RUNNING)
    assert turning.turn() == []
    kind, text = turning.told
    assert kind == "left"
    assert "1 create_collection, 2 remove_field" in text


def test_a_database_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run stays as it is, says why, and whoever is sent there next tries again."""
    turning = Turning(monkeypatch, CREATE)
    turning.database.error = OSError("no primary")
    with pytest.raises(StepAside):
        turning.turn()
    assert turning.told[0] == "waiting"
    assert turning.driver.runs.state(turning.run.id) is RunState.CANCELLING
    turning.database.error = None
    turning.turn()
    assert turning.driver.runs.state(turning.run.id) is RunState.CANCELLED


@pytest.mark.parametrize("answers", [True, False])
def test_a_failure_whose_journal_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, *, answers: bool
) -> None:
    """Nothing is claimed of what can be undone where the journal could not be asked."""
    turning = Turning(monkeypatch, REMOVE, CREATE)
    turning.journal(MigrationState.FAILED, OperationState.FAILED)
    if not answers:
        turning.database.error = OSError("no primary")
    job = turning.context.runs.job(turning.run.id, M1)
    failure = MigrationFailed("no", MigrationState.FAILED)
    assert _failed(turning.context, job, failure) == []
    told = [event.kind for event in turning.driver.runs.events(turning.run.id)]
    assert ("left" in told) is answers
    assert told[-1] == "failed"


def test_a_failure_that_left_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever watches is told that it is rolled back, as after a way back."""
    turning = Turning(monkeypatch, CREATE)
    job = turning.context.runs.job(turning.run.id, M1)
    failure = MigrationFailed("no", MigrationState.ROLLED_BACK, kept=False)
    assert _failed(turning.context, job, failure) == []
    told = [(e.kind, e.version) for e in turning.driver.runs.events(turning.run.id)]
    assert told[-2:] == [("rolled_back", "1.0.0"), ("failed", "1.0.0")]


# -- the commands --------------------------------------------------------------------------


class Stage:
    """Runs, one worker, and the commands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
        without_settings(monkeypatch)
        self.driver = driver
        self.redis = driver.redis
        settings = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
        self.database = FakeDatabase()
        self.context = Context(settings, self.redis, worker="w@h", shutting_down=lambda: False)
        monkeypatch.setattr(self.context, "database", lambda _name: self.database)
        monkeypatch.setattr(common, "read", lambda: settings)
        monkeypatch.setattr(common, "send", self._send)
        monkeypatch.setattr(steering, "require_redis", lambda _settings: self.redis)
        monkeypatch.setattr(steering, "ANSWER_SECONDS", 0.2)
        self.patch = monkeypatch
        self.sent: list[list[str]] = []
        self.busy = False

    def serve(self) -> None:
        """Let a worker be alive that serves both databases."""
        worker = Worker(name="w@h", databases=("mongodb", "postgresql"))
        Workers(self.redis, NAMESPACE).announce(worker, 100)

    def _send(self, chains: Iterable[Chain]) -> None:
        for chain in chains:
            (message, *_) = chain
            self.sent.append([each.task for each in chain])
            if message.task == "audit" and not self.busy:
                asked.audit(self.context, **message.arguments)

    def call(self, *arguments: str, answer: str | None = None) -> Result:
        """Run `dharma ARGUMENTS`; with an `answer` on a terminal."""
        self.patch.setattr(common, "on_terminal", lambda: answer is not None)
        return CliRunner().invoke(main, arguments, input=answer)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> Stage:
    """The stage, with a worker."""
    made = Stage(monkeypatch, driver)
    made.serve()
    return made


def test_0_paused_and_resumed(stage: Stage, run: Run) -> None:
    """The history has who did it; resumed, what is open is sent at once."""
    paused = stage.call("pause", "--by", "me@here")
    assert paused.exit_code == 0, paused.output
    assert "mongodb: 1.0.0 operation 1" in paused.stdout
    assert f"dharma resume {run.id}" in paused.stdout
    # postgresql has opened its journal too, but is at nothing
    assert "history of mongodb, postgresql as done by me@here (" in paused.stdout
    assert stage.call("pause").stdout == f"Run {run.id} is paused already.\n"
    stage.sent.clear()
    resumed = stage.call("resume", run.id, "--by", "you@there")
    assert resumed.exit_code == 0, resumed.output
    assert stage.sent[0] == ["mongodb.kind_1", "mongodb.kind_2"]
    said = [(e.event, e.by, str(e.key)) for e in stage.database.entries if e.key.version]
    assert said == [
        ("paused", who_asks("me@here"), "mongodb:1.0.0#1"),
        ("resumed", who_asks("you@there"), "mongodb:1.0.0#1"),
    ]
    assert "is not paused: it is running" in stage.call("resume").stdout


def test_json_of_what_was_done(stage: Stage, run: Run) -> None:
    """The run, what it was before, which histories have it; what people read goes to stderr."""
    paused = stage.call("pause", "--json")
    found = json.loads(paused.stdout)
    assert "Paused: what is open stops" in paused.stderr
    assert (found["run"], found["was"], found["exit_status"]) == (run.id, "running", 0)
    assert (found["written"], found["not_written_yet"]) == (["mongodb", "postgresql"], [])
    assert json.loads(stage.call("resume", "--json").stdout)["was"] == "paused"
    cancelled = stage.call("cancel", "--json", "--yes")
    assert json.loads(cancelled.stdout)["message"].startswith("Written to the history of mongodb")
    gone = json.loads(stage.call("pause", "x", "--json").stdout)
    assert gone["exit_status"] == 2
    assert gone["message"].startswith("run x is not known to Redis")


def test_what_became_ready_meanwhile_is_sent(stage: Stage, run: Run) -> None:
    """An operation may end just after its run was paused: what follows needs no rescuer."""
    stage.call("pause")
    stage.driver.move(run, M1, last=False)
    stage.driver.move(run, M1.after)
    stage.sent.clear()
    assert stage.call("resume").exit_code == 0
    assert [chain for chain in stage.sent if chain != ["audit"]] == [
        ["mongodb.kind_1"],
        ["confirm", "postgresql.kind_1"],
    ]


def test_twice_the_same_is_two_entries(stage: Stage, run: Run) -> None:
    """A message that comes twice is one; a person that does it twice is not."""
    assert run
    for command in ("pause", "resume", "pause"):
        assert stage.call(command, "--by", "me").exit_code == 0
    assert len({entry.id for entry in stage.database.entries}) == 6


def test_which_run(stage: Stage) -> None:
    """The only open one needs no name; of several one must be named, and must be open."""
    none = stage.call("pause")
    assert (none.exit_code, "no run is open" in none.stderr) == (2, True)
    first = stage.driver.submit(databases=("mongodb",))
    stage.driver.migrations = (migration("elasticsearch", "1.0.0"),)
    second = stage.driver.submit(databases=("elasticsearch",))
    several = stage.call("cancel")
    assert several.exit_code == 2
    assert f"{first.id} (mongodb, planning)" in several.stderr
    assert second.id in several.stderr
    assert stage.call("cancel", first.id).exit_code == 0
    over = stage.call("pause", first.id)
    assert over.exit_code == 2
    assert f"run {first.id} is cancelled" in over.stderr
    assert "not known" in stage.call("pause", "nobody").stderr
    assert stage.call("pause").exit_code == 0


def test_cancel_asks_on_a_terminal(stage: Stage, run: Run) -> None:
    """It says what becomes of what is open; a no changes nothing."""
    refused = stage.call("cancel", answer="n\n")
    assert refused.exit_code == 2
    assert "What is open is rolled back. [y/N]" in refused.stderr
    assert "Nothing was changed." in refused.stdout
    assert stage.call("cancel", answer="").exit_code == 2
    assert state(stage.driver, run) is RunState.RUNNING
    assert stage.call("cancel", answer="y\n").exit_code == 0
    assert state(stage.driver, run) is RunState.CANCELLING
    assert ["mongodb.kind_1"] in stage.sent
    again = stage.call("cancel", "--yes", answer="")
    assert "being cancelled already" in again.stdout
    kept = stage.call("cancel", "--keep", "--yes", answer="")
    assert "stays where it is" in kept.stdout
    assert state(stage.driver, run) is RunState.CANCELLED


def test_keep_what_is_half_undone(stage: Stage, run: Run) -> None:
    """A submit cannot go on over it, whichever way the run went."""
    driver = stage.driver
    driver.runs.failed(run, M1, failed(M1, "no"), M1._replace(until=1))
    kept = stage.call("cancel", "--keep", "--yes")
    assert "stays half undone: `dharma rollback` goes on with it." in kept.stdout
    back = driver.submit(direction=Direction.BACK, target="0.0.0")
    order = {"orders": {"mongodb": ("1.0.0",)}, "first": {"mongodb:1.0.0": "1.0.0 2 1"}}
    driver.runs.start(back, driver.plan(back).model_copy(update=order))
    driver.runs.begun(back, "mongodb", 1)
    kept = stage.call("cancel", "--keep", "--yes")
    assert "stays half undone: the same rollback goes on with it." in kept.stdout


def test_workers_that_are_busy_or_gone(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, run: Run
) -> None:
    """The run is paused all the same: they may be busy with what is to stop."""
    stage = Stage(monkeypatch, driver)
    stage.busy = True
    for _ in range(2):
        paused = stage.call("pause")
        assert paused.exit_code == 0, paused.output
        assert "as soon as a worker is free" in paused.stdout
        assert state(driver, run) is RunState.PAUSED
        stage.call("resume")
        stage.serve()


def test_4_a_history_that_cannot_be_written(stage: Stage, run: Run) -> None:
    """It is said, with the database's own words; what was asked for is done."""
    stage.database.error = OSError("no primary")
    result = stage.call("pause")
    assert result.exit_code == 4
    assert "described: no primary" in result.stderr
    assert state(stage.driver, run) is RunState.PAUSED
