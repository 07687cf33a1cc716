"""The walk through large, odd and busy collections, by the runner itself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from random import Random
from typing import Any
from unittest.mock import Mock

import pytest
from bson import ObjectId
from mixed_ids import EVERY_TYPE, mixed_ids
from mongodb_hand import Hand, op
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import OperationFailure

from dharma_tasks.control_protocols import Control
from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.mongodb.faults import shown
from dharma_tasks.operations.base import Operation
from dharma_tasks.runner import Runner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Taken

INCREMENT = {"collection": "things", "filter": {}, "update": {"$inc": {"n": 1}}}


def run(hand: Hand, operation: Operation[Any], settings: Settings) -> Taken:
    """Carry it out as a worker does, with its pace and its pauses."""
    control = Mock(spec=Control, **{"ending.return_value": None})
    assignment = hand.assignment("1.0.0", operation.kind)
    return Runner(operation, assignment, hand.database, control, settings, "worker").run()


# --- each document exactly once ---


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_mixed_ids_are_visited_exactly_once(
    hand: Hand, documents: Database[Any], size: int
) -> None:
    """A collection whose `_id`s are of every BSON type is walked whole, in any batch size."""
    documents.things.insert_many([{"_id": each, "n": 0} for each in EVERY_TYPE])
    hand.size = size
    taken = hand.run(op("update_documents", **INCREMENT))
    assert documents.things.count_documents({"n": 1}) == len(EVERY_TYPE)
    assert (taken.done, taken.total) == (len(EVERY_TYPE), len(EVERY_TYPE))


def test_thousands_of_mixed_ids_and_a_worker_that_dies(
    hand: Hand, documents: Database[Any]
) -> None:
    """Before a checkpoint and after it; whoever comes next goes on between two types too."""
    ids = mixed_ids(4_000)
    documents.things.insert_many([{"_id": each, "n": 0} for each in ids])
    operation = op("update_documents", **INCREMENT)
    random = Random(3)  # noqa: S311 - the same each time
    taken = hand.take("1.0.0", operation)
    while not taken.over:
        hand.size = random.randint(1, 200)
        fate = random.randrange(4)
        if fate == 0:
            with pytest.raises(ZeroDivisionError):
                hand.step(taken, operation, lambda: 1 // 0)
        else:
            taken = hand.step(taken, operation)
        if fate < 2:
            hand.database.recover()
            taken = hand.take("1.0.0", operation)
    assert documents.things.count_documents({"n": 1}) == taken.done == len(ids)


def test_mixed_ids_there_and_back(hand: Hand, documents: Database[Any]) -> None:
    """What is kept of documents with any `_id` is put back."""
    documents.things.insert_many([{"_id": each, "n": 0} for each in mixed_ids(500, seed=2)])
    before = list(documents.things.find_raw_batches(sort=[("_id", 1)]))
    operation = op("update_documents", **INCREMENT, keep_before_image=True)
    hand.size = 70
    hand.run(operation)
    assert documents.things.count_documents({"n": 1}) == 500
    hand.undo(operation)
    assert list(documents.things.find_raw_batches(sort=[("_id", 1)])) == before


def test_a_filter_that_stops_matching(hand: Hand, documents: Database[Any]) -> None:
    """An update that takes documents out of its own filter, and others into it, misses none."""
    documents.things.insert_many([{"_id": n, "state": n % 2, "n": 0} for n in range(100)])
    swap = {"$bit": {"state": {"xor": 1}}, "$inc": {"n": 1}}
    hand.size = 7
    taken = hand.run(op("update_documents", collection="things", filter={"state": 1}, update=swap))
    assert taken.done == 100
    assert [each["n"] for each in documents.things.find()] == [0, 1] * 50
    assert documents.things.count_documents({"state": 1}) == 0


def test_a_collection_that_is_written_all_the_while(
    hand: Hand, documents: Database[Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there from beginning to end is visited once, and no write of others is lost."""
    monkeypatch.setattr("dharma_tasks.pace.LONGEST_PAUSE", 0)
    documents.things.insert_many([{"_id": n, "n": 0, "hot": 0} for n in range(0, 4000, 4)])
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(1, 4000, 8)])
    begun, over = threading.Event(), threading.Event()
    written: Counter[int] = Counter()

    def write() -> None:
        random = Random(5)  # noqa: S311 - the same each time
        with MongoClient[Any](settings.mongodb_url.get_secret_value()) as client:
            things = client[documents.name].things
            while not over.is_set():
                place = random.randrange(1000) * 4
                things.update_one({"_id": place}, {"$inc": {"hot": 1}})
                written[place] += 1
                things.delete_one({"_id": random.randrange(500) * 8 + 1})
                things.update_one({"_id": place + 2}, {"$set": {"new": 1}}, upsert=True)
                begun.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert begun.wait(60)
        before = len(written)
        run(hand, op("update_documents", **INCREMENT, batch={"max": 25}), settings)
    finally:
        over.set()
        thread.join(30)
    stayed = list(documents.things.find({"hot": {"$exists": True}}))
    assert [each["n"] for each in stayed] == [1] * 1000
    assert {each["_id"]: each["hot"] for each in stayed if each["hot"]} == written
    assert set(documents.things.distinct("n", {"new": 1})) <= {1}
    assert len(written) > before


def test_it_keeps_to_a_rate(hand: Hand, documents: Database[Any], settings: Settings) -> None:
    """400 documents at 200 a second: what has to be waited for is all but the last batch."""
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(400)])
    slow = op("update_documents", **INCREMENT, throttle=200, batch={"seconds": 0.5})
    begun = time.monotonic()
    run(hand, slow, settings)
    assert 1.5 <= time.monotonic() - begun < 10
    assert documents.things.count_documents({"n": 1}) == 400


# --- batches that are too much ---


def test_a_batch_that_is_not_over_in_time_is_halved(
    hand: Hand, documents: Database[Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent connection may be a batch that is too large: the next one is smaller (Law 10)."""
    monkeypatch.setattr("dharma_tasks.databases.mongodb.connection.SOCKET_SECONDS", 1)
    hand.database.close()
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(1500)])
    slow = {**INCREMENT, "filter": {"$where": "sleep(1) || true"}}
    run(hand, op("update_documents", **slow), settings.model_copy(update={"retry_seconds": 20}))
    assert documents.things.count_documents({"n": 1}) == 1500


def test_documents_that_grow_get_smaller_batches(
    hand: Hand, documents: Database[Any], settings: Settings
) -> None:
    """A transaction that holds more than the server takes is halved until it fits."""
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(400)])
    grow = {"$inc": {"n": 1}, "$set": {"text": "x" * 1000}}
    admin = documents.client.admin
    usual = admin.command("getParameter", 1, transactionSizeLimitBytes=1)
    admin.command("setParameter", 1, transactionSizeLimitBytes=100_000)
    try:
        run(hand, op("update_documents", collection="things", filter={}, update=grow), settings)
    finally:
        limit = usual["transactionSizeLimitBytes"]
        admin.command("setParameter", 1, transactionSizeLimitBytes=limit)
    assert documents.things.count_documents({"n": 1}) == 400


# --- a document that the server refuses to change ---


def test_a_duplicate_in_a_later_batch(hand: Hand, documents: Database[Any]) -> None:
    """It names the document; the batches before it stay, and are rolled back exactly."""
    documents.things.create_index("n", unique=True)
    documents.things.insert_many([{"_id": ObjectId(), "n": n} for n in range(95)])
    before = list(documents.things.find())
    shift = [{"$set": {"n": {"$cond": [{"$eq": ["$n", 77]}, 3, {"$add": ["$n", 1000]}]}}}]
    update = {"filter": {"n": {"$gt": 3}}, "update": shift, "keep_before_image": True}
    operation = op("update_documents", collection="things", **update)
    hand.size = 20
    with pytest.raises(OperationFailure) as caught:
        hand.run(operation)
    text = hand.database.describe(caught.value)
    assert 'keyValue: {"n": 3}' in text
    assert text.endswith(f"the document with _id {shown(before[77]['_id'])} of 'things'")
    assert documents.things.count_documents({"n": {"$gt": 1000}}) == 56
    hand.undo(operation)
    assert list(documents.things.find()) == before


REFUSED = {
    "two of one batch": ({"$set": {"n": 1}}, {"n": {"$in": [20, 30]}}, 30),
    "too large": ([{"$set": {"more": "$text"}}], {}, 25),
    "not a number": ([{"$set": {"more": {"$add": ["$n", "$other"]}}}], {}, 35),
}


@pytest.mark.parametrize(("update", "where", "guilty"), REFUSED.values(), ids=REFUSED)
def test_the_document_is_named(
    hand: Hand, documents: Database[Any], update: Any, where: dict[str, Any], guilty: int
) -> None:
    """Where the server tells what is wrong and not with which document, and nothing is changed."""
    documents.things.create_index("n", unique=True)
    documents.things.insert_many([{"_id": f"k{n}", "n": n, "other": 1} for n in range(2, 60)])
    documents.things.update_one({"_id": "k25"}, {"$set": {"text": "x" * 9_000_000}})
    documents.things.update_one({"_id": "k35"}, {"$set": {"other": "x"}})
    hand.size = 100
    with pytest.raises(OperationFailure) as caught:
        hand.run(op("update_documents", collection="things", filter=where, update=update))
    assert hand.database.classify(caught.value) is Fault.LASTING
    assert f'"k{guilty}"' in hand.database.describe(caught.value)
    assert documents.things.count_documents({"more": {"$exists": True}}) == 0


def test_an_update_that_is_wrong_itself_names_no_document(
    hand: Hand, documents: Database[Any]
) -> None:
    """What the server would refuse for any document is not blamed on one."""
    documents.things.insert_many([{"_id": n} for n in range(9)])
    wrong = [{"$set": {"n": {"$unknown": 1}}}]
    with pytest.raises(OperationFailure) as caught:
        hand.run(op("update_documents", collection="things", filter={}, update=wrong))
    assert "$unknown" in hand.database.describe(caught.value)
    assert "document with" not in hand.database.describe(caught.value)
