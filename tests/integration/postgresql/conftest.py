"""A worker on a real PostgreSQL, and an onlooker who sees and disturbs what it does."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
import structlog
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from dharma_tasks.databases.postgresql import PostgresqlDatabase, database
from dharma_tasks.journal import Opening
from dharma_tasks.local import LocalEngines
from dharma_tasks.measures import Measure
from dharma_tasks.migration import Key
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Operation
from dharma_tasks.records import Direction, MigrationRecord, Owner
from dharma_tasks.runner import Runner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount, Assignment, Taken

DEADLINE = 15


class Control:
    """A lease that is always ours, and that notes what it was asked."""

    def __init__(self) -> None:
        self.signs = 0
        self.seen: list[Amount] = []
        self.confirmed = 0
        self.waits: list[str] = []
        self.on_confirm: Callable[[], None] = lambda: None
        self.on_check: Callable[[], None] = lambda: None

    def check(self) -> None:
        self.on_check()

    def alive(self, seen: Amount | None = None) -> None:
        self.signs += 1
        self.seen += [seen] if seen else []

    def confirm(self) -> None:
        self.confirmed += 1
        self.on_confirm()

    def report(self, taken: Taken, stuck_for: float) -> None:
        pass

    def ending(self) -> None:
        return None

    def warn(self, message: str) -> None:
        pass

    def waiting(self, reason: str, stuck_for: float, *, handed_on: bool = False) -> None:
        self.waits.append(reason)

    def measure(self, what: Measure, amount: float, detail: str = "") -> None:
        pass


class Postgres:
    """One worker with its database; `see` is another connection to the same database."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.control = Control()
        self.database: PostgresqlDatabase = database(settings)
        url = settings.postgresql_url
        assert url is not None
        self.url = url.get_secret_value()
        self.see = psycopg.connect(self.url, autocommit=True)
        opening = Opening(run="run", direction=Direction.FORWARD, plan="p", by="me")
        self.generation = self.database.journal.begin(opening, 0)
        self._versions = 0

    def assignment(self, kind: str) -> Assignment:
        """The next version, of one operation."""
        self._versions += 1
        key = Key(database="postgresql", version=f"1.{self._versions}.0", number=1)
        return Assignment("run", self.generation, "me", key, "name-1.x", "sum", kind, 1)

    def in_its_run(self, assignment: Assignment) -> Assignment:
        """Let the journal be of the assignment's run, by hand, with all fences as they are."""
        self.see.execute(
            f"UPDATE public.{self.settings.namespace}_head SET run = %s WHERE generation = %s",
            (assignment.run, assignment.generation),
        )
        return assignment

    def operation(self, sql: str, kind: str = "sql", **parameters: object) -> Operation[Any]:
        """The operation, which must be without problems."""
        operation = catalogue("postgresql").parse({"type": kind, "sql": sql, **parameters})
        assert operation.problems() == []
        return operation

    def run(self, sql: str, kind: str = "sql", **parameters: object) -> Taken:
        """Carry a file out, as a worker does."""
        return self.runner(self.operation(sql, kind, **parameters)).run()

    def runner(self, operation: Operation[Any], assignment: Assignment | None = None) -> Runner:
        assignment = self.in_its_run(assignment or self.assignment(operation.kind))
        return Runner(operation, assignment, self.database, self.control, self.settings, "worker")

    def in_background(self, call: Callable[[], Any]) -> Future[Any]:
        """Run `call` in another thread."""
        return ThreadPoolExecutor(1).submit(call)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the onlooker sees."""
        return self.see.execute(query).fetchall()

    def value(self, query: str) -> Any:
        """The one value that the onlooker sees."""
        return self.rows(query)[0][0]

    def wait_for(self, query: str) -> None:
        """Wait until the query's one value is true."""
        end = time.monotonic() + DEADLINE
        while not self.value(query):
            assert time.monotonic() < end, f"never true: {query}"
            time.sleep(0.01)

    def kill_when(self, condition: str) -> threading.Thread:
        """End the worker's server process once `condition` is true of its activity."""

        def kill() -> None:
            with psycopg.connect(self.url, autocommit=True) as connection:
                query = (
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <>"
                    " pg_backend_pid() AND datname = current_database() AND application_name"
                    f" LIKE 'dharma:%' AND {condition}"
                )
                end = time.monotonic() + DEADLINE
                while not connection.execute(query).fetchall():
                    assert time.monotonic() < end, f"never true: {condition}"
                    time.sleep(0.01)

        thread = threading.Thread(target=kill)
        thread.start()
        return thread

    def record(self) -> MigrationRecord:
        """The newest migration's record."""
        return self.database.journal.survey().by_version()[f"1.{self._versions}.0"]

    def owner(self) -> Owner:
        resources = self.database.resources()
        return Owner(worker="w", node="n", boot="b", pid=1, started=1.0, resources=resources)

    def close(self) -> None:
        self.see.close()
        self.database.close()


@pytest.fixture(scope="session")
def one_database(engines: LocalEngines) -> Iterator[str]:
    """The URL of a database for all tests of this folder: to make one for each takes longer."""
    admin = engines.environment()["DHARMA_POSTGRESQL_URL"]
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield make_conninfo(admin, dbname=name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def settings(one_database: str, unique: str) -> Settings:
    """Settings with a namespace of the test's own, and an empty database."""
    with psycopg.connect(one_database, autocommit=True) as connection:
        connection.execute(
            "DROP SCHEMA IF EXISTS public, s CASCADE; CREATE SCHEMA public;"
            f"ALTER DATABASE {connection.info.dbname} RESET ALL"
        )
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        postgresql_url=SecretStr(one_database),
        namespace=unique,
    )


@pytest.fixture
def postgres(settings: Settings) -> Iterator[Postgres]:
    """A worker; a lock is waited for half a second, so that tests are quick."""
    made = Postgres(settings.model_copy(update={"lock_timeout_seconds": 0.5}))
    yield made
    made.close()


@pytest.fixture
def other(postgres: Postgres) -> Iterator[PostgresqlDatabase]:
    """A second worker's database."""
    made = database(postgres.settings)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def warnings() -> Iterator[Callable[[], list[str]]]:
    """The messages that operations have warned with."""
    with structlog.testing.capture_logs() as logs:
        yield lambda: [log["message"] for log in logs if log["event"] == "warning"]
