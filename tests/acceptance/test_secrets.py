"""Secrets in migrations, with real workers: who has them does the work."""

from __future__ import annotations

from place import Place, wait_for
from pymongo import MongoClient

TOKEN = "the one that is meant"


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
