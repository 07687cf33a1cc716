"""`submit --inline`: the whole flow in this process, interrupted and gone on with."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner, Result
from fake_run import NAMESPACE, ReadFolder, migration, without_settings
from fakeredis import FakeRedis
from model import Faults, Increment, ModelDatabase, ModelJournal, Passing, Server
from pydantic import SecretStr

from dharma_tasks import (
    DatabaseMigrationManager,
    MongoDBManager,
    RunResult,
    RunState,
    conduct,
    inline,
    reading,
    reversal,
)
from dharma_tasks import submit as submitting
from dharma_tasks.cli import common, main
from dharma_tasks.errors import CutOff, Unequipped
from dharma_tasks.flow import context, planning, revealing
from dharma_tasks.limits import Window
from dharma_tasks.operations.base import Burden
from dharma_tasks.records import Direction, MigrationState, Survey
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.work import Step, Work


class Slow(Increment):
    """One document at a time, slowly enough to be interrupted."""

    kind: ClassVar[str] = "kind_1"
    size: int = 1

    def step(self, work: Work[dict[int, int]]) -> Step:
        """Take a millisecond."""
        time.sleep(0.001)
        return super().step(work)


class Heavy(Slow):
    """Bulk work."""

    def burden(self, direction: Direction) -> Burden:
        return Burden(heavy=True)


class Journal(ModelJournal):
    """A model's journal that belongs to a database which exists."""

    def survey(self) -> Survey:
        """Nothing is applied."""
        if self.server.error == "unreadable":
            msg = "the journal cannot be read"
            raise OSError(msg)
        return Survey(database="mongodb")


class Stage:
    """One database in memory, and a command line that works on it itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_settings(monkeypatch)
        self.redis = FakeRedis(decode_responses=True)
        self.server = Server(dict.fromkeys(range(300), 0))
        self.operation = Slow()
        self.faults = Faults()
        self._patch = monkeypatch
        settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            namespace=NAMESPACE,
            mongodb_url=SecretStr("model://"),
            lease_seconds=1,
        )
        folder = ReadFolder(migration("mongodb", "1.0.0"))
        monkeypatch.setattr(common, "read", lambda: settings)
        monkeypatch.setattr(conduct, "require_redis", lambda _settings: self.redis)
        monkeypatch.setattr(conduct, "read_folder", lambda *_: folder)
        monkeypatch.setattr(submitting, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(context, "connect", lambda *_: self.database())
        for module in (revealing, reversal):
            monkeypatch.setattr(module, "catalogue", lambda _database: self)

    def database(self) -> ModelDatabase:
        """A new connection."""
        found = ModelDatabase(self.server, self.faults)
        found._journal = Journal(self.server, self.faults)
        return found

    def parse(self, _operation: object) -> Slow:
        """As a catalogue does."""
        return self.operation

    def interrupted_at(self, done: int) -> None:
        """Let Ctrl-C come when so many documents are done."""
        watch = conduct.watch

        def until(runs: Runs, run: str, patience: submitting.Patience) -> Iterator[submitting.Step]:
            for seen in watch(runs, run, patience):
                if self.server.done >= done:
                    self._patch.setattr(conduct, "watch", watch)
                    raise KeyboardInterrupt
                yield seen

        self._patch.setattr(conduct, "watch", until)

    def submit(self, *options: str) -> Result:
        """Run `dharma submit --inline`."""
        return CliRunner().invoke(main, ["submit", "--inline", "--timeout", "30", *options])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage."""
    return Stage(monkeypatch)


def test_it_applies_without_a_worker(stage: Stage) -> None:
    """From the folder to the end of the run in one process; leases are given back."""
    result = stage.submit()
    assert result.exit_code == 0, result.output
    assert "mongodb 1.0.0 change applied in" in result.stdout
    assert set(stage.server.documents.values()) == {1}
    assert stage.redis.keys(f"{NAMESPACE}:lease:*") == []


@pytest.mark.parametrize("kind", [Heavy, Slow])
def test_bulk_work_rests_outside_its_window(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kind: type[Slow]
) -> None:
    """It closes in the middle: the work is let go, and taken up again by itself when it opens."""
    stage.operation = kind()
    opens: list[datetime] = []

    def is_open(_window: Window, at: datetime) -> bool:
        if stage.server.done >= 100 and not opens:
            opens.append(at + timedelta(seconds=1))
        return not opens or at >= opens[0]

    monkeypatch.setattr(Window, "is_open", is_open)
    monkeypatch.setattr(Window, "opens", lambda _window, _after: opens[0])
    result = stage.submit("--window", "01:00-05:00")
    assert result.exit_code == 0, result.output
    assert set(stage.server.documents.values()) == {1}
    assert stage.server.fence == (2 if kind is Heavy else 1)
    assert stage.server.attempts == 0


class Outage(Faults):
    """From its 40th point on the database does not answer, until somebody has given up on it."""

    def __init__(self, given_up: list[CutOff]) -> None:
        super().__init__()
        self.given_up = given_up

    def point(self) -> None:
        """Fail until then."""
        self.points += 1
        if self.points >= 40 and not self.given_up:
            raise Passing


def test_it_waits_for_its_database(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker would leave the work to another one after a lease's time: here is no other."""
    given_up: list[CutOff] = []
    carry_out = inline.carry_out

    def noting(*arguments: Any, **options: Any) -> Any:
        try:
            return carry_out(*arguments, **options)
        except CutOff as reason:
            given_up.append(reason)
            raise

    monkeypatch.setattr(inline, "carry_out", noting)
    stage.faults = Outage(given_up)
    result = stage.submit()
    assert result.exit_code == 0, result.output
    assert len(given_up) == 1
    assert set(stage.server.documents.values()) == {1}


def test_ctrl_c_stops_between_two_batches(stage: Stage) -> None:
    """The next submit goes on with the same run from there, and nothing is done twice."""
    stage.interrupted_at(10)
    result = stage.submit()
    assert result.exit_code == 3
    assert "the same submit again goes on with it" in result.stderr
    stopped = stage.server.done
    assert 10 <= stopped < 300
    assert stage.server.attempts <= 0
    (found,) = Runs(stage.redis, NAMESPACE).open()
    again = stage.submit()
    assert again.exit_code == 0, again.output
    assert f"Joined run {found.run.id}" in again.stdout
    assert set(stage.server.documents.values()) == {1}


def test_a_program_that_is_cancelled_stops_between_two_batches(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the call has ended nothing goes on; the same call goes on from there, and once."""
    monkeypatch.setattr(reading, "connect", lambda *_: stage.database())
    manager = DatabaseMigrationManager(
        MongoDBManager("model://", "app"), namespace=NAMESPACE, inline=True
    )

    async def program() -> RunResult:
        task = asyncio.create_task(manager.run_migrations())
        async with asyncio.timeout(30):
            while stage.server.done < 10:  # noqa: ASYNC110 - a thread brings it about
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "inline-worker" not in {thread.name for thread in threading.enumerate()}
        assert stage.redis.keys(f"{NAMESPACE}:lease:*") == []
        assert 10 <= stage.server.done < 300
        assert stage.server.attempts <= 0
        return await manager.run_migrations()

    assert asyncio.run(program()).state is RunState.DONE
    assert set(stage.server.documents.values()) == {1}


def test_a_failure_has_its_message(stage: Stage) -> None:
    """What fails in this process is told like what fails in a worker, and undone."""
    stage.operation = Slow(fails_at=20)
    result = stage.submit()
    assert result.exit_code == 1
    assert "document 20 is bad" in result.stderr
    assert "What was done of it is undone: it is rolled back." in result.stderr
    assert stage.server.migration is MigrationState.ROLLED_BACK
    assert set(stage.server.documents.values()) == {0}


def test_a_database_that_cannot_be_read(stage: Stage) -> None:
    """Then nothing begins, and the exit status says that a service is missing."""
    stage.server.error = "unreadable"
    result = stage.submit()
    assert result.exit_code == 4
    assert "mongodb cannot be used: model: the journal cannot be read" in result.stderr


def test_a_secret_that_is_not_here_ends_the_submit(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else could have it; with it the same submit goes on with the run."""
    carry_out = inline.carry_out

    def without(*_: object, **__: object) -> None:
        msg = "DHARMA_SECRET_TOKEN is not set there"
        raise Unequipped(msg)

    monkeypatch.setattr(inline, "carry_out", without)
    result = stage.submit()
    assert result.exit_code == 4
    assert (
        "DHARMA_SECRET_TOKEN is not set there. Set it and ask for the same again" in result.stderr
    )
    assert "DHARMA_LOG_LEVEL" not in result.stderr
    monkeypatch.setattr(inline, "carry_out", carry_out)
    again = stage.submit()
    assert again.exit_code == 0, again.output
    assert "Joined run" in again.stdout


def test_a_fault_of_ours_ends_the_submit(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What breaks in the thread that works is not waited for until the time is over."""

    def broken(*_: object, **__: object) -> None:
        msg = "a bug"
        raise RuntimeError(msg)

    monkeypatch.setattr(planning, "begin", broken)
    result = stage.submit()
    assert result.exit_code == 1
    assert "RuntimeError: a bug" in result.stderr
