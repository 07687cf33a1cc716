"""Inserting documents that a migration brings along, and undoing it, on a real replica set."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from bson import DatetimeMS, Timestamp
from mixed_ids import EVERY_TYPE
from mongodb_hand import Hand, op
from mongodb_state import kept, raw, state
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure
from test_mongodb_undo_documents import VALUES, back_and_forth

from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import OperationFailed
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb.inserted import Inserted
from dharma_tasks.operations.mongodb.values import dumps
from dharma_tasks.records import MigrationState, OperationState


def insert(*documents: Any) -> Operation[Any]:
    """Into `things`, from the Extended JSON that stands in the file."""
    return op("insert_documents", collection="things", documents=json.loads(dumps(documents)))


@pytest.mark.parametrize("size", [4, 1000])
def test_there_and_back(hand: Hand, documents: Database[Any], size: int) -> None:
    """`_id`s and values of every type; each batch of both ways done again after a crash."""
    hand.size = size
    documents.things.insert_many([{"_id": n, "mine": 1} for n in range(1000, 1010)])
    values = {**VALUES, "stamp": {"inner": Timestamp(0, 0)}}
    wanted = [
        {"n": n, "_id": each, **values} for n, each in enumerate([*EVERY_TYPE, DatetimeMS(2**60)])
    ]
    operation = insert(*wanted)
    back_and_forth(hand, operation, lambda: raw(documents, "things"))
    hand.run(operation)
    first = documents.things.find_one({"n": 0})
    assert list(first or {}) == ["_id", "n", *values]
    assert documents.things.count_documents({}) == len(wanted) + 10
    assert hand.warnings == []
    hand.undo(operation)
    assert kept(documents) == 0


def test_counts(hand: Hand, documents: Database[Any]) -> None:
    """In batches, with a total; a batch ends early where its documents are many bytes."""
    documents.create_collection("things")
    hand.size = 10
    operation = insert(*({"_id": n} for n in range(25)))
    taken = hand.step(hand.take("1.0.0", operation), operation)
    assert (taken.done, taken.total, documents.things.count_documents({})) == (10, 25, 10)
    assert hand.finish(taken, operation).done == 25
    large = insert(*({"_id": f"large{n}", "text": "x" * 3 * 2**20} for n in range(3)))
    taken = hand.step(hand.take("2.0.0", large), large)
    assert taken.done == 1
    assert hand.finish(taken, large).done == 3


def test_equal_ones_are_accepted(hand: Hand, documents: Database[Any]) -> None:
    """With a warning; they were there before, so the way back leaves them."""
    documents.things.insert_many([{"_id": n, "a": 1} for n in range(0, 30, 2)])
    before = state(documents)
    operation = insert(*({"_id": n, "a": 1} for n in range(30)))
    back_and_forth(hand, operation, lambda: state(documents))
    assert "15 of 30 documents are in 'things' already" in hand.warnings[0]
    assert state(documents) == before


@pytest.mark.parametrize(
    ("there", "wanted"),
    [
        ({"_id": 28, "a": 2}, {"_id": 28, "a": 1}),
        ({"_id": 28, "a": 1.0}, {"_id": 28, "a": 1}),
        ({"_id": 28.0, "a": 1}, {"_id": 28, "a": 1}),
        ({"_id": 28, "b": 1, "a": 1}, {"_id": 28, "a": 1, "b": 1}),
        ({"_id": 28}, {"_id": 28, "a": None}),
    ],
)
def test_a_different_one_is_refused(
    hand: Hand, documents: Database[Any], there: Any, wanted: Any
) -> None:
    """Before anything is inserted; both are shown."""
    documents.things.insert_one(there)
    before = state(documents)
    with pytest.raises(OperationFailed, match=r'another .* same _id: \{"_id": 28.*wanted: \{"_id"'):
        hand.run(insert(*({"_id": n} for n in range(20)), wanted))
    assert state(documents) == before


def test_several_different_ones(hand: Hand, documents: Database[Any]) -> None:
    """Some are shown, the rest is counted, and a long one is cut."""
    documents.things.insert_many([{"_id": n, "text": "x" * 5000} for n in range(5)])
    with pytest.raises(OperationFailed, match="; and 2 more") as caught:
        hand.run(insert(*({"_id": n} for n in range(5))))
    assert len(str(caught.value)) < 4000


def test_a_collation_takes_two_ids_for_one(hand: Hand, documents: Database[Any]) -> None:
    """What is there under the other spelling is different; the server refuses the migration's own.

    What was inserted before that is deleted again.
    """
    documents.create_collection("things", collation={"locale": "en", "strength": 1})
    documents.things.insert_one({"_id": "A"})
    with pytest.raises(OperationFailed, match=r'"A".*wanted: .*"a"'):
        hand.run(insert({"_id": "a"}))
    hand.size = 1
    operation = insert({"_id": "b"}, {"_id": "B"})
    with pytest.raises(OperationFailed, match=r'"b".*wanted: .*"B"'):
        hand.run(operation, "2.0.0")
    hand.undo(operation, "2.0.0")
    assert list(documents.things.find()) == [{"_id": "A"}]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"viewOn": "others", "pipeline": []}, "view"),
        ({"timeseries": {"timeField": "at"}}, "timeseries"),
        ({"capped": True, "size": 4096}, "capped"),
    ],
)
def test_collections_that_cannot_be_used(
    hand: Hand, documents: Database[Any], options: dict[str, Any], word: str
) -> None:
    """They are refused before anything is written."""
    documents.command({"create": "things", **options})
    with pytest.raises(OperationFailed, match=word):
        hand.run(insert({"_id": 1}))


def test_a_missing_collection(hand: Hand, documents: Database[Any]) -> None:
    """MongoDB would make it; a typo is the usual reason."""
    documents.create_collection("thins")
    with pytest.raises(OperationFailed, match=r"no collection 'things'.* mean 'thins'"):
        hand.run(insert({"_id": 1}))


def test_a_collection_made_again(hand: Hand, documents: Database[Any]) -> None:
    """Another one of that name gets nothing, and loses nothing (FAULTS 11)."""
    documents.create_collection("things")
    hand.size = 1
    operation = insert({"_id": 1}, {"_id": 2})
    taken = hand.step(hand.take("1.0.0", operation), operation)
    documents.drop_collection("things")
    documents.things.insert_one({"_id": 1})
    with pytest.raises(OperationFailed, match="made again"):
        hand.step(taken, operation)
    hand.undo(operation)
    assert list(documents.things.find()) == [{"_id": 1}]
    assert "dropped since" in hand.warnings[-1]


@pytest.mark.parametrize("twice", [True, False])
def test_what_the_collection_rejects(hand: Hand, documents: Database[Any], *, twice: bool) -> None:
    """A unique index or a validator: the server's words, and then all of it can be undone."""
    documents.create_collection("things", validator={} if twice else {"a": {"$ne": 25}})
    documents.things.create_index("a", unique=True)
    documents.things.insert_one({"_id": "there", "a": 25 if twice else "x"})
    before = state(documents)
    operation = insert(*({"_id": n, "a": n} for n in range(30)))
    with pytest.raises(BulkWriteError) as caught:
        hand.run(operation)
    assert hand.database.classify(caught.value) is Fault.LASTING
    words = ["E11000", '"a": 25'] if twice else ["failed validation", '"failingDocumentId": 25']
    assert all(word in hand.database.describe(caught.value) for word in words)
    assert documents.things.count_documents({}) == 21
    hand.undo(operation)
    assert state(documents) == before


def test_written_by_another_at_the_same_moment(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and inserting: the batch is done again, and then it is seen."""
    documents.create_collection("things")
    operation = insert({"_id": 1, "a": 1}, {"_id": 2})
    taken = hand.take("1.0.0", operation)
    look = Inserted.before

    def looked_and_written(self: Inserted, *arguments: Any) -> bytes:
        found = look(self, *arguments)
        documents.things.insert_one({"_id": 1, "a": 1})
        return found

    with monkeypatch.context() as patched:
        patched.setattr(Inserted, "before", looked_and_written)
        with pytest.raises(OperationFailure) as caught:
            hand.step(taken, operation)
    assert hand.database.classify(caught.value) is Fault.CONFLICT
    hand.run(operation)
    hand.undo(operation)
    assert list(documents.things.find()) == [{"_id": 1, "a": 1}]


def test_the_way_back_leaves_what_was_changed_since(hand: Hand, documents: Database[Any]) -> None:
    """They are counted and named; what was deleted stays so; what others wrote is theirs."""
    documents.create_collection("things")
    hand.size = 4
    operation = insert(*({"_id": n, "a": n} for n in range(20)))
    hand.run(operation)
    changes: list[dict[str, Any]] = [{"$set": {"b": 1}}, {"$set": {"a": 1.0}}, {"$unset": {"a": 1}}]
    for n, change in enumerate(changes):
        documents.things.update_one({"_id": n}, change)
    documents.things.delete_one({"_id": 5})
    documents.things.delete_one({"_id": 6})
    documents.things.insert_many([{"_id": 6, "another": 1}, {"_id": 99}])
    hand.undo(operation)
    assert [each["_id"] for each in documents.things.find().sort("_id", 1)] == [0, 1, 2, 6, 99]
    (warning,) = hand.warnings
    assert "4 documents of 'things'" in warning
    assert kept(documents) == 0


def test_frozen_in_the_middle(hands: Callable[..., Hand], documents: Database[Any]) -> None:
    """A successor inserts the rest; what the first one had open never comes to be."""
    documents.create_collection("things")
    first, second = hands("first"), hands("second")
    operation = insert(*({"_id": n} for n in range(30)))
    taken = first.step(first.take("1.0.0", operation), operation)

    def frozen() -> None:
        second.finish(second.take("1.0.0", operation), operation)

    with pytest.raises(Exception, match="newer fence"):
        first.step(taken, operation, frozen)
    assert documents.things.count_documents({}) == 30
    second.undo(operation)
    assert documents.things.count_documents({}) == 0
    (record,) = second.database.journal.survey().migrations
    assert record.state is MigrationState.ROLLED_BACK
    assert OperationState.UNDOING not in {each.state for each in record.operations}


def test_nothing_was_committed(hand: Hand, documents: Database[Any]) -> None:
    """Taken and prepared, and no batch: what is there is another's."""
    documents.create_collection("things")
    operation = insert({"_id": 1})
    hand.take("1.0.0", operation)
    documents.things.insert_one({"_id": 1})
    hand.undo(operation)
    assert list(documents.things.find()) == [{"_id": 1}]


def test_what_was_kept_is_missing(hand: Hand, documents: Database[Any]) -> None:
    """Somebody has removed some of it: nothing is deleted, rather than a part."""
    documents.create_collection("things")
    operation = insert(*({"_id": n} for n in range(30)))
    hand.run(operation)
    assert kept(documents) == 3
    documents[f"{documents.name}_undo"].delete_one({})
    with pytest.raises(OperationFailed, match=r"not in .* any more"):
        hand.undo(operation)
    assert documents.things.count_documents({}) == 30
