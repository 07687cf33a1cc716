"""Secrets in migrations, with real workers: who has them does the work."""

from __future__ import annotations

import psycopg
import pytest
from place import Place, wait_for
from pymongo import MongoClient

from dharma_tasks.encryption import Cipher, new_key

TOKEN = "the one that is meant"
HIDE = {
    "type": "update_documents",
    "collection": "people",
    "filter": {},
    "update": {"$set": {"name": "nobody"}},
    "keep_before_image": True,
}


def kinds(place: Place, run: str) -> list[str]:
    """What kinds of things the run has told."""
    return [each.kind for each in place.runs.events(run)]


def test_it_waits_for_a_worker_that_has_the_secret(place: Place) -> None:
    """The run says who lacks what; a worker with the secret goes on with it by itself.

    The other one ends then: while it is there it may be the one that is asked, again and again.
    """
    insert = {
        "type": "insert_documents",
        "collection": "hooks",
        "documents": [{"_id": 1, "token": {"$secret": "TOKEN"}}],
    }
    make = {"type": "create_collection", "collection": "hooks"}
    place.write("mongodb", "001_hooks", {"version": "1.0.0", "operations": [make, insert]})
    place.start_worker("--pool", "threads")
    place.dharma("submit", "--no-wait")
    (found,) = wait_for(place.runs.open, "the run")

    def told() -> list[str]:
        events = place.runs.events(found.run.id)
        return [each.text for each in events if each.kind == "waiting"]

    assert "DHARMA_SECRET_TOKEN is not set there" in wait_for(told, "the run to say so")[0]
    place.start_worker(DHARMA_SECRET_TOKEN=TOKEN)
    place.workers[0].kill()
    wait_for(lambda: place.status()["mongodb"]["migrations"][0]["state"] == "applied", "the end")
    with MongoClient(place.url("mongodb")) as client:
        (document,) = client.get_default_database()["hooks"].find()
    assert document == {"_id": 1, "token": TOKEN}


def test_cancelled_while_it_waits_for_a_secret(place: Place) -> None:
    """Nobody has it, and nobody needs it to undo what was before."""
    make = {"type": "create_collection", "collection": "hooks"}
    secret = {"$secret": "TOKEN"}
    add = {"type": "add_field", "collection": "hooks", "field": "token", "value": secret}
    place.write("mongodb", "001_hooks", {"version": "1.0.0", "operations": [make, add]})
    place.start_worker()
    place.dharma("submit", "--no-wait")
    (found,) = wait_for(place.runs.open, "the run")
    wait_for(lambda: "waiting" in kinds(place, found.run.id), "the run to say so")
    place.dharma("cancel", "--yes")
    wait_for(
        lambda: place.status()["mongodb"]["migrations"][0]["state"] == "rolled_back", "the end"
    )
    with MongoClient(place.url("mongodb")) as client:
        assert "hooks" not in client.get_default_database().list_collection_names()


def test_an_encrypted_value_that_does_not_fit(place: Place) -> None:
    """The operation fails, and what was before it is undone: nothing of its own is to be undone."""
    key = new_key()
    make = {"type": "create_collection", "collection": "hooks"}
    wrong = {"$encrypted": Cipher([key]).write({"$oid": TOKEN})}
    add = {"type": "add_field", "collection": "hooks", "field": "owner", "value": wrong}
    place.write("mongodb", "001_hooks", {"version": "1.0.0", "operations": [make, add]})
    place.start_worker(DHARMA_ENCRYPTION_KEY=key)
    failed = place.dharma("submit", status=1)
    said = failed.stdout + failed.stderr
    assert "a hidden value does not fit into 'value'" in said
    assert TOKEN not in said + place.logs_text()
    assert place.status()["mongodb"]["migrations"][0]["state"] == "rolled_back"
    with MongoClient(place.url("mongodb")) as client:
        assert "hooks" not in client.get_default_database().list_collection_names()


@pytest.mark.long
def test_accepted_data_loss_is_none_where_a_worker_has_the_key(place: Place) -> None:
    """Planned by a worker that can undo it all, it is not passed over by one that cannot.

    The way back of PostgreSQL goes first, and waits until the workers have changed.
    """
    key = new_key()
    place.write("mongodb", "001_hide", {"version": "1.0.0", "operations": [HIDE]})
    more = {"version": "1.0.0", "dependencies": ["mongodb:1.0.0"]}
    place.write("postgresql", "001_one", more, "CREATE TABLE step1 (id int)")
    place.start_worker(DHARMA_ENCRYPTION_KEY=key)
    with MongoClient(place.url("mongodb")) as client:
        people = client.get_default_database()["people"]
        people.insert_one({"_id": 1, "name": "Ada"})
        place.write("postgresql", "001_one_rollback", {"version": "1.0.0"}, "DROP TABLE step1")
        place.submit()
        assert people.find_one() == {"_id": 1, "name": "nobody"}

        with psycopg.connect(place.url("postgresql")) as holding:
            holding.execute("LOCK TABLE step1 IN ACCESS SHARE MODE")
            place.dharma("rollback", "0.0.0", "--accept-data-loss", "--yes", "--no-wait")
            (found,) = wait_for(place.runs.open, "the run")
            run = found.run.id

            def begun() -> bool:
                snapshot = place.runs.snapshot(run)
                assert snapshot is not None
                return snapshot.generations.keys() == {"mongodb", "postgresql"}

            wait_for(begun, "both journals to be open")
            place.workers[0].kill()
            place.start_worker("--pool", "threads")

        def told() -> str:
            snapshot = place.runs.snapshot(run)
            assert snapshot is not None
            shown = snapshot.progress.get("mongodb")
            return (shown and shown.waiting) or ""

        wait_for(lambda: "a worker that has that key" in told(), "the run to say what is missing")
        assert people.find_one() == {"_id": 1, "name": "nobody"}
        place.start_worker(DHARMA_ENCRYPTION_KEY=key)
        place.workers[1].kill()
        wait_for(lambda: place.runs.state(run) == "done", "the end")
        assert people.find_one() == {"_id": 1, "name": "Ada"}


def test_what_nobody_can_read_any_more_is_passed_over(place: Place) -> None:
    """Where a person accepts that: the worker that plans it has not the key, and says so."""
    place.write("mongodb", "001_hide", {"version": "1.0.0", "operations": [HIDE]})
    place.start_worker("-Q", "mongodb", DHARMA_ENCRYPTION_KEY=new_key())
    with MongoClient(place.url("mongodb")) as client:
        people = client.get_default_database()["people"]
        people.insert_one({"_id": 1, "name": "Ada"})
        place.submit()
        place.workers[0].kill()
        place.start_worker("-Q", "mongodb")
        done = place.dharma("rollback", "0.0.0", "--accept-data-loss", "--yes")
        assert "mongodb:1.0.0 operation 1 is left as it is" in done.stdout
        assert people.find_one() == {"_id": 1, "name": "nobody"}
