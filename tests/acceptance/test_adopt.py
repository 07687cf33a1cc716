"""A database that was there before, and migrations that a person has to repair."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from elasticsearch import Elasticsearch
from gate import WAITING, Gate
from place import Place, wait_for
from pymongo.database import Database

from dharma_tasks.databases import NAMES, connect
from dharma_tasks.journal import HistoryRecord

Document = dict[str, Any]


def states(place: Place, database: str = "mongodb") -> dict[str, str]:
    """The states in the journal, by version."""
    found = connect(database, place.settings)
    try:
        return {each.version: str(each.state) for each in found.journal.survey().migrations}
    finally:
        found.close()


def history(place: Place, database: str = "mongodb") -> list[HistoryRecord]:
    """The audit trail, oldest first."""
    found = connect(database, place.settings)
    try:
        return found.journal.history(1000)
    finally:
        found.close()


def dump(mongodb: Database[Document]) -> dict[str, list[Document]]:
    """Every document of every collection, the journal's too."""
    names = sorted(mongodb.list_collection_names())
    return {name: list(mongodb[name].find().sort("_id")) for name in names}


def test_a_database_is_taken_over(place: Place, mongodb: Database[Document]) -> None:
    """Made by hand, declared to be there, never run; the next version goes on top of it."""
    index = f"{place.settings.namespace}-users"
    mongodb["users"].insert_one({"_id": 1, "name": "Ann"})
    with psycopg.connect(place.url("postgresql")) as connection:
        connection.execute("CREATE TABLE users (id int)")
    with Elasticsearch(place.url("elasticsearch")) as client:
        client.indices.create(index=index)
    field = {"type": "add_field", "collection": "users", "field": "added", "value": 1}
    place.write("mongodb", "001_users", {"version": "1.0.0", "operations": [field]})
    needs = {"version": "1.0.0", "dependencies": ["mongodb:1.0.0"]}
    place.write("postgresql", "001_users", needs, "CREATE TABLE users (id int)")
    new = {"type": "create_index", "index": index}
    place.write("elasticsearch", "001_users", {"version": "1.0.0", "operations": [new]})
    place.start_worker()
    alone = place.dharma("baseline", "1.0.0", "--databases", "postgresql", status=2)
    assert "postgresql:1.0.0 needs mongodb:1.0.0" in alone.stderr
    assert sorted(mongodb.list_collection_names()) == ["users"]
    place.dharma("baseline", "1.0.0", "--by", "ops@desk")
    assert [states(place, name) for name in NAMES] == [{"1.0.0": "applied"}] * 3
    assert list(mongodb["users"].find()) == [{"_id": 1, "name": "Ann"}]
    for name in NAMES:
        (entry,) = history(place, name)
        assert (entry.event, entry.by, entry.version) == ("baseline", "ops@desk", "1.0.0")
    assert "Nothing to do" in place.dharma("baseline", "1.0.0").stdout
    assert len(history(place)) == 1

    more = "ALTER TABLE users ADD COLUMN more int"
    place.write("postgresql", "002_more", {"version": "1.1.0"}, more)
    place.write("mongodb", "002_more", {"version": "1.1.0", "operations": [field]})
    place.submit()
    assert states(place, "postgresql") == {"1.0.0": "applied", "1.1.0": "applied"}
    assert mongodb["users"].find_one() == {"_id": 1, "name": "Ann", "added": 1}
    refused = place.dharma("rollback", "0.0.0", "--databases", "mongodb", "--yes", status=2)
    assert "1.0.0 cannot be undone: operation 1, add_field: taken over" in refused.stderr


@pytest.fixture
def failing(place: Place, mongodb: Database[Document]) -> Place:
    """A worker, a migration that has failed half way, and one that comes after it."""
    mongodb["users"].insert_many({"_id": n, "old": n} for n in range(10))
    remove = {"type": "remove_field", "collection": "users", "field": "old"}
    drop = {"type": "drop_index", "collection": "users", "index": "by_hand"}
    field = {"type": "add_field", "collection": "users", "field": "added", "value": 1}
    place.write("mongodb", "001_users", {"version": "1.0.0", "operations": [remove, drop]})
    place.write("mongodb", "002_more", {"version": "1.1.0", "operations": [field]})
    place.start_worker()
    assert place.submit(check=False).returncode == 1
    assert states(place) == {"1.0.0": "failed"}
    return place


def repair(place: Place, option: str, version: str = "1.0.0", status: int = 0) -> str:
    """Run the command; what it says."""
    done = place.dharma("repair", "mongodb", version, option, "--by", "ops@desk", status=status)
    return done.stdout + done.stderr


def test_repaired(failing: Place, mongodb: Database[Document]) -> None:
    """Begun anew, gone on with, taken as it is: each of the ways, and the next submit works."""
    place = failing
    for option, said in (
        ("--accept-checksum", "nothing to accept"),
        ("--retry", "mongodb:1.1.0 is pending: there is nothing to retry"),
    ):
        before = dump(mongodb)
        assert said in repair(place, option, "1.1.0" if option == "--retry" else "1.0.0", status=2)
        assert dump(mongodb) == before

    out = repair(place, "--mark-rolled-back")
    assert "failed → rolled_back" in out
    assert states(place) == {"1.0.0": "rolled_back"}
    mongodb["users"].update_one({"_id": 1}, {"$set": {"old": 1}})
    assert place.submit(check=False).returncode == 1  # it has begun anew, and failed as before
    assert mongodb["users"].count_documents({"old": {"$exists": True}}) == 0

    mongodb["users"].update_one({"_id": 1}, {"$set": {"old": 1}})
    mongodb["users"].create_index("old", name="by_hand")
    repair(place, "--retry")
    assert states(place) == {"1.0.0": "running"}
    place.submit()
    assert states(place) == {"1.0.0": "applied", "1.1.0": "applied"}
    assert mongodb["users"].find_one({"_id": 1}) == {"_id": 1, "old": 1, "added": 1}

    remove = {"type": "remove_field", "collection": "users", "field": "new"}
    again = {"name": "other", "version": "1.0.0"}
    drop = {"type": "drop_index", "collection": "users", "index": "by_hand"}
    place.write("mongodb", "001_users", {**again, "operations": [remove, drop]})
    refused = place.submit(check=False)
    assert refused.returncode == 2
    assert "its file was changed" in refused.stderr
    repair(place, "--accept-checksum")
    drop = {"type": "drop_index", "collection": "users", "index": "never_there"}
    place.write("mongodb", "003_last", {"version": "1.2.0", "operations": [remove, drop]})
    assert place.submit(check=False).returncode == 1
    out = repair(place, "--mark-applied", "1.2.0")
    assert "done: 1 remove_field" in out
    assert "2 drop_index" in out
    assert states(place)["1.2.0"] == "applied"
    place.submit()
    words = {"mark_rolled_back", "retry", "accept_checksum", "mark_applied"}
    told = [each for each in history(place) if each.event in words]
    assert [(each.event, each.version) for each in told] == [
        ("mark_rolled_back", "1.0.0"),
        ("retry", "1.0.0"),
        ("accept_checksum", "1.0.0"),
        ("mark_applied", "1.2.0"),
    ]
    assert {each.by for each in told} == {"ops@desk"}


def test_not_while_a_run_is_open(failing: Place, mongodb: Database[Document]) -> None:
    """Who has it is named; whatever is asked for, nothing is written."""
    place, gate = failing, Gate(failing)
    place.write("postgresql", "001_wait", {"version": "1.0.0"}, WAITING)
    repair(place, "--mark-applied")
    with place.start_submit() as submit:
        wait_for(gate.backend, "the statement")
        wait_for(lambda: states(place).get("1.1.0") == "applied", "the other database")
        before = dump(mongodb)
        assert "dharma cancel" in repair(place, "--mark-rolled-back", status=2)
        place.dharma("baseline", "1.1.0", status=2)
        place.dharma("prune", "--older-than", "0", status=2)
        assert dump(mongodb) == before
        gate.open()
        submit.communicate(timeout=60)
    assert submit.returncode == 0
