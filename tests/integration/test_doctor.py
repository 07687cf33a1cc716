"""What `dharma doctor` sees of real servers: as they should be, and not."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.uri_parser import parse_uri
from redis import Redis

from dharma_tasks import redis_examine
from dharma_tasks.databases import NAMES, connect
from dharma_tasks.doctor import examine
from dharma_tasks.findings import Finding, Grade
from dharma_tasks.local import LocalEngines
from dharma_tasks.reading import examination
from dharma_tasks.records import SCHEMA_VERSION
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.settings import Settings


def seen(name: str, settings: Settings) -> dict[str, Finding]:
    """What is found in a database, by the check."""
    database = connect(name, settings)
    try:
        return {finding.check: finding for finding in examination(database).findings}
    finally:
        database.close()


def grades(found: dict[str, Finding]) -> dict[str, Grade]:
    """What is not as it should be."""
    return {name: finding.grade for name, finding in found.items() if finding.grade != Grade.OK}


@pytest.mark.parametrize("name", NAMES)
def test_all_is_there(settings: Settings, name: str) -> None:
    """On the local engines, before the first run; and the first finding says where it is."""
    found = seen(name, settings)
    assert grades(found) == {}
    assert found.keys() >= {"connection", "version", "permission", "journal"}
    assert found["journal"].what.startswith("none yet")
    where = {"elasticsearch": "the cluster dharma"}.get(name, settings.namespace)
    assert where in found["connection"].what


# -- Redis ---------------------------------------------------------------------------------


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis of the test's own, to be set up otherwise; it starts in no time."""
    local = LocalEngines(tmp_path)
    url = local.up(only=["redis"])["DHARMA_REDIS_URL"]
    try:
        settings = Settings(_env_file=None, redis_url=SecretStr(url))  # type: ignore[call-arg]
        with connect_redis(settings) as client:
            yield client
    finally:
        local.delete()


def test_redis(redis: Redis) -> None:
    """A policy that throws keys away, no persistence, a replica, a user who may not look."""

    def looked() -> dict[str, Finding]:
        return {finding.check: finding for finding in redis_examine.examine(redis, "dharma")}

    assert grades(looked()) == {}
    assert redis.keys("*") == []
    redis.config_set("maxmemory-policy", "allkeys-lru")
    assert grades(looked()) == {"eviction": Grade.WARNING}
    redis.config_set("maxmemory", "100mb")
    found = looked()["eviction"]
    assert found.grade is Grade.PROBLEM
    assert "noeviction" in found.todo
    redis.config_set("maxmemory-policy", "noeviction")
    redis.config_set("appendonly", "no")
    assert grades(looked()) == {"persistence": Grade.WARNING}
    redis.config_set("save", "3600 1")
    assert looked()["persistence"].what == "snapshots (3600 1)"
    redis.execute_command("ACL", "SETUSER", "default", "-config")
    assert looked()["persistence"].what == "no append-only file; snapshots are not shown"
    redis.execute_command("ACL", "SETUSER", "default", "-info")
    assert grades(looked()) == {"server": Grade.WARNING}
    redis.execute_command("ACL", "SETUSER", "default", "+info", "+config")
    redis.execute_command("REPLICAOF", "127.0.0.1", "1")
    assert looked()["writing"].grade is Grade.PROBLEM


def test_clocks_that_are_apart(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says by how much."""
    there: Any = redis.time()
    monkeypatch.setattr(redis_examine.time, "time", lambda: there[0] + 100)
    found = {finding.check: finding for finding in redis_examine.examine(redis, "dharma")}
    assert found["clock"].grade is Grade.WARNING
    assert found["clock"].what.startswith("that of Redis and the one here are ")


# -- MongoDB -------------------------------------------------------------------------------


@contextmanager
def mongodb_user(settings: Settings, *roles: str) -> Iterator[Settings]:
    """Settings with a user who has these roles on the test's database, `cluster…` on admin."""
    assert settings.mongodb_url is not None
    url = settings.mongodb_url.get_secret_value()
    with MongoClient[dict[str, Any]](url) as client:
        granted = [
            {"role": role, "db": "admin" if role.startswith("cluster") else settings.namespace}
            for role in roles
        ]
        client.admin.command("createUser", settings.namespace, pwd="secret", roles=granted)
        login = url.replace("mongodb://", f"mongodb://{settings.namespace}:secret@")
        try:
            changed = SecretStr(f"{login}&authSource=admin")
            yield settings.model_copy(update={"mongodb_url": changed})
        finally:
            client.admin.command("dropUser", settings.namespace)


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (("readWrite", "dbAdmin", "clusterMonitor"), {}),
        (("readWrite", "dbAdmin"), {"monitoring": Grade.WARNING}),
        (("readWrite", "clusterMonitor"), {"permission": Grade.PROBLEM}),
    ],
)
def test_mongodb_user(
    settings: Settings, roles: tuple[str, ...], expected: dict[str, Grade]
) -> None:
    """What the user's roles lack is named, with the roles that have it."""
    with mongodb_user(settings, *roles) as changed:
        found = seen("mongodb", changed)
    assert grades(found) == expected
    assert settings.namespace in found["permission"].what
    if "permission" in expected:
        assert "may not collMod in" in found["permission"].what
        assert '"dbAdmin"' in found["permission"].todo


# -- PostgreSQL ----------------------------------------------------------------------------


@pytest.fixture
def role(settings: Settings, engines: LocalEngines) -> Iterator[str]:
    """A role that owns nothing; its name has to be quoted."""
    name = f"{settings.namespace}-role"
    quoted = sql.Identifier(name)
    admin = engines.environment()["DHARMA_POSTGRESQL_URL"]
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(quoted))
    yield name
    with psycopg.connect(settings.url("postgresql").get_secret_value()) as connection:  # type: ignore[union-attr]
        connection.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(quoted))


def test_postgresql_role(settings: Settings, role: str) -> None:
    """One that may not make tables, cannot alter those of others, and does not see the standbys."""
    assert settings.postgresql_url is not None
    url = settings.postgresql_url.get_secret_value()
    theirs = SecretStr(make_conninfo(url, user=role))
    changed = settings.model_copy(update={"postgresql_url": theirs})
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE others (id int)")
        found = seen("postgresql", changed)
        assert grades(found) == {
            "permission": Grade.PROBLEM,
            "ownership": Grade.WARNING,
            "monitoring": Grade.WARNING,
        }
        # What it says to do is SQL, and helps.
        connection.execute(found["permission"].todo)  # type: ignore[arg-type]
        connection.execute(found["monitoring"].todo)  # type: ignore[arg-type]
        assert grades(seen("postgresql", changed)) == {"ownership": Grade.WARNING}
        connection.execute("DROP TABLE others")
        assert grades(seen("postgresql", changed)) == {}


# -- Elasticsearch -------------------------------------------------------------------------


class Secured(BaseHTTPRequestHandler):
    """The real server, in front of it what its security would say: the free build has none."""

    behind: ClassVar[str]
    lacks: ClassVar[dict[str, list[str]]]
    """By pattern; that of the cluster is empty."""

    def do_GET(self) -> None:
        """Ask the server."""
        self._answer(self.path, None)

    def do_POST(self) -> None:
        """Ask the server, or say what the user may do, in the form of its manual."""
        body = self.rfile.read(int(self.headers["content-length"]))
        if not self.path.startswith("/_security/"):
            self._answer(self.path, body)
            return
        asked = json.loads(body)
        index = {
            pattern: {name: name not in self.lacks.get(pattern, ()) for name in each["privileges"]}
            for each in asked["index"]
            for pattern in each["names"]
        }
        cluster = {name: name not in self.lacks.get("", ()) for name in asked["cluster"]}
        said = {"username": "ann", "has_all_requested": False, "cluster": cluster, "index": index}
        self._send(200, json.dumps(said).encode())

    def _answer(self, path: str, body: bytes | None) -> None:
        kind = self.headers.get("content-type", "application/json")
        request = urllib.request.Request(  # noqa: S310 - the local engine
            self.behind + path, body, {"content-type": kind}
        )
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                self._send(answer.status, answer.read())
        except urllib.error.HTTPError as error:
            self._send(error.code, error.read())

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("X-elastic-product", "Elasticsearch")
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize(
    ("lacks", "grade", "said"),
    [
        ({}, Grade.OK, "ann may do what migrations do in every index"),
        ({"*": ["manage"]}, Grade.WARNING, "ann lacks manage on indices that it is not named for"),
        ({"OWN": ["write"]}, Grade.PROBLEM, "ann lacks write on OWN"),
        ({"": ["monitor"]}, Grade.PROBLEM, "ann lacks monitor"),
    ],
)
def test_elasticsearch_user(
    settings: Settings, lacks: dict[str, list[str]], grade: Grade, said: str
) -> None:
    """What `_has_privileges` says of the user."""
    assert settings.elasticsearch_url is not None
    own = f"{settings.namespace}_*"
    Secured.behind = settings.elasticsearch_url.get_secret_value()
    Secured.lacks = {pattern.replace("OWN", own): names for pattern, names in lacks.items()}
    with ThreadingHTTPServer(("127.0.0.1", 0), Secured) as front:
        threading.Thread(target=front.serve_forever, daemon=True).start()
        url = SecretStr(f"http://ann:secret@127.0.0.1:{front.server_port}")
        found = seen("elasticsearch", settings.model_copy(update={"elasticsearch_url": url}))
        front.shutdown()
    assert found["permission"].grade is grade
    assert found["permission"].what == said.replace("OWN", own)


# -- everything together -------------------------------------------------------------------


def test_a_journal_of_a_newer_release(settings: Settings) -> None:
    """Nothing may be written there."""
    assert settings.mongodb_url is not None
    url = settings.mongodb_url.get_secret_value()
    with MongoClient[dict[str, Any]](url) as client:
        head = {"identity": "x", "generation": 1, "schema_version": SCHEMA_VERSION + 1}
        database = client[str(parse_uri(url)["database"])]
        database[f"{settings.namespace}_head"].insert_one({"_id": "head", **head})  # type: ignore[dict-item]
    assert seen("mongodb", settings)["journal"].grade is Grade.PROBLEM


def test_what_cannot_be_reached(settings: Settings, tmp_path: Path) -> None:
    """Each is said with its way out, the others are looked at all the same; no secret is told."""
    away = settings.model_copy(
        update={
            "migrations_dir": tmp_path / "nowhere",
            "mongodb_url": SecretStr("mongodb://ann:geheim@[::1"),
            "postgresql_url": SecretStr("postgresql://ann:geheim@127.0.0.1:1/app"),
            "elasticsearch_url": SecretStr("http://ann:geheim@127.0.0.1:1"),
        }
    )
    found = examine(away, None, lambda _: None)
    assert found.grade is Grade.UNREACHABLE
    by_name = {name: seen.findings for name, seen in found.subjects.items()}
    unsigned, *redis = by_name["redis"]
    assert (unsigned.check, unsigned.grade) == ("signatures", Grade.WARNING)
    assert "openssl rand" in unsigned.todo
    assert all(finding.grade is Grade.OK for finding in redis)
    assert "celery -A dharma_tasks worker" in by_name["workers"][0].todo
    assert "dharma init" in by_name["migrations"][0].todo
    for name in NAMES:
        (connection,) = by_name[name]
        assert connection.grade is Grade.UNREACHABLE
        assert f"DHARMA_{name.upper()}_URL" in connection.what + connection.todo
    assert "geheim" not in found.model_dump_json()
