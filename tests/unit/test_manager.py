"""`DatabaseMigrationManager`: what it asks for, returns and raises, and that it never blocks."""

from __future__ import annotations

import asyncio
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fake_run import NAMESPACE, Driver, ReadFolder, migration, without_settings
from fakeredis import FakeRedis
from model import Faults, ModelDatabase, Server
from pydantic import SecretStr

import dharma_tasks
from dharma_tasks import (
    DatabaseMigrationManager,
    ElasticsearchManager,
    Limits,
    MongoDBManager,
    PostgreSQLManager,
    Refused,
    RunCancelled,
    RunFailed,
    RunProgress,
    RunResult,
    RunState,
    Unreachable,
    conduct,
    manager,
    reading,
    status,
)
from dharma_tasks import submit as submitting
from dharma_tasks.errors import Problem
from dharma_tasks.messages import Chain
from dharma_tasks.records import Direction
from dharma_tasks.run import Run
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Worker, Workers

FOLDER = (
    migration("mongodb", "1.0.0", name="create_users"),
    migration("mongodb", "1.1.0", name="add_email"),
    migration("postgresql", "1.0.0", "mongodb:1.0.0", name="create_projects"),
)
PASSWORD = "s3cret"
URLS = {
    "mongodb": f"mongodb://me:{PASSWORD}@host/admin",
    "postgresql": f"postgresql://me:{PASSWORD}@host/app",
    "elasticsearch": f"https://me:{PASSWORD}@host:9200",
}


class Stage:
    """A program whose Redis is fake and whose workers do what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_settings(monkeypatch)
        self.redis = FakeRedis(decode_responses=True)
        self.driver = Driver(self.redis, *FOLDER)
        self.workers = Workers(self.redis, NAMESPACE)
        self.workers.announce(Worker(name="w@h", databases=("mongodb", "postgresql")), 100)
        self.does: Callable[[Run], None] = lambda _run: None
        self.sent: list[Chain] = []
        self.settings: list[Settings] = []
        monkeypatch.setattr(conduct, "read_folder", lambda *_: ReadFolder(*FOLDER))
        for module in (conduct, manager, status):
            monkeypatch.setattr(module, "require_redis", lambda _settings: self.redis)
        monkeypatch.setattr(manager, "_sender", self._sender)
        monkeypatch.setattr(reading, "connect", self._connect)
        monkeypatch.setattr(submitting, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(submitting, "WORKER_SECONDS", 0.02)

    def _connect(self, name: str, settings: Settings) -> ModelDatabase:
        assert settings.url(name) is not None
        return ModelDatabase(Server({}, whereabouts=f"the {name}"), Faults())

    def _sender(self, settings: Settings) -> Callable[[Iterable[Chain]], None]:
        self.settings.append(settings)

        def send(chains: Iterable[Chain]) -> None:
            self.sent += chains
            self.does(self.one())

        return send

    def one(self) -> Run:
        """The one run that is open."""
        (found,) = self.driver.runs.open()
        return found.run


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage."""
    return Stage(monkeypatch)


def made(*names: str, **options: Any) -> DatabaseMigrationManager:
    """A manager of these databases."""
    managers: dict[str, Any] = {
        "mongodb": MongoDBManager(URLS["mongodb"], "app"),
        "postgresql": PostgreSQLManager(URLS["postgresql"]),
        "elasticsearch": ElasticsearchManager(URLS["elasticsearch"]),
    }
    chosen = {f"{name}_manager": managers[name] for name in names}
    return DatabaseMigrationManager(**chosen, **{"namespace": NAMESPACE, **options})


def everything(driver: Driver) -> Callable[[Run], None]:
    """Workers that apply all there is."""

    def work(run: Run) -> None:
        ready = driver.start(run)
        while ready:
            ready += driver.move(run, ready.pop(0))

    return work


async def until(condition: Callable[[], object]) -> None:
    """Wait for it, without blocking."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - threads bring it about
            await asyncio.sleep(0.01)


# -- what it asks for ----------------------------------------------------------------------


def test_it_applies_everything(stage: Stage) -> None:
    """The result says what was done where; without managers it is about all, anywhere."""
    stage.does = everything(stage.driver)
    result = asyncio.run(made().run_migrations("latest", by="the app"))
    assert isinstance(result, RunResult)
    assert result.state is RunState.DONE
    assert result.databases["mongodb"].versions == ["1.0.0", "1.1.0"]
    assert result.databases["postgresql"].done == result.databases["postgresql"].total == 1
    assert result.run is not None
    found = stage.driver.runs.snapshot(result.run)
    assert found is not None
    assert (found.run.by, found.run.whereabouts) == (submitting.who_asks("the app"), {})


def test_the_managers_name_the_databases(stage: Stage) -> None:
    """It is about these, those without migrations left out; each must be where it was named."""
    named = made("mongodb", "elasticsearch")
    asyncio.run(named.run_migrations(wait=False))
    run = stage.one()
    assert run.databases == ("mongodb",)
    assert run.whereabouts == {"mongodb": "the mongodb"}
    assert {chain[0].database for chain in stage.sent} == {"mongodb"}


def test_a_database_that_is_relied_on_is_compared_too(stage: Stage) -> None:
    """The run asks it whether what it needs is applied there."""
    named = made("mongodb", "postgresql")
    asyncio.run(named.run_migrations(databases="postgresql", wait=False))
    assert stage.one().databases == ("postgresql",)
    assert sorted(stage.one().whereabouts) == ["mongodb", "postgresql"]


def test_what_is_given_wins_over_the_settings(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything else is as the environment says."""
    monkeypatch.setenv("DHARMA_REDIS_URL", "redis://elsewhere/1")
    monkeypatch.setenv("DHARMA_POSTGRESQL_URL", "postgresql://elsewhere/app")
    monkeypatch.setenv("DHARMA_LEASE_SECONDS", "7")
    given = made("mongodb", redis_url="redis://here/2", migrations_dir="there")
    asyncio.run(given.run_migrations(wait=False))
    (settings,) = stage.settings
    assert settings.redis_url.get_secret_value() == "redis://here/2"
    assert str(settings.migrations_dir) == "there"
    assert settings.mongodb_url == SecretStr(URLS["mongodb"])
    assert settings.mongodb_database == "app"
    assert settings.postgresql_url == SecretStr("postgresql://elsewhere/app")
    assert settings.lease_seconds == 7


def test_a_rollback(stage: Stage) -> None:
    """It goes back, with what was said to it."""
    asyncio.run(
        made().rollback("1.0.0", accept_data_loss=True, limits=Limits(max_rate=5), wait=False)
    )
    run = stage.one()
    assert (run.direction, run.target) == (Direction.BACK, "1.0.0")
    assert run.accept_data_loss
    assert run.limits.max_rate == 5


def test_several_nodes_with_one_login() -> None:
    """User and password are put into every URL that has none, whatever characters they have."""
    hosts = ["https://a:9200", "https://you:own@b:9200"]
    given = ElasticsearchManager(hosts, username="me", password="p@ss,/")
    found = given.settings()["elasticsearch_url"]
    assert isinstance(found, SecretStr)
    assert found.get_secret_value() == "https://me:p%40ss%2C%2F@a:9200,https://you:own@b:9200"


# -- what it raises ------------------------------------------------------------------------


def test_a_migration_failed(stage: Stage) -> None:
    """The database's own words, and what was applied before."""

    def work(run: Run) -> None:
        (first,) = stage.driver.start(run)
        upcoming = stage.driver.move(run, first)
        stage.driver.fail(run, upcoming[0], "E11000 duplicate key")

    stage.does = work
    with pytest.raises(RunFailed, match=r"mongodb 1\.1\.0: E11000 duplicate key") as caught:
        asyncio.run(made("mongodb").run_migrations())
    assert caught.value.result.databases["mongodb"].versions == ["1.0.0"]
    assert caught.value.result.failures[0].version == "1.1.0"
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (str(copy), copy.result) == (str(caught.value), caught.value.result)


def test_a_person_cancelled_it(stage: Stage) -> None:
    """That is another error, with what was done before."""
    stage.does = lambda run: stage.driver.runs.end(run, RunState.CANCELLED, [])
    with pytest.raises(RunCancelled) as caught:
        asyncio.run(made().run_migrations())
    assert caught.value.result.state is RunState.CANCELLED


def test_refused_by_the_plan(stage: Stage) -> None:
    """The problems are those that the command shows."""
    problem = Problem("mongodb/1.json", "version", "1.0.0 comes late", "Renumber it.")
    stage.does = lambda run: stage.driver.runs.end(run, RunState.REFUSED, [problem])
    with pytest.raises(Refused) as caught:
        asyncio.run(made().run_migrations())
    assert caught.value.problems == [problem]


def test_a_setting_that_cannot_be(stage: Stage) -> None:
    """It is named, and its value is not shown."""
    for call in (
        made(namespace="BAD").run_migrations(),
        made(namespace="BAD").get_migration_status(),
    ):
        with pytest.raises(Refused, match="DHARMA_NAMESPACE") as caught:
            asyncio.run(call)
        assert "BAD" not in str(caught.value)


@pytest.mark.parametrize("what", ["worker", "plan"])
def test_unreachable(stage: Stage, what: str) -> None:
    """No worker at all; or one that cannot reach its database."""
    if what == "worker":
        stage.workers.leave("w@h")
    problem = Problem("", "", "mongodb cannot be used: no primary", "Look at the server.")
    stage.does = lambda run: stage.driver.runs.end(run, RunState.UNREACHABLE, [problem])
    with pytest.raises(
        Unreachable, match="no worker is alive" if what == "worker" else "no primary"
    ):
        asyncio.run(made().run_migrations())


def test_a_named_database_that_does_not_answer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is submitted where nobody can tell which database is meant."""

    def fail(_self: ModelDatabase) -> str:
        msg = "no route"
        raise OSError(msg)

    monkeypatch.setattr(ModelDatabase, "whereabouts", fail)
    with pytest.raises(Unreachable, match="mongodb cannot be read: model: no route"):
        asyncio.run(made("mongodb").run_migrations())
    assert stage.driver.runs.open() == []


def test_inline_without_waiting(stage: Stage) -> None:
    """Nobody would do the work."""
    with pytest.raises(ValueError, match="exclude each other"):
        asyncio.run(made(inline=True).run_migrations(wait=False))


def test_no_password_is_shown(stage: Stage) -> None:
    """Not of a manager, not of what holds them; the names of the classes are."""
    for each in (
        MongoDBManager(URLS["mongodb"], "app"),
        PostgreSQLManager(SecretStr(URLS["postgresql"])),
        ElasticsearchManager([URLS["elasticsearch"]], username="me", password=PASSWORD),
        made("mongodb", "postgresql", redis_url=f"redis://:{PASSWORD}@host"),
    ):
        assert type(each).__name__ in repr(each)
        assert PASSWORD not in repr(each) + str(each)
        assert PASSWORD not in repr(vars(each))


# -- watching and stopping -----------------------------------------------------------------


def test_watch_until_it_is_over(stage: Stage) -> None:
    """Each look says how far each database is, and what is new; the last one how it ended."""

    async def program() -> list[RunProgress]:
        found = []
        started = await made().run_migrations(wait=False)
        assert started.state is RunState.PLANNING
        assert started.run is not None
        async for progress in made().watch(started.run):
            found.append(progress)
            if len(found) == 1:
                everything(stage.driver)(stage.one())
        return found

    first, *_, last = asyncio.run(program())
    assert first.state is RunState.PLANNING
    assert (first.databases["mongodb"].done, first.databases["mongodb"].total) == (0, 0)
    assert last.state is RunState.DONE
    assert (last.databases["mongodb"].done, last.databases["mongodb"].total) == (2, 2)
    assert [event.kind for event in last.events] == ["applied"] * 3


def test_watch_a_run_that_nobody_knows(stage: Stage) -> None:
    """It says so, and does not wait."""

    async def program() -> None:
        async for _ in made().watch("20260101-000000-abcdef"):
            pass

    with pytest.raises(Unreachable, match="does not know run 20260101-000000-abcdef"):
        asyncio.run(program())


def test_cancelling_stops_the_watching_and_not_the_run(stage: Stage) -> None:
    """The run is where it was, and the same call joins it."""

    async def program() -> RunResult:
        task = asyncio.create_task(made().run_migrations())
        await until(lambda: stage.sent)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stage.one().id
        run = stage.one()
        again = asyncio.create_task(made().run_migrations())
        await asyncio.sleep(0.05)
        everything(stage.driver)(run)
        result = await again
        assert result.run == run.id
        return result

    assert asyncio.run(program()).state is RunState.DONE
    assert len(stage.sent) == 2


def test_cancelling_while_it_waits_for_its_turn(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is submitted later, when the other run has ended."""
    other = stage.driver.submit(databases=("mongodb",))
    waits, closed = threading.Event(), threading.Event()
    pause, close = submitting.Patience.pause, conduct.Conduct.close

    def pausing(self: submitting.Patience, run: str, text: str) -> Iterator[None]:
        waits.set()
        return pause(self, run, text)

    def closing(self: conduct.Conduct) -> None:
        close(self)
        closed.set()

    monkeypatch.setattr(submitting.Patience, "pause", pausing)
    monkeypatch.setattr(conduct.Conduct, "close", closing)

    async def program() -> None:
        task = asyncio.create_task(made().run_migrations())
        await until(waits.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(closed.is_set)  # the step that was being taken is over
        stage.driver.runs.end(other, RunState.DONE, [])
        await asyncio.sleep(5 * submitting.POLL_SECONDS)

    asyncio.run(program())
    assert stage.driver.runs.open() == []
    assert stage.sent == []


def test_cancelling_waits_for_no_server(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where one does not answer, the call ends at once all the same; a thread ends after it."""
    asked, answer = threading.Event(), threading.Event()

    def hang(_self: ModelDatabase) -> str:
        asked.set()
        answer.wait(30)
        return "late"

    monkeypatch.setattr(ModelDatabase, "whereabouts", hang)

    async def program() -> None:
        task = asyncio.create_task(made("mongodb").run_migrations())
        await until(asked.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not answer.is_set()
        answer.set()

    asyncio.run(program())
    assert stage.driver.runs.open() == []


# -- the event loop ------------------------------------------------------------------------

SLOW_SECONDS = 0.6


@asynccontextmanager
async def heartbeat(gaps: list[float]) -> AsyncIterator[None]:
    """Note the time between two turns of the event loop, which would be 5 ms."""

    async def beat() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    task = asyncio.create_task(beat())
    await asyncio.sleep(0.05)
    try:
        yield
        await asyncio.sleep(0.05)
    finally:
        task.cancel()


def test_the_event_loop_is_never_blocked(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder, databases and Redis take a second to answer; beside a call that blocks."""

    def slow(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            time.sleep(SLOW_SECONDS)
            return function(*arguments, **options)

        return call

    stage.does = everything(stage.driver)
    monkeypatch.setattr(conduct, "read_folder", slow(conduct.read_folder))
    monkeypatch.setattr(ModelDatabase, "whereabouts", slow(ModelDatabase.whereabouts))
    monkeypatch.setattr(Runs, "submit", slow(Runs.submit))

    async def program() -> list[float]:
        gaps: list[float] = []
        async with heartbeat(gaps):
            result = await made("mongodb").run_migrations()
            async for _ in made().watch(str(result.run)):
                pass
            await made().get_migration_status()
        return gaps

    async def here(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    free = max(asyncio.run(program()))
    stage.driver.runs.end(stage.driver.submit(), RunState.DONE, [])
    monkeypatch.setattr(asyncio, "to_thread", here)
    blocked = max(asyncio.run(program()))
    assert blocked >= SLOW_SECONDS
    assert free < blocked / 2


# -- importing -----------------------------------------------------------------------------


def test_every_name_is_there() -> None:
    """What the package says that it has; another name is a mistake."""
    for name in dharma_tasks.__all__:
        assert getattr(dharma_tasks, name) is not None
    with pytest.raises(AttributeError, match="DatabaseManger"):
        dharma_tasks.DatabaseManger  # type: ignore[attr-defined]  # noqa: B018


def test_importing_needs_no_driver_and_no_celery() -> None:
    """Nor does making a manager: whoever imports it may have nothing of this to do."""
    program = """
import sys
import dharma_tasks
assert "pydantic" not in sys.modules
from dharma_tasks import DatabaseMigrationManager, MongoDBManager, PostgreSQLManager
DatabaseMigrationManager(MongoDBManager("mongodb://h", "a"), PostgreSQLManager("postgresql://h/a"))
heavy = {"celery", "kombu", "pymongo", "bson", "psycopg", "elasticsearch", "elastic_transport"}
print(sorted(heavy & {*sys.modules}))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
