"""Workers, status and submit with the rights that docs/security.md gives them, and no more."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from place import Place, wait_for
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from redis import Redis
from redis.exceptions import NoPermissionError
from roles import drop_role, make_role
from secured import Secured
from watching import Flower

from dharma_tasks.databases import NAMES, connect
from dharma_tasks.identity import owner
from dharma_tasks.local.seed import seed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "security.md").read_text()
USERS = (ROOT / "workers" / "redis" / "users.acl").read_text()
PASSWORD = "least"
_JOURNAL = r"\bdharma_(?=\*|head|migrations|operations|ranges|history|undo)"
_DENIED = r"denied|not authorized|unauthorized|must be owner"
_REFUSED = r"ermission|NOPERM|can't access"
_ENDED = r"terminat|abort|closed|does not match|killed|ended"


def written(kind: str, who: str, section: str) -> str:
    """What the page says that `who` needs."""
    part = PAGE.partition(f"### {section}\n")[2].partition("\n### ")[0]
    found = re.search(rf"^```{kind} {who}\n(.*?)^```$", part, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{kind} {who} of {section}"
    return found[1]


@dataclass
class Grants:
    """Makes accounts with what is written, under the names of the test."""

    place: Place
    secured: Secured
    after: ExitStack

    @property
    def name(self) -> str:
        """The namespace, and the database's name."""
        return self.place.settings.namespace

    def here(self, text: str) -> str:
        """The text with the names of the test."""
        renamed = re.sub(_JOURNAL, f"{self.name}_", text)
        return re.sub(r"\bapp\b", self.name, renamed).replace("dharma:", f"{self.name}:")

    def postgresql(self, who: str) -> dict[str, Any]:
        superuser, role = self.place.url("postgresql"), f"{self.name}_{who}"
        made, _, rest = written("sql", who, "PostgreSQL").partition(";")
        assert made == f"CREATE ROLE dharma_{who} LOGIN PASSWORD 'PASSWORD'"
        make_role(superuser, role, PASSWORD)
        self.after.callback(drop_role, superuser, role)
        with psycopg.connect(superuser, autocommit=True) as connection:
            # As from PostgreSQL 15 on, in databases that are made anew there.
            connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            connection.execute(self.here(rest).replace(f"dharma_{who}", role))
        found = conninfo_to_dict(superuser)
        where = f"{found['host']}:{found['port']}/{found['dbname']}"
        return {"postgresql_url": SecretStr(f"postgresql://{role}:{PASSWORD}@{where}")}

    def mongodb(self, who: str, section: str = "MongoDB") -> dict[str, Any]:
        role = json.loads(self.here(written("json", who, section)))
        role["createRole"] = name = f"{self.name}_{who}"
        with self.secured.mongodb() as client:
            client.admin.command(role)
            client.admin.command("createUser", name, pwd=PASSWORD, roles=[name])
        self.after.callback(self._forget, name)
        login = self.secured.mongodb_url.partition("://")[2].partition("@")[0]
        url = self.secured.mongodb_url.replace(login, f"{name}:{PASSWORD}")
        return {"mongodb_url": SecretStr(url.replace("/dharma?", f"/{self.name}?"))}

    def _forget(self, name: str) -> None:
        with self.secured.mongodb() as client:
            client.admin.command("dropUser", name)
            client.admin.command("dropRole", name)

    def elasticsearch(self, who: str, section: str = "Elasticsearch") -> dict[str, Any]:
        role = json.loads(self.here(written("json", who, section)))
        with self.secured.elasticsearch() as client:
            key = client.security.create_api_key(name=who, role_descriptors={who: role})
        host = self.secured.elasticsearch_url.rpartition("@")[2]
        return {
            "elasticsearch_url": SecretStr(f"https://{host}"),
            "elasticsearch_api_key": SecretStr(key["encoded"]),
            "elasticsearch_ca_certs": self.secured.keys.authority.certificate,
        }

    def filled(self) -> dict[str, Any]:
        """What an application has written before: in MongoDB as somebody else."""
        url = self.secured.mongodb_url.replace("/dharma?", f"/{self.name}?")
        return {"mongodb_url": SecretStr(url), "elasticsearch_url": None}

    def redis(self, who: str) -> dict[str, Any]:
        (line,) = re.findall(rf"^user dharma-{who} (.*)$", USERS, re.MULTILINE)
        user = f"{self.name}-{who}"
        rules = self.here(line).replace(f"{who.upper()}_PASSWORD", PASSWORD).split()
        url = self.place.environment["DHARMA_REDIS_URL"]
        admin = Redis.from_url(url)
        admin.execute_command("ACL", "SETUSER", user, *rules)
        self.after.callback(admin.acl_deluser, user)
        return {"redis_url": SecretStr(url.replace("redis://", f"redis://{user}:{PASSWORD}@"))}


@pytest.fixture
def grants(place: Place, secured: Secured) -> Iterator[Grants]:
    """Accounts on servers that ask who is there."""
    with ExitStack() as after:
        after.callback(_clean, place.settings.namespace, secured)
        yield Grants(place, secured, after)


def _clean(name: str, secured: Secured) -> None:
    with secured.mongodb() as client:
        client.drop_database(name)
    with secured.elasticsearch() as client:
        names = f"{name}*,projects*,people*"
        client.indices.delete(index=names, expand_wildcards="all", ignore_unavailable=True)


@contextmanager
def acting(place: Place, *accounts: dict[str, Any]) -> Iterator[None]:
    """Be somebody else for a while: every process that is started meanwhile is."""
    before = place.settings
    nobody: dict[str, Any] = {f"{name}_url": None for name in NAMES}
    for account in accounts:
        nobody |= account
    place.settings = before.model_copy(update=nobody)
    yield
    place.settings = before


@contextmanager
def _flower(place: Place, folder: Path) -> Iterator[Flower]:
    flower = Flower(place, folder)
    flower.launch()
    flower.wait()
    yield flower
    flower.end()


def test_the_example_up_and_down(grants: Grants, tmp_path: Path) -> None:
    """A worker, Flower and a submitter with their own accounts; only the worker has databases."""
    place = grants.place
    shutil.copytree(ROOT / "migrations", place.folder)
    worker = [getattr(grants, name)("worker") for name in (*NAMES, "redis")]
    with acting(place, *worker):
        seed(place.settings.model_copy(update=grants.filled()), 300)
        place.start_worker()
    with acting(place, grants.redis("flower")), _flower(place, tmp_path) as flower:
        name = place.alive()[0].name
        wait_for(lambda: name in flower.shows("api/workers?refresh=1"), "Flower to see the worker")
    with acting(place, grants.redis("submit")):
        place.submit()
        assert _states(place) == {"applied"}
        place.dharma("rollback", "1.0.0", "--yes", "--accept-data-loss")
        assert "rolled_back" in _states(place)
    refused = re.findall(r".*(?:ermission|uthoriz|denied|cannot be seen).*", place.logs_text())
    assert refused == []


def _states(place: Place) -> set[str]:
    return {each["state"] for found in place.status().values() for each in found["migrations"]}


def test_status_only(grants: Grants) -> None:
    """Who may only look reads the journals, and can write nothing."""
    place = grants.place
    for name in NAMES:
        place.write(name, "001_none", {"version": "1.0.0", "operations": []})
    everything = place.settings.model_copy(
        update={
            **grants.filled(),
            "elasticsearch_url": SecretStr(grants.secured.elasticsearch_url),
            "elasticsearch_ca_certs": grants.secured.keys.authority.certificate,
        }
    )
    for name in NAMES:
        connect(name, everything).journal.begin(_opening(), 0)
    accounts = [getattr(grants, name)("status") for name in NAMES]
    with acting(place, *accounts):
        for name in NAMES:
            database: Any = connect(name, place.settings)
            assert database.journal.survey().head.generation == 1
            with pytest.raises(Exception, match=_DENIED) as caught:
                database.journal.begin(_opening("another"), 1)
            database.close()
            assert caught.value is not None


def test_the_history_is_only_added_to(grants: Grants) -> None:
    """A worker does all its work, and can neither change nor remove what was told of it."""
    place, name = grants.place, grants.name
    superuser, worker = place.url("postgresql"), grants.postgresql("worker")
    worker |= grants.mongodb("append-only", "The history in MongoDB")
    worker |= grants.elasticsearch("append-only", "The history in Elasticsearch")
    ours = grants.here(written("sql", "append-only", "The history in PostgreSQL"))
    users = {"type": "create_collection", "collection": "users"}
    insert = {"type": "insert_documents", "collection": "users", "documents": [{"_id": 1}]}
    place.write("mongodb", "001_users", {"version": "1.0.0", "operations": [users, insert]})
    place.write("postgresql", "001_none", {"version": "1.0.0"}, "-- nothing")
    index = {"type": "create_index", "index": f"projects_{name}"}
    place.write("elasticsearch", "001_projects", {"version": "1.0.0", "operations": [index]})
    with acting(place, worker):
        made: Any = connect("postgresql", place.settings)
        made.journal.begin(_opening(), 0)  # as the first submit does
        made.close()
        with psycopg.connect(superuser, autocommit=True) as connection:
            connection.execute(ours.replace("dharma_worker", f"{name}_worker"))
        place.start_worker()
        place.submit()
        place.dharma("rollback", "0.0.0", "--yes")
        assert _states(place) == {"rolled_back"}
        for each in NAMES:
            database: Any = connect(each, place.settings)
            told = database.journal.history(1000)
            assert {"applied", "rolled_back"} <= {entry.event for entry in told}
            for change in _FORGING[each]:
                with pytest.raises(Exception, match=_DENIED):
                    change(database, f"{name}_history")
            assert database.journal.history(1000) == told
            database.close()


def _in_postgresql(statement: str) -> Callable[[Any, str], object]:
    return lambda database, history: database.handle.query(statement.format(history))


_FORGING: dict[str, list[Callable[[Any, str], object]]] = {
    "postgresql": [
        _in_postgresql(statement)
        for statement in (
            "UPDATE public.{} SET by = 'nobody'",
            "DELETE FROM public.{}",
            "TRUNCATE public.{}",
            "DROP TABLE public.{}",
            "ALTER TABLE public.{} DISABLE TRIGGER ALL",
        )
    ],
    "mongodb": [
        lambda database, history: database.handle.database[history].update_many(
            {}, {"$set": {"by": "nobody"}}
        ),
        lambda database, history: database.handle.database[history].delete_one({}),
        lambda database, history: database.handle.database[history].drop(),
        lambda database, history: database.handle.database[history].rename("other"),
    ],
    "elasticsearch": [
        lambda database, history: database.handle.update_by_query(index=history),
        lambda database, history: database.handle.delete_by_query(
            index=history, query={"match_all": {}}
        ),
        lambda database, history: database.handle.indices.delete(index=history),
        lambda database, history: database.handle.index(
            index=history,
            id=database.handle.search(index=history)["hits"]["hits"][0]["_id"],
            document={"by": "nobody"},
        ),
    ],
}
"""What somebody might try who has a worker's account."""


def _opening(run: str = "one") -> Any:
    from dharma_tasks.journal import Opening
    from dharma_tasks.records import Direction

    return Opening(run, Direction.FORWARD, "checksum", "me", accept_data_loss=False)


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda redis, _: redis.get("other:key"),
        lambda redis, _: redis.set("other:key", "x"),
        lambda redis, _: redis.eval("return redis.call('GET', 'other:key')", 0),
        lambda redis, _: redis.publish("other", "x"),
        lambda redis, _: redis.flushall(),
        lambda redis, _: redis.keys("*"),
        lambda redis, _: redis.scan(),
        lambda redis, _: redis.config_get("*"),
        lambda redis, _: redis.acl_list(),
        lambda redis, name: redis.rename(f"{name}:a", "other:key"),
    ],
)
def test_the_submitter_may_do_no_more(
    grants: Grants, forbidden: Callable[[Any, str], object]
) -> None:
    """Nothing outside of the project's keys and channels, and nothing about the server."""
    url = grants.redis("submit")["redis_url"].get_secret_value()
    with Redis.from_url(url) as redis:
        redis.set(f"{grants.name}:a", "ours")
        with pytest.raises(Exception, match=_REFUSED) as caught:
            forbidden(redis, grants.name)
        redis.delete(f"{grants.name}:a")
    assert isinstance(caught.value, NoPermissionError) or "can't access" in str(caught.value)


def test_ending_what_elasticsearch_goes_on_with(grants: Grants) -> None:
    """A worker may cancel a reindex that it takes over."""
    with acting(grants.place, grants.elasticsearch("worker")):
        database: Any = connect("elasticsearch", grants.place.settings)
        assert "nodes" in database.handle.tasks.cancel(actions="*reindex")
        database.close()


@pytest.mark.parametrize("name", ["mongodb", "postgresql"])
def test_taking_over_from_its_own_kind(grants: Grants, name: str) -> None:
    """What a dead worker has left open is ended without any right over others."""
    with acting(grants.place, getattr(grants, name)("worker")):
        former: Any = connect(name, grants.place.settings)
        successor: Any = connect(name, grants.place.settings)
        leave_open, go_on = _OPEN[name]
        leave_open(former)
        successor.free(owner("gone", former.resources()))
        with pytest.raises(Exception, match=_ENDED):
            go_on(former)
        former.close()
        successor.close()


def _begin_in_mongodb(database: Any) -> None:
    connection = database._connection
    connection.session.start_transaction()
    connection.database["things"].insert_one({}, session=connection.session)


def _begin_in_postgresql(database: Any) -> None:
    database.handle.begin()
    database.handle.query("SELECT 1")


_OPEN: dict[str, tuple[Callable[[Any], object], Callable[[Any], object]]] = {
    "mongodb": (_begin_in_mongodb, lambda found: found._connection.session.commit_transaction()),
    "postgresql": (_begin_in_postgresql, lambda found: found.handle.query("SELECT 1")),
}
"""How to leave something open, and how to go on with it."""
