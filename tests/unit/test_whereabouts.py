"""A worker that is connected to another database than was named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_run import NAMESPACE, Driver, migration
from fakeredis import FakeRedis
from model import Faults, ModelDatabase, ModelJournal, Passing, Server

from dharma_tasks.flow import context, planning
from dharma_tasks.flow.context import Context
from dharma_tasks.journal import Opening
from dharma_tasks.messages import Chain
from dharma_tasks.records import Survey
from dharma_tasks.run import RunState
from dharma_tasks.runs import Busy
from dharma_tasks.settings import Settings

NAMED = {"mongodb": "the model"}


class Journal(ModelJournal):
    """A journal that tells whether a run was opened in it."""

    def survey(self) -> Survey:
        return Survey(database="mongodb")

    def begin(self, opening: Opening, expected: int) -> int:
        self.server.fence += 1
        return super().begin(opening, expected)


@pytest.fixture
def driver() -> Driver:
    """Somebody who submits one migration of MongoDB."""
    return Driver(FakeRedis(decode_responses=True), migration("mongodb", "1.0.0"))


@pytest.fixture
def worker(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], Context]:
    """Make workers, each connected to a server."""

    def make(server: Server) -> Context:
        database = ModelDatabase(server, Faults())
        database._journal = Journal(server, Faults())
        settings = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
        made = Context(settings, driver.redis, worker="w@h", shutting_down=lambda: False)
        monkeypatch.setattr(context, "connect", lambda *_: database)
        return made

    return make


def sent(chains: list[Chain]) -> list[str]:
    """What is to be done next."""
    return [chain[0].task for chain in chains]


def test_the_right_worker_begins(driver: Driver, worker: Callable[[Server], Context]) -> None:
    """Where it is the same, planning goes on as if nobody had named anything."""
    run, server = driver.submit(whereabouts=NAMED), Server({})
    assert sent(planning.survey(worker(server), run.id, "mongodb")) == ["begin"]
    assert sent(planning.begin(worker(server), run.id, "mongodb")) == ["mongodb.kind_1"]


def test_another_one_plans_nothing(driver: Driver, worker: Callable[[Server], Context]) -> None:
    """The run is refused before anything is planned, and both databases are named."""
    run = driver.submit(whereabouts=NAMED)
    assert planning.survey(worker(Server({}, whereabouts="a copy")), run.id, "mongodb") == []
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.state is RunState.REFUSED
    (problem,) = snapshot.problems
    assert "the worker w@h is connected to another mongodb than was named" in problem.what
    assert "to a copy, and not to the model" in problem.what
    assert "DHARMA_MONGODB_URL" in problem.todo
    assert driver.runs.plan(run) is None


def test_another_one_begins_nothing(driver: Driver, worker: Callable[[Server], Context]) -> None:
    """Of two workers the right one has planned: the other one still opens no journal."""
    run, other = driver.submit(whereabouts=NAMED), Server({}, whereabouts="a copy")
    planning.survey(worker(Server({})), run.id, "mongodb")
    assert planning.begin(worker(other), run.id, "mongodb") == []
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.state is RunState.REFUSED
    assert other.fence == 0


def test_a_database_that_cannot_say_it(
    driver: Driver, worker: Callable[[Server], Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then nobody knows, and nothing begins; a passing error is tried over."""
    answers: list[Exception] = [Passing(), ValueError("no")]

    def fail(_self: ModelDatabase) -> str:
        raise answers.pop(0)

    monkeypatch.setattr(ModelDatabase, "whereabouts", fail)
    run = driver.submit(whereabouts=NAMED)
    assert planning.survey(worker(Server({})), run.id, "mongodb") == []
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.state is RunState.UNREACHABLE
    assert answers == []


def test_who_names_a_database_does_not_join_who_names_none(driver: Driver) -> None:
    """A run that works anywhere is not what was asked for; an equal one is."""
    first = driver.submit()
    with pytest.raises(Busy):
        driver.submit(whereabouts=NAMED)
    assert driver.submit().id == first.id
    driver.runs.end(first, RunState.DONE, [])
    named = driver.submit(whereabouts=NAMED)
    assert driver.submit(whereabouts=NAMED).id == named.id
