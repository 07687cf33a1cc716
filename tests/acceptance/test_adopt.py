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
from dharma_tasks.records import HistoryRecord
from dharma_tasks.submit import who_asks

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
    """Made by hand, declared to be there, never run; the next version goes on top of it.

    What that keeps for its way back may be removed, and is then as irreversible.
    """
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
    place.dharma("baseline", "1.0.0", "--yes", "--by", "ops@desk")
    assert [states(place, name) for name in NAMES] == [{"1.0.0": "applied"}] * 3
    assert list(mongodb["users"].find()) == [{"_id": 1, "name": "Ann"}]
    for name in NAMES:
        (entry,) = history(place, name)
        assert (entry.event, entry.by, entry.version) == ("baseline", who_asks("ops@desk"), "1.0.0")

    more = "ALTER TABLE users ADD COLUMN more int"
    place.write("postgresql", "002_more", {"version": "1.1.0"}, more)
    place.write("mongodb", "002_more", {"version": "1.1.0", "operations": [field]})
    place.submit()
    assert states(place, "postgresql") == {"1.0.0": "applied", "1.1.0": "applied"}
    assert mongodb["users"].find_one() == {"_id": 1, "name": "Ann", "added": 1}
    pruned = place.dharma("prune", "--older-than", "0", "--databases", "mongodb")
    assert "mongodb: 1.1.0 operation 1 cannot be undone any more" in pruned.stdout
    refused = place.dharma("rollback", "0.0.0", "--databases", "mongodb", "--yes", status=2)
    assert "1.1.0 cannot be undone: operation 1, add_field: what it kept" in refused.stderr
    assert "1.0.0 cannot be undone: operation 1, add_field: taken over" in refused.stderr


def fails(place: Place, number: int, version: str) -> None:
    """Write a migration that fails half way: what it has done by then cannot be undone."""
    remove = {"type": "remove_field", "collection": "users", "field": f"old{number}"}
    drop = {"type": "drop_index", "collection": "users", "index": f"by_hand{number}"}
    content = {"version": version, "operations": [remove, drop]}
    place.write("mongodb", f"00{number}_users", content)


def repair(place: Place, option: str, version: str, status: int = 0) -> str:
    """Run the command; what it says."""
    done = place.dharma(
        "repair", "mongodb", version, option, "--yes", "--by", "ops@desk", status=status
    )
    return done.stdout + done.stderr


@pytest.mark.long
def test_repaired(place: Place, mongodb: Database[Document]) -> None:
    """Begun anew, accepted, gone on with, taken as it is: after each of them submit goes on."""
    users = mongodb["users"]
    users.insert_many({"_id": n, "old1": n} for n in range(10))
    fails(place, 1, "1.0.0")
    place.start_worker()
    assert place.submit(check=False).returncode == 1
    assert states(place) == {"1.0.0": "failed"}
    before = dump(mongodb)
    assert "nothing to accept" in repair(place, "--accept-checksum", "1.0.0", status=2)
    assert dump(mongodb) == before

    assert "failed → rolled_back" in repair(place, "--mark-rolled-back", "1.0.0")
    assert states(place) == {"1.0.0": "rolled_back"}
    users.update_one({"_id": 1}, {"$set": {"old1": 1}})
    users.create_index("old1", name="by_hand1")
    gate = Gate(place)
    place.write("postgresql", "001_wait", {"version": "1.0.0"}, WAITING)
    with place.start_submit() as submit:
        wait_for(gate.backend, "the statement")
        wait_for(lambda: states(place) == {"1.0.0": "applied"}, "the other database")
        before = dump(mongodb)
        assert "dharma cancel" in repair(place, "--mark-rolled-back", "1.0.0", status=2)
        assert dump(mongodb) == before
        gate.open()
        submit.communicate(timeout=60)
    assert submit.returncode == 0
    assert users.find_one({"_id": 1}) == {"_id": 1}  # it has begun anew

    file = place.folder / "mongodb" / "001_users.json"
    file.write_text(file.read_text().replace('"users"', '"other"', 1))
    out = repair(place, "--accept-checksum", "1.0.0")
    assert "stays applied" in out
    users.update_one({"_id": 1}, {"$set": {"old2": 1}})
    fails(place, 2, "1.1.0")
    fails(place, 3, "1.2.0")
    assert place.submit(check=False).returncode == 1  # and not 2: the file is accepted
    assert states(place) == {"1.0.0": "applied", "1.1.0": "failed"}
    users.update_one({"_id": 1}, {"$set": {"old2": 2}})
    users.create_index("old2", name="by_hand2")
    assert "failed → running" in repair(place, "--retry", "1.1.0")
    assert place.submit(check=False).returncode == 1  # in the one after it
    assert states(place) == {"1.0.0": "applied", "1.1.0": "applied", "1.2.0": "failed"}
    assert users.find_one({"_id": 1}) == {"_id": 1, "old2": 2}  # it has gone on

    assert "done: 1 remove_field" in repair(place, "--mark-applied", "1.2.0")
    field = {"type": "add_field", "collection": "users", "field": "added", "value": 1}
    place.write("mongodb", "004_users", {"version": "1.3.0", "operations": [field]})
    place.submit()
    assert [*states(place).values()] == ["applied"] * 4
    told = [
        (each.event, each.version) for each in history(place) if each.by == who_asks("ops@desk")
    ]
    assert told == [
        ("mark_rolled_back", "1.0.0"),
        ("accept_checksum", "1.0.0"),
        ("retry", "1.1.0"),
        ("mark_applied", "1.2.0"),
    ]
