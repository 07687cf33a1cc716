"""The walk through large, odd and busy collections, by the runner itself."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from bson import ObjectId
from mongodb_hand import Hand, op
from pymongo.database import Database
from pymongo.errors import OperationFailure

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.mongodb.faults import shown
from dharma_tasks.operations.base import Operation
from dharma_tasks.runner import Control, Runner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Taken

INCREMENT = {"collection": "things", "filter": {}, "update": {"$inc": {"n": 1}}}


def run(hand: Hand, operation: Operation[Any], settings: Settings) -> Taken:
    """Carry it out as a worker does, with its pace and its pauses."""
    control = Mock(spec=Control, **{"ending.return_value": None})
    assignment = hand.assignment("1.0.0", operation.kind)
    return Runner(operation, assignment, hand.database, control, settings, "worker").run()


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
