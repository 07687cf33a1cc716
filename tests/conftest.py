"""The four real engines, started once a test run, and a clean corner of them for each test."""

from __future__ import annotations

import fcntl
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import hypothesis
import psycopg
import pytest
from elasticsearch import Elasticsearch
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.uri_parser import parse_uri
from secured import Secured, started

from dharma_tasks.local import LocalEngines
from dharma_tasks.settings import Settings

# The same examples each time; `make chaos` looks at many more, and other ones: "long".
hypothesis.settings.register_profile("usual", derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", max_examples=5_000, deadline=None)
hypothesis.settings.load_profile("usual")


def pytest_configure() -> None:
    """Let what tests start hear Ctrl-C, also where a shell runs the tests in the background."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Call what wants the `secured` servers long: they start in half a minute."""
    for item in items:
        if "secured" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngines]:
    """The four engines, of each process that runs tests.

    `DHARMA_TEST_ENGINES=DIR` uses (and leaves running) those of DIR: for one process.
    """
    kept = os.environ.get("DHARMA_TEST_ENGINES")
    local = LocalEngines(Path(kept) if kept else tmp_path_factory.mktemp("engines"))
    try:
        local.up()
        yield local
    finally:
        if not kept:
            local.delete()


@pytest.fixture(scope="session")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """A MongoDB and an Elasticsearch that want a login, and speak TLS only."""
    with started(tmp_path_factory.mktemp("secured")) as made:
        yield made


@pytest.fixture(autouse=True)
def turn(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Nothing runs beside a test that is marked `alone`, in the other processes of `make test`."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    alone = request.node.get_closest_marker("alone") is not None
    with (tmp_path_factory.getbasetemp().parent / "alone.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield


@pytest.fixture
def unique() -> str:
    """A name that no other test uses: database, namespace and prefix of index names."""
    return _new_name()


def _new_name() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def settings(engines: LocalEngines, unique: str) -> Iterator[Settings]:
    """Settings with a namespace, a MongoDB and a PostgreSQL database of the test's own.

    Elasticsearch has no databases: tests name their indices with `unique` in front, and the
    journal's are told apart by the namespace.
    """
    with _corner(engines, unique) as made:
        yield made


@pytest.fixture(scope="session")
def corner(engines: LocalEngines) -> Callable[[], AbstractContextManager[Settings]]:
    """Make such settings for several tests that share them."""
    return lambda: _corner(engines, _new_name())


@contextmanager
def _corner(engines: LocalEngines, unique: str) -> Iterator[Settings]:
    environment = engines.environment()
    mongodb = environment["DHARMA_MONGODB_URL"].replace("/dharma", f"/{unique}", 1)
    admin = environment["DHARMA_POSTGRESQL_URL"]
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(unique)))
    yield Settings(
        _env_file=None,
        redis_url=SecretStr(environment["DHARMA_REDIS_URL"]),
        mongodb_url=SecretStr(mongodb),
        postgresql_url=SecretStr(make_conninfo(admin, dbname=unique)),
        elasticsearch_url=SecretStr(environment["DHARMA_ELASTICSEARCH_URL"]),
        namespace=unique,
    )
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(unique)))
    with Elasticsearch(environment["DHARMA_ELASTICSEARCH_URL"]) as search:
        indices = list(search.indices.get(index=f"{unique}*", expand_wildcards="all"))
        if indices:
            search.indices.delete(index=indices)
    with MongoClient[dict[str, object]](mongodb) as client:
        client.drop_database(str(parse_uri(mongodb)["database"]))
