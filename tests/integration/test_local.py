"""The local engines: started, killed, started again, ended, and two sets of them side by side."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
from elasticsearch import Elasticsearch
from pymongo import MongoClient
from pymongo.collection import Collection
from redis import Redis

from dharma_tasks.local import EngineError, LocalEngines, processes

QUICK = ("redis", "mongodb", "postgresql")


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalEngines]:
    """The three engines that start at once; Elasticsearch has a test of its own."""
    local = LocalEngines(tmp_path_factory.mktemp("engines"))
    try:
        local.up(only=QUICK)
        yield local
    finally:
        local.delete()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[LocalEngines]:
    """A folder of its own for tests that end or break engines."""
    local = LocalEngines(tmp_path / "local")
    try:
        yield local
    finally:
        local.delete()


class Store(Protocol):
    """Something that a test can write and find again."""

    def add(self, url: str) -> None:
        """Write one more."""

    def count(self, url: str) -> int:
        """How many there are."""


class Redises:
    """One value in Redis."""

    def add(self, url: str) -> None:
        """Count one up."""
        with Redis.from_url(url) as client:
            client.incr("counter")

    def count(self, url: str) -> int:
        """How often `add` was called."""
        with Redis.from_url(url, decode_responses=True) as client:
            return int(str(client.get("counter")))


class Mongodbs:
    """Documents in MongoDB, each written in a transaction."""

    def add(self, url: str) -> None:
        """One document more."""
        client: MongoClient[dict[str, object]]
        with MongoClient(url) as client, client.start_session() as session:
            table: Collection[dict[str, object]] = client.get_default_database()["things"]
            with session.start_transaction():
                table.insert_one({}, session=session)

    def count(self, url: str) -> int:
        """How often `add` was called."""
        client: MongoClient[dict[str, object]]
        with MongoClient(url) as client:
            return client.get_default_database()["things"].count_documents({})


class Postgresqls:
    """Rows in PostgreSQL."""

    def add(self, url: str) -> None:
        """One row more."""
        with psycopg.connect(url) as connection:
            connection.execute("create table if not exists things (id serial)")
            connection.execute("insert into things default values")

    def count(self, url: str) -> int:
        """How often `add` was called."""
        with psycopg.connect(url) as connection:
            row = connection.execute("select count(*) from things").fetchone()
        assert row is not None
        return int(row[0])


STORES: dict[str, Store] = {
    "redis": Redises(),
    "mongodb": Mongodbs(),
    "postgresql": Postgresqls(),
}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "dharma_tasks.local", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_up_again_keeps_what_runs(quick: LocalEngines) -> None:
    """A second `up` changes neither a process nor an address."""
    before = [quick.pid(name) for name in QUICK]
    addresses = quick.environment()
    assert quick.up(only=QUICK) == addresses
    assert [quick.pid(name) for name in QUICK] == before
    assert None not in before


@pytest.mark.parametrize("name", QUICK)
def test_a_killed_engine_comes_back(quick: LocalEngines, name: str) -> None:
    """Killed with all its children it comes back on the same address with the same data."""
    url = quick.environment()[f"DHARMA_{name.upper()}_URL"]
    store, victim = STORES[name], quick.pid(name)
    store.add(url)
    stored = store.count(url)

    quick.kill(name)
    assert quick.pid(name) is None
    quick.start(name)

    assert quick.pid(name) not in (victim, None)
    assert quick.environment()[f"DHARMA_{name.upper()}_URL"] == url
    assert store.count(url) == stored


def test_postgresql_comes_back_when_only_its_main_process_was_killed(
    quick: LocalEngines,
) -> None:
    """Backends that are busy outlive the main process and would keep a new one from starting."""
    url = quick.environment()["DHARMA_POSTGRESQL_URL"]
    with closing(psycopg.connect(url)) as busy:
        backend = busy.info.backend_pid
        busy.pgconn.send_query(b"select count(*) from generate_series(1, 1000000000)")
        victim = quick.pid("postgresql")
        assert victim is not None
        os.kill(victim, signal.SIGKILL)
        quick.start("postgresql")
        assert processes.identify(backend) is None
    STORES["postgresql"].add(url)


def test_redis_is_a_safe_broker(quick: LocalEngines) -> None:
    """Nothing is evicted, and every command is in the append-only file."""
    with Redis.from_url(quick.environment()["DHARMA_REDIS_URL"]) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}


def test_env_prints_what_a_shell_can_read(quick: LocalEngines) -> None:
    """Only `export` lines, and a shell that reads them gets every character right."""
    shown = command("env", "--dir", str(quick.folder))
    lines = shown.stdout.splitlines()
    assert lines
    assert all(line.startswith("export DHARMA_") for line in lines)
    show = f'{shown.stdout}\nprintf %s "$DHARMA_MONGODB_URL"'
    read = subprocess.run(["sh", "-c", show], capture_output=True, text=True, check=True)
    assert read.stdout == quick.environment()["DHARMA_MONGODB_URL"]
    assert "&" in read.stdout


def test_two_folders_side_by_side(quick: LocalEngines, alone: LocalEngines) -> None:
    """Another folder has other engines; ending them leaves the first ones alone."""
    addresses = alone.up(only=["redis"])
    assert addresses["DHARMA_REDIS_URL"] != quick.environment()["DHARMA_REDIS_URL"]
    alone.down()
    assert all(quick.pid(name) for name in QUICK)


def test_down_ends_everything_and_keeps_the_data(alone: LocalEngines) -> None:
    """No process is left; `down` again is harmless; `up` finds data and address again."""
    only = ("redis", "postgresql")
    addresses = alone.up(only=only)
    STORES["redis"].add(addresses["DHARMA_REDIS_URL"])
    STORES["postgresql"].add(addresses["DHARMA_POSTGRESQL_URL"])
    pids = [alone.pid(name) for name in only]

    assert command("down", "--dir", str(alone.folder)).returncode == 0
    assert command("down", "--dir", str(alone.folder)).returncode == 0
    assert [processes.identify(pid) for pid in pids if pid] == [None, None]
    assert "stopped" in command("status", "--dir", str(alone.folder)).stdout
    listed = json.loads(command("status", "--json", "--dir", str(alone.folder)).stdout)
    states = {each["name"]: each["state"] for each in listed}
    assert (states["redis"], states["mongodb"]) == ("stopped", "never started")

    assert alone.up(only=only) == addresses
    assert STORES["redis"].count(addresses["DHARMA_REDIS_URL"]) == 1
    assert STORES["postgresql"].count(addresses["DHARMA_POSTGRESQL_URL"]) == 1


def test_down_spares_a_process_that_has_an_engines_old_number(alone: LocalEngines) -> None:
    """A recorded pid that now belongs to someone else is not touched."""
    alone.up(only=["redis"])
    alone.kill("redis")
    path = alone.folder / "state.json"
    state = json.loads(path.read_text())
    with subprocess.Popen(["sleep", "60"]) as stranger:
        state["engines"]["redis"]["pid"] = stranger.pid
        path.write_text(json.dumps(state))
        alone.down()
        assert stranger.poll() is None
        stranger.kill()


def test_a_taken_port_is_named(alone: LocalEngines) -> None:
    """An engine that clients know by its port does not move away silently."""
    alone.up(only=["redis"])
    alone.down()
    port = json.loads((alone.folder / "state.json").read_text())["engines"]["redis"]["port"]
    with socket.create_server(("127.0.0.1", port)), pytest.raises(EngineError, match=f"{port}"):
        alone.start("redis")


def test_a_failed_start_shows_the_log_and_leaves_the_others_up(alone: LocalEngines) -> None:
    """What the engine said last is in the message, and where to read the rest."""
    alone.up(only=["redis"])
    alone.down()
    (alone.folder / "redis/data/appendonly.aof").write_text("rubbish")
    failed = command("up", "redis", "mongodb", "--dir", str(alone.folder))
    assert failed.returncode == 1
    assert "Bad file format" in failed.stderr
    assert str(alone.folder / "logs/redis.log") in failed.stderr
    assert alone.pid("redis") is None
    assert alone.pid("mongodb") is not None


def test_env_before_the_first_up_is_an_error(tmp_path: Path) -> None:
    """`eval "$(... env)"` must not look like a success when there is nothing to set."""
    shown = command("env", "--dir", str(tmp_path / "nothing"))
    assert (shown.returncode, shown.stdout) == (1, "")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.long
def test_elasticsearch_reindexes_and_survives_a_kill(alone: LocalEngines) -> None:
    """The module that is added to the server works, and an acknowledged write is kept."""
    url = alone.up(only=["elasticsearch"])["DHARMA_ELASTICSEARCH_URL"]
    with Elasticsearch(url) as client:
        client.index(index="source", id="1", document={"a": 1}, refresh=True)
        done = client.reindex(source={"index": "source"}, dest={"index": "target"})
        assert done["created"] == 1
        alone.kill("elasticsearch")
        alone.start("elasticsearch")
        assert client.get(index="target", id="1")["_source"] == {"a": 1}
    assert [each.version for each in alone.status() if each.version] == ["7.17.29"]
