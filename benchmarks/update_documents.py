"""`update_documents` beside one plain `update_many`, and a client's loop of `bulk_write`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from pymongo import MongoClient, UpdateOne

from benchmarks.place import BY_THE_JOURNAL, Place
from benchmarks.rounds import measure, timed
from benchmarks.table import Check, Table, Times, compared, ratio
from dharma_tasks.local.seed import seed

DATABASE = "mongodb"
DOCUMENTS = 1_000_000
A_CALL = 1_000
"""Documents in one `bulk_write`."""
UPDATE = {"$inc": {"visits": 1}}
"""Not idempotent: a document that is met twice, or not at all, shows it."""

PLAIN, LOOP = "one update_many", f"bulk_write of {A_CALL:,} in a loop"
OURS, WHOLE = "update_documents", "the whole submit of it"


def run(place: Place) -> Iterator[Table]:
    """One collection, which every way goes through once a round."""
    size = place.size(DOCUMENTS)
    project = place.project("update")
    seed(project.settings, size)
    client: MongoClient[dict[str, Any]] = MongoClient(place.url)
    users = client.get_default_database()["users"]
    users.update_many({}, {"$set": {"visits": 0}})
    numbers = count(1)

    def plain() -> Times:
        return {PLAIN: [timed(lambda: users.update_many({}, UPDATE))]}

    def loop() -> Times:
        def work() -> None:
            found = (UpdateOne({"_id": each["_id"]}, UPDATE) for each in users.find({}, {"_id": 1}))
            while portion := list(islice(found, A_CALL)):
                users.bulk_write(portion, ordered=False)

        return {LOOP: [timed(work)]}

    def ours() -> Times:
        operation = {
            "type": "update_documents",
            "collection": "users",
            "filter": {},
            "update": UPDATE,
        }
        version = project.add(next(numbers), operations=[operation])
        with project.worker():
            whole = project.submit()
        return {OURS: [project.seconds(version)], WHOLE: [whole]}

    def before() -> None:
        place.restart()
        users.count_documents({"visits": {"$gte": 0}})  # the data is in memory for all of them

    with client:
        times, loads = measure([plain, loop, ours], place.rounds, before)
        wrong = users.count_documents({"visits": {"$ne": 3 * place.rounds}})
    if wrong:
        sys.exit(f"{wrong:,} documents were not updated exactly once by each of the ways")
    head, rows = compared(times, size, "documents")
    yield Table(
        f"MongoDB: an update of {size:,} documents",
        head,
        rows,
        checks=[
            Check(f"speed of {OURS} to that of {PLAIN}", ratio(times, OURS, PLAIN), 0.95),
            Check(f"speed of {OURS} to that of the loop", ratio(times, OURS, LOOP), 4),
        ],
        notes=[
            BY_THE_JOURNAL,
            "afterwards every document had been updated exactly once by each way in each round",
        ],
        loads=loads,
    )
