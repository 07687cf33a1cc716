"""The way back, on real processes and the four real engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import elasticsearch_state
import mongodb_state
import postgresql_state
import psycopg
import pytest
from elasticsearch import Elasticsearch
from gate import WAITING, Gate
from place import Place, wait_for
from pymongo.database import Database

from dharma_tasks.databases import NAMES
from dharma_tasks.lease import Leases
from dharma_tasks.migration import Key
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.submit import who_asks

Document = dict[str, Any]


@pytest.fixture
def elastic(place: Place) -> Iterator[Elasticsearch]:
    """A client of the test's own."""
    with Elasticsearch(place.url("elasticsearch")) as client:
        yield client


def everywhere(state: str) -> dict[str, list[str]]:
    """One migration in each database, in that state."""
    return {name: [state] for name in NAMES}


def states(place: Place) -> dict[str, list[str]]:
    """The states of all migrations, by database."""
    found = place.status()
    return {name: [each["state"] for each in found[name]["migrations"]] for name in NAMES}


@pytest.fixture
def crossed(place: Place) -> Place:
    """A collection, a table whose migration needs it, an index whose migration needs the table."""
    place.write(
        "mongodb",
        "001_users",
        {"version": "1.0.0", "operations": [{"type": "create_collection", "collection": "users"}]},
    )
    needs = {"version": "1.0.0", "dependencies": ["mongodb:1.0.0"]}
    place.write("postgresql", "001_users", needs, "CREATE TABLE users (id int)")
    place.write("postgresql", "001_users_rollback", {"version": "1.0.0"}, "DROP TABLE users")
    index = {"type": "create_index", "index": f"{place.settings.namespace}-users"}
    place.write(
        "elasticsearch",
        "001_users",
        {"version": "1.0.0", "dependencies": ["postgresql:1.0.0"], "operations": [index]},
    )
    return place


@pytest.mark.long
def test_back_and_forth(
    crossed: Place, mongodb: Database[Document], elastic: Elasticsearch
) -> None:
    """Newest first against the dependencies, and everything is gone."""
    index = f"{crossed.settings.namespace}-users"
    crossed.start_worker()
    crossed.submit()
    assert states(crossed) == everywhere("applied")
    assert elastic.indices.exists(index=index)
    done = crossed.dharma("rollback", "0.0.0", "--yes", "--by", "ops@desk")
    told = [line for line in done.stdout.splitlines() if "rolled back in" in line]
    assert [line.split()[0] for line in told] == ["elasticsearch", "postgresql", "mongodb"]
    assert states(crossed) == everywhere("rolled_back")
    assert "users" not in mongodb.list_collection_names()
    assert not elastic.indices.exists(index=index)
    with psycopg.connect(crossed.url("postgresql")) as connection:
        row = connection.execute("SELECT to_regclass('users')").fetchone()
    assert row == (None,)
    again = json.loads(crossed.submit("--rollback-to", "0.0.0", "--json").stdout)
    assert again["state"] == "done"
    assert again["databases"]["mongodb"]["done"] == 0


@pytest.mark.long
def test_a_refusal_leaves_no_trace(
    crossed: Place, mongodb: Database[Document], elastic: Elasticsearch
) -> None:
    """What cannot be undone is named, with what would help; no database has changed, no journal."""
    namespace = crossed.settings.namespace
    mongodb["users"].insert_one({"_id": 1, "old": "value"})
    remove = {"type": "remove_field", "collection": "users", "field": "old"}
    mapping = {"properties": {"email": {"type": "keyword"}}}
    update = {"type": "update_mapping", "index": f"{namespace}-users", "mapping": mapping}
    crossed.write("mongodb", "002_old", {"version": "1.1.0", "operations": [remove]})
    crossed.write("elasticsearch", "002_email", {"version": "1.1.0", "operations": [update]})
    crossed.write("postgresql", "002_two", {"version": "1.1.0"}, "INSERT INTO users VALUES (2)")
    crossed.start_worker()
    crossed.submit()

    def dump() -> list[Any]:
        with psycopg.connect(crossed.url("postgresql")) as connection:
            tables = postgresql_state.state(connection, "no journal")
        names = sorted(mongodb.list_collection_names())
        documents = {name: mongodb_state.raw(mongodb, name) for name in names}
        return [documents, tables, elasticsearch_state.state(elastic, f"{namespace}*")]

    before = dump()
    assert f"public.{namespace}_history" in str(before)
    refused = crossed.dharma("rollback", "0.0.0", "--yes", status=2)
    said = " ".join(refused.stderr.split())
    for kind in ("remove_field", "update_mapping", "sql"):
        assert f"1.1.0 cannot be undone: operation 1, {kind}" in said
    assert "--accept-data-loss" in said
    refused = crossed.dharma("rollback", "0.0.0", "--databases", "mongodb", "--yes", status=2)
    assert "postgresql:1.0.0 needs it and stays" in refused.stderr
    assert dump() == before
    assert states(crossed)["mongodb"] == ["applied", "applied"]
    crossed.dharma("rollback", "0.0.0", "--accept-data-loss", "--yes", "--by", "ops@desk")
    for name in NAMES:
        told = json.loads(crossed.dharma("history", name, "--json").stdout)["entries"]
        runs = [(each["by"], each["detail"]) for each in told if each["event"] == "run"]
        assert runs[-1] == (who_asks("ops@desk"), "back --accept-data-loss")
        left = [each for each in told if each["event"] == "passed_over"]
        assert [(each["by"], each["version"], each["number"]) for each in left] == [
            (who_asks("ops@desk"), "1.1.0", 1)
        ]
        assert left[0]["detail"].startswith("left as it is: ")
    assert states(crossed) == {name: ["rolled_back"] * 2 for name in NAMES}


def test_a_failed_migration_is_rolled_back(place: Place, mongodb: Database[Document]) -> None:
    """What was done of it is undone; the error is the first one, in the database's own words.

    A batch in the middle violates a unique index: the document is named, and the batches before
    it are undone with the operations before. Another database finishes what it is in; nothing new
    begins there, and what did not run is named.
    """
    mongodb["users"].insert_many({"_id": n, "n": n} for n in range(100))
    mongodb["users"].update_one({"_id": 77}, {"$set": {"to": 1003}})
    before = list(mongodb["users"].find())
    field = {"type": "add_field", "collection": "users", "field": "added", "value": 1}
    unique = {
        "type": "create_index",
        "collection": "users",
        "index": [["n", 1]],
        "options": {"unique": True},
    }
    moved = {
        "type": "update_documents",
        "collection": "users",
        "filter": {},
        "update": [{"$set": {"n": {"$ifNull": ["$to", {"$add": ["$n", 1000]}]}}}],
        "keep_before_image": True,
        "batch": {"max": 20},
    }
    operations = [field, unique, moved]
    place.write("mongodb", "001_users", {"version": "1.0.0", "operations": operations})
    place.write("mongodb", "002_more", {"version": "1.1.0", "operations": [field]})
    gate = Gate(place)
    place.write("postgresql", "001_long", {"version": "1.0.0"}, WAITING)
    place.write("postgresql", "002_late", {"version": "1.1.0"}, "CREATE TABLE late ()")
    place.start_worker()
    submitted = place.start_submit()
    wait_for(gate.backend, "the statement of the other database")
    wait_for(lambda: "rolled_back" in states(place)["mongodb"], "the rollback")
    gate.open()
    _, said = submitted.communicate(timeout=60)
    assert submitted.returncode == 1
    assert "E11000" in said
    assert "the document with _id 77 of 'users'" in said
    assert "What was done of it is undone: it is rolled back." in said
    assert "1.1.0 more" in said
    assert "1.1.0 late" in said
    assert states(place)["mongodb"] == ["rolled_back", "pending"]
    assert states(place)["postgresql"] == ["applied", "pending"]
    assert "E11000" in place.status()["mongodb"]["migrations"][0]["error"]
    assert list(mongodb["users"].find()) == before
    assert set(mongodb["users"].index_information()) == {"_id_"}
    mongodb["users"].update_one({"_id": 77}, {"$unset": {"to": ""}})
    place.submit()
    assert states(place)["mongodb"] == states(place)["postgresql"] == ["applied", "applied"]
    assert mongodb["users"].count_documents({"n": {"$gte": 1000}, "added": 1}) == 100


def test_what_cannot_be_undone_is_left(place: Place, mongodb: Database[Document]) -> None:
    """It is undone down to there, and failed with what is left; the next submit goes on."""
    mongodb["users"].insert_many({"_id": n, "old": 1} for n in range(100))
    operations = [
        {"type": "remove_field", "collection": "users", "field": "old"},
        {"type": "add_field", "collection": "users", "field": "added", "value": 1},
        {"type": "create_index", "collection": "users", "index": [["a", 1]]},
        {"type": "drop_index", "collection": "users", "index": "no_such_index"},
    ]
    place.write("mongodb", "001_users", {"version": "1.0.0", "operations": operations})
    place.start_worker()
    failed = place.submit(check=False)
    assert failed.returncode == 1
    assert "no_such_index" in failed.stderr
    assert "1 remove_field" in failed.stderr
    (migration,) = place.status()["mongodb"]["migrations"]
    assert migration["state"] == "failed"
    assert [each["state"] for each in migration["operations"]] == ["done", *["pending"] * 3]
    assert mongodb["users"].count_documents({"added": {"$exists": True}}) == 0
    assert set(mongodb["users"].index_information()) == {"_id_"}
    mongodb["users"].create_index("b", name="no_such_index")
    place.submit()
    assert states(place)["mongodb"] == ["applied"]
    assert mongodb["users"].count_documents({"added": 1}) == 100


def test_a_rollback_file_that_leaves_nothing(place: Place) -> None:
    """Its transaction is gone with its error: the migration is applied, and bars nobody's way."""
    place.write("postgresql", "001_users", {"version": "1.0.0"}, "CREATE TABLE users (id int)")
    undo = ("postgresql", "001_users_rollback", {"version": "1.0.0"})
    place.write(*undo, "DROP TABLE users; DROP TABLE no_such_table")
    back = ("submit", "--rollback-to", "0.0.0", "--inline")
    place.submit("--inline")
    failed = place.dharma(*back, status=1)
    assert "postgresql/001_users_rollback.json: postgresql:1.0.0#2 sql" in failed.stderr
    assert 'table "no_such_table" does not exist' in failed.stderr
    (migration,) = place.status()["postgresql"]["migrations"]
    assert (migration["state"], migration["error"]) == ("applied", None)
    place.write("postgresql", "002_more", {"version": "1.1.0"}, "CREATE TABLE more (id int)")
    place.write("postgresql", "002_more_rollback", {"version": "1.1.0"}, "DROP TABLE more")
    place.submit("--inline")
    place.write(*undo, "DROP TABLE users")
    place.dharma(*back)
    assert states(place)["postgresql"] == ["rolled_back", "rolled_back"]


ROWS = 40_000


@pytest.mark.campaign
def test_killed_on_the_way_back(place: Place, mongodb: Database[Document]) -> None:
    """Kill -9 of whoever undoes it, twice: each document is as it was, and nothing is left."""
    place.settings = place.settings.model_copy(update={"lease_seconds": 2.0, "batch_seconds": 0.05})
    users = mongodb["users"]
    users.insert_many(
        {"_id": n, **({"added": "before"} if n % 3 == 0 else {})} for n in range(ROWS)
    )
    before = list(users.find().sort("_id"))
    field = {"type": "add_field", "collection": "users", "field": "added", "value": "ours"}
    place.write("mongodb", "001_users", {"version": "1.0.0", "operations": [field]})
    place.start_worker()
    place.submit()
    added = users.count_documents({"added": "ours"})
    assert added == users.count_documents({}) - len([each for each in before if "added" in each])
    back = subprocess.Popen(
        [sys.executable, "-m", "dharma_tasks", "rollback", "0.0.0", "--yes"],
        env=place.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    leases = Leases(connect_redis(place.settings), place.settings.namespace, 2.0)
    key = Key(database="mongodb", version="1.0.0", number=1)
    killed: set[int] = set()
    for _ in range(2):
        left = users.count_documents({"added": "ours"})
        wait_for(lambda left=left: users.count_documents({"added": "ours"}) < left, "some batches")  # type: ignore[misc]
        holder = wait_for(
            lambda: (found := leases.holder(key)) and found.pid not in killed and found, "a lease"
        )
        assert users.count_documents({"added": "ours"}) > 0
        os.kill(holder.pid, signal.SIGKILL)
        killed.add(holder.pid)
    out, err = back.communicate(timeout=90)
    assert back.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    assert list(users.find().sort("_id")) == before
    assert states(place)["mongodb"] == ["rolled_back"]
    kept = [name for name in mongodb.list_collection_names() if name.endswith("_undo")]
    assert all(mongodb[name].count_documents({}) == 0 for name in kept)
