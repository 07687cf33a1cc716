"""No password is ever written, printed, sent or stored: canaries are planted and looked for."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from canary import (
    Canaries,
    command_lines,
    escaped,
    listening,
    stored_in_elasticsearch,
    stored_in_mongodb,
    stored_in_postgresql,
    stored_in_redis,
)
from place import DEADLINE, Place, wait_for
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from redis import Redis
from roles import drop_role, make_role
from secured import AWKWARD, Secured
from watching import Flower

from dharma_tasks.databases import NAMES
from dharma_tasks.encryption import Cipher, new_key

INLINE = """
import asyncio
from dharma_tasks import DatabaseMigrationManager
asyncio.run(DatabaseMigrationManager(inline=True).run_migrations(databases="postgresql"))
"""
"""A program that leaves structlog as it is, whose own way is to show local variables."""


@dataclass
class Cage:
    """A place whose every URL has a canary in it, and what is heard of them."""

    place: Place
    canaries: Canaries
    admin: Redis
    secured: Secured
    superuser: str

    def run(self, where: str, *arguments: str, **environment: str) -> int:
        """Run a command and keep what it prints; returns its exit status."""
        done = subprocess.run(
            [sys.executable, *arguments],
            env=self.place.environment | environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE * 2,
            check=False,
        )
        self.canaries.hear(where, done.stdout + done.stderr)
        return done.returncode

    def hear_what_is_stored(self) -> None:
        """In Redis and in the three databases."""
        name, hear = self.place.settings.namespace, self.canaries.hear
        url = self.place.environment["DHARMA_REDIS_URL"]
        hear("stored in Redis", "".join(stored_in_redis(self.admin, url)))
        with self.secured.mongodb() as client:
            kept = stored_in_mongodb(client, name, beside="users")
            hear("stored in MongoDB", "".join(kept))
        hear("stored in PostgreSQL", "".join(stored_in_postgresql(self.superuser)))
        with self.secured.elasticsearch() as client:
            hear("stored in Elasticsearch", "".join(stored_in_elasticsearch(client, name)))


@pytest.fixture
def cage(place: Place, secured: Secured) -> Iterator[Cage]:
    """Servers that ask for passwords, and URLs that have them."""
    canaries, name = Canaries(), place.settings.namespace
    canaries.add(secured.keys.password)
    superuser = place.url("postgresql")
    found = conninfo_to_dict(superuser)
    where = f"{found['host']}:{found['port']}/{found['dbname']}"
    role, redis = canaries.password(), canaries.password()
    make_role(superuser, name, role)
    with psycopg.connect(superuser, autocommit=True) as connection:
        connection.execute(f"GRANT ALL ON DATABASE {name} TO {name}")
        connection.execute(f"GRANT ALL ON SCHEMA public TO {name}")
    admin = Redis.from_url(place.environment["DHARMA_REDIS_URL"], decode_responses=True)
    admin.acl_setuser(
        name,
        enabled=True,
        passwords=[f"+{redis}"],
        categories=["+@all"],
        keys=["*"],
        channels=["*"],
    )
    urls = {
        "mongodb": secured.mongodb_url.replace("/dharma?", f"/{name}?"),
        "postgresql": f"postgresql://{name}:{escaped(role)}@{where}",
        "elasticsearch": secured.elasticsearch_url,
        "redis": place.environment["DHARMA_REDIS_URL"].replace(
            "redis://", f"redis://{name}:{escaped(redis)}@"
        ),
    }
    update: dict[str, Any] = {f"{each}_url": SecretStr(url) for each, url in urls.items()}
    update["elasticsearch_ca_certs"] = secured.keys.authority.certificate
    place.settings = place.settings.model_copy(update=update)
    yield Cage(place, canaries, admin, secured, superuser)
    with secured.mongodb() as client:
        client.drop_database(name)
    with secured.elasticsearch() as client:
        client.indices.delete(index=f"{name}*", expand_wildcards="all")
    drop_role(superuser, name)
    admin.acl_deluser(name)


def write(place: Place) -> None:
    """One migration for each database; that of PostgreSQL fails."""
    collection = {"type": "create_collection", "collection": "users"}
    place.write("mongodb", "001_create", {"version": "1.0.0", "operations": [collection]})
    index = {"type": "create_index", "index": f"{place.settings.namespace}_a", "mapping": {}}
    place.write("elasticsearch", "001_create", {"version": "1.0.0", "operations": [index]})
    place.write("postgresql", "001_create", {"version": "1.0.0"}, "SELECT 1 / 0;")


def write_hidden(place: Place, encrypted: str) -> None:
    """Documents get values that nobody is to see; then they get them again, and both are quoted."""
    tokens = {"by_name": {"$secret": "TOKEN"}, "written": {"$encrypted": encrypted}}
    first = {"_id": 1} | tokens
    insert: dict[str, Any] = {"type": "insert_documents", "collection": "users"}
    index = {"type": "create_index", "collection": "users", "index": [[n, 1] for n in tokens]}
    done = [insert | {"documents": [first]}, index | {"options": {"unique": True}}]
    place.write("mongodb", "002_hidden", {"version": "1.1.0", "operations": done})
    again = [insert | {"documents": [{"_id": 2} | tokens]}]
    place.write("mongodb", "003_again", {"version": "1.2.0", "operations": again})


def test_the_search_finds_canaries() -> None:
    """As they are, with % codes, and in the messages and headers that are base64."""
    canaries = Canaries()
    password = canaries.password()
    for text in (
        password,
        escaped(password),
        base64.b64encode(f"user:{password}".encode()).decode(),
        base64.b64encode(f'{{"url": "redis://:{escaped(password)}@h"}}'.encode()).decode(),
    ):
        canaries.heard = {"here": f'{{"body": "{text}"}}'}
        assert canaries.found(), text
    canaries.heard = {"here": "nothing"}
    assert canaries.found() == []


def test_nothing_of_a_run_shows_a_password(cage: Cage, tmp_path: Path) -> None:
    """With every detail logged, an operation that fails, Flower, and all that Celery tells."""
    place, hear = cage.place, cage.canaries.hear
    write(place)
    key, token, other = new_key(), cage.canaries.password(), cage.canaries.password()
    write_hidden(place, Cipher([key]).write(other))
    cage.canaries.add(key)
    hidden = {"DHARMA_SECRET_TOKEN": token, "DHARMA_ENCRYPTION_KEY": key}
    flower = Flower(place, tmp_path)
    celery = ("-m", "celery", "-A", "dharma_tasks", "inspect", "--json")
    with listening(cage.admin, cage.canaries):
        flower.launch()
        place.start_worker(DHARMA_LOG_LEVEL="DEBUG", DHARMA_LOG_FORMAT="json", **hidden)
        debug = {"DHARMA_LOG_LEVEL": "DEBUG"}
        submit = ("-m", "dharma_tasks", "submit", "--json")
        # A failure ends the run, and there are two of them.
        assert cage.run("submit to one", *submit, "--databases", "mongodb", **debug) == 1
        assert cage.run("submit", *submit, **debug) == 1
        assert cage.run("status", "-m", "dharma_tasks", "status", "--json", **debug) == 0
        assert cage.run("plan", "-m", "dharma_tasks", "plan", "--json", **debug) == 0
        assert cage.run("history", "-m", "dharma_tasks", "history", "--json", **debug) == 0
        hear("command lines", command_lines())
        for what in ("conf", "stats"):
            assert cage.run(what, *celery, what) == 0
        flower.wait()
        try:
            worker = place.alive()[0].name
            wait_for(lambda: worker in flower.shows("api/workers?refresh=1"), "the worker")
            for page in (f"worker/{worker}", "broker", "tasks", "api/workers", "api/tasks",
                         "metrics", "migrations"):  # fmt: skip
                hear(f"Flower's {page}", flower.shows(page))
        finally:
            flower.end()
    hear("Flower's log", (tmp_path / "flower.log").read_text())
    hear("the worker's log", place.logs_text())
    cage.hear_what_is_stored()
    assert "division by zero" in cage.canaries.heard["the worker's log"]
    assert "division by zero" in cage.canaries.heard["stored in PostgreSQL"]
    assert f"{place.settings.namespace}:run:" in cage.canaries.heard["sent through Redis"]
    assert "dup key: " in cage.canaries.heard["the worker's log"]
    assert "dup key: " in cage.canaries.heard["stored in MongoDB"]
    assert cage.canaries.found() == []
    with cage.secured.mongodb() as client:
        (document,) = client[place.settings.namespace]["users"].find()
    assert document == {"_id": 1, "by_name": token, "written": other}


def broken(url: str, password: str, how: str) -> str:
    """The same URL, with something wrong in it."""
    if how == "password":
        return url.replace(password, f"wrong{password}")
    if how == "characters":  # as somebody pastes it who knows of no % codes
        return url.replace(escaped(AWKWARD), AWKWARD)
    if how == "host":
        login, at, rest = url.rpartition("@")
        return f"{login}{at}127.0.0.1:1{rest[rest.index('/') :] if '/' in rest else ''}"
    return url.replace("redis://", "rediss://") if url.startswith("redis") else _untrusted(url)


def _untrusted(url: str) -> str:
    if url.startswith("mongodb"):
        return "&".join(part for part in url.split("&") if not part.startswith("tlsCAFile"))
    return f"{url}?sslmode=verify-full" if url.startswith("postgresql") else url


@pytest.mark.long
def test_no_failure_to_connect_shows_a_password(cage: Cage) -> None:
    """A wrong password, a URL that is none, a server that is away, or is not trusted.

    In commands that log every detail, in a program that shows local variables, and in a worker.
    """
    place = cage.place
    write(place)
    urls = {name: place.environment[f"DHARMA_{name.upper()}_URL"] for name in (*NAMES, "redis")}

    def attempt(name: str, how: str) -> None:
        url = urls[name]
        core = next(each for each in cage.canaries.cores if each in url)
        changed = {
            f"DHARMA_{name.upper()}_URL": broken(url, core, how),
            # No two of these runs are to wait for each other.
            "DHARMA_NAMESPACE": f"{place.settings.namespace}_{name}_{how}"[:31],
        }
        if how == "trust" and name == "elasticsearch":
            changed["DHARMA_ELASTICSEARCH_CA_CERTS"] = os.devnull
        if name == "postgresql":
            status = cage.run(f"a program, {how}", "-c", INLINE, **changed)
            assert status == 1
        database = "mongodb" if name == "redis" else name
        submit = ("submit", "--inline", "--databases", database)
        changed["DHARMA_LOG_LEVEL"] = "DEBUG"
        status = cage.run(f"{name}, {how}", "-m", "dharma_tasks", *submit, **changed)
        assert status in {2, 4}, cage.canaries.heard[f"{name}, {how}"]

    hows = ("password", "characters", "host", "trust")
    with listening(cage.admin, cage.canaries), ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: attempt(*each), [(n, how) for how in hows for n in urls]))
        for how in ("password", "characters"):
            wrong = broken(urls["redis"], cage.canaries.cores[-1], how)
            worker = ("-m", "celery", "-A", "dharma_tasks", "worker", "--loglevel", "DEBUG")
            process = subprocess.Popen(
                [sys.executable, *worker],
                env=place.environment | {"DHARMA_REDIS_URL": wrong},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            assert process.stdout is not None
            for line in process.stdout:
                cage.canaries.hear(f"a worker, {how}", line)
                if "Trying again" in line:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert cage.canaries.heard[f"a worker, {how}"]
    cage.hear_what_is_stored()
    assert cage.canaries.found() == []
