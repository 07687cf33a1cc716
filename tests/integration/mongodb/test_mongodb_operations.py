"""Each operation of MongoDB on a real replica set."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from mongodb_hand import Hand, op
from pymongo.database import Database
from pymongo.errors import OperationFailure, WriteError

from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import OperationFailed

# --- the walk ---


@pytest.mark.parametrize(
    "options",
    [
        {"collation": {"locale": "en", "strength": 1}},
        {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
    ],
)
def test_walk_of_unusual_collections(
    hand: Hand, documents: Database[Any], options: dict[str, Any]
) -> None:
    """A collation changes the order of `_id`s, and a clustered collection has no index on it."""
    things = documents.create_collection("things", **options)
    things.insert_many([{"_id": each} for each in ["b", "a", "C", "d", 5, 7, {"x": "Q"}, None]])
    hand.size = 2
    hand.run(op("update_documents", collection="things", filter={}, update={"$inc": {"n": 1}}))
    assert things.count_documents({"n": 1}) == 8


def test_walk_ends_at_the_largest_id_of_the_start(hand: Hand, documents: Database[Any]) -> None:
    """Documents that are written later belong to the application."""
    documents.things.insert_many([{"_id": n} for n in range(30)])
    operation = op("add_field", collection="things", field="new", value=1)
    taken = hand.step(hand.take("1.0.0", operation), operation)
    documents.things.insert_many([{"_id": n} for n in range(30, 60)])
    hand.finish(taken, operation)
    assert documents.things.count_documents({"new": 1}) == 30


def test_walk_goes_on_where_documents_were_deleted(hand: Hand, documents: Database[Any]) -> None:
    """Neither the cursor's document nor the last one needs to be there still."""
    documents.things.insert_many([{"_id": n} for n in range(30)])
    operation = op("add_field", collection="things", field="new", value=1)
    taken = hand.step(hand.take("1.0.0", operation), operation)
    documents.things.delete_many({"_id": {"$in": [9, 29]}})
    assert hand.finish(taken, operation).done >= 28
    assert documents.things.count_documents({"new": 1}) == 28


def test_walk_of_an_empty_collection(hand: Hand, documents: Database[Any]) -> None:
    """There is nothing to do, which is fine."""
    documents.create_collection("things")
    taken = hand.run(op("remove_field", collection="things", field="old"))
    assert (taken.done, taken.total) == (0, 0)


def test_walk_of_a_missing_collection_names_the_nearest(
    hand: Hand, documents: Database[Any]
) -> None:
    """A typo is the usual reason."""
    documents.create_collection("things")
    with pytest.raises(OperationFailed, match=r"no collection 'thing' .*'things'"):
        hand.run(op("remove_field", collection="thing", field="old"))


# --- the four operations on documents ---


def test_add_field_keeps_what_is_there(hand: Hand, documents: Database[Any]) -> None:
    """It sets the field where it is missing and the filter fits; null counts as there."""
    documents.users.insert_many([{"_id": 1}, {"_id": 2, "a": {"b": None}}, {"_id": 3, "x": 1}])
    value = {"$date": "2024-05-01T00:00:00Z"}
    hand.run(
        op(
            "add_field",
            collection="users",
            field="a.b",
            value=value,
            filter={"x": {"$exists": False}},
        )
    )
    found = {each["_id"]: each.get("a") for each in documents.users.find()}
    assert found == {1: {"b": datetime(2024, 5, 1)}, 2: {"b": None}, 3: None}  # noqa: DTZ001


def test_remove_field(hand: Hand, documents: Database[Any]) -> None:
    """It is gone where the filter fits."""
    documents.users.insert_many([{"_id": 1, "a": {"b": 1, "c": 2}}, {"_id": 2, "a": {"b": 3}}])
    hand.run(op("remove_field", collection="users", field="a.b", filter={"a.c": 2}))
    assert list(documents.users.find()) == [{"_id": 1, "a": {"c": 2}}, {"_id": 2, "a": {"b": 3}}]


def test_rename_field_loses_nothing(hand: Hand, documents: Database[Any]) -> None:
    """Where the new name is taken, both fields stay, and a warning counts these documents."""
    documents.users.insert_many([{"_id": 1, "old": 1}, {"_id": 2, "old": 2, "new": 3}, {"_id": 3}])
    hand.run(op("rename_field", collection="users", old_name="old", new_name="new"))
    found = list(documents.users.find())
    assert found == [{"_id": 1, "new": 1}, {"_id": 2, "old": 2, "new": 3}, {"_id": 3}]
    (warning,) = hand.warnings
    assert "1 document" in warning


def test_update_with_array_filters(hand: Hand, documents: Database[Any]) -> None:
    """Only the elements that fit are changed, and only where the filter fits."""
    documents.users.insert_many([{"_id": n, "teams": [{"r": "a"}, {"r": "b"}]} for n in (1, 2)])
    hand.run(
        op(
            "update_documents",
            collection="users",
            filter={"_id": 1},
            update={"$set": {"teams.$[t].r": "z"}},
            array_filters=[{"t.r": "a"}],
        )
    )
    found = [[team["r"] for team in each["teams"]] for each in documents.users.find()]
    assert found == [["z", "b"], ["a", "b"]]


def test_update_with_a_pipeline(hand: Hand, documents: Database[Any]) -> None:
    """A pipeline computes from the document itself."""
    documents.users.insert_many([{"_id": n, "n": n} for n in range(25)])
    update = [{"$set": {"n": {"$add": ["$n", {"$numberLong": "1"}]}}}]
    hand.run(op("update_documents", collection="users", filter={}, update=update))
    assert [each["n"] for each in documents.users.find().sort("_id", 1)] == list(range(1, 26))


def test_lasting_error_keeps_the_servers_message(hand: Hand, documents: Database[Any]) -> None:
    """A document that the validator refuses is named, and so is the key of a duplicate."""
    documents.create_collection("users", validator={"age": {"$lt": 100}})
    documents.users.insert_many([{"_id": 7, "age": 90, "mail": 1}, {"_id": 8, "age": 1, "mail": 2}])
    increment = op(
        "update_documents", collection="users", filter={"_id": 7}, update={"$inc": {"age": 50}}
    )
    with pytest.raises(WriteError) as caught:
        hand.run(increment)
    text = hand.database.describe(caught.value)
    assert hand.database.classify(caught.value) is Fault.LASTING
    assert "121" in text
    assert '"failingDocumentId": 7' in text
    documents.users.create_index("mail", unique=True)
    same = op(
        "update_documents", collection="users", filter={"_id": 7}, update={"$set": {"mail": 2}}
    )
    with pytest.raises(OperationFailure) as duplicate:
        hand.run(same, "2.0.0")
    text = hand.database.describe(duplicate.value)
    assert hand.database.classify(duplicate.value) is Fault.LASTING
    assert "11000" in text
    assert '{"mail": 2}' in text


# --- create_collection ---


VALIDATOR = {"$jsonSchema": {"required": ["a"], "properties": {"at": {"bsonType": "date"}}}}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"validator": VALIDATOR, "validationLevel": "moderate"},
        {"capped": True, "size": 1000},
        {"collation": {"locale": "de"}},
        {"viewOn": "other", "pipeline": [{"$match": {"a": {"$gt": {"$numberDecimal": "1.5"}}}}]},
        {"timeseries": {"timeField": "at"}, "expireAfterSeconds": 3600},
        {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
    ],
)
def test_create_collection(hand: Hand, options: dict[str, Any]) -> None:
    """It is made once, an equal one is accepted with a warning, a different one is shown."""
    operation = op("create_collection", collection="things", options=options)
    assert hand.run(operation).done == 1
    assert hand.warnings == []
    hand.run(operation, "2.0.0")
    assert ["exists already" in each for each in hand.warnings] == [True]
    other = op("create_collection", collection="things", options={"validator": {"z": 1}})
    with pytest.raises(OperationFailed, match=r"other options.*wanted"):
        hand.run(other, "3.0.0")


def test_create_collection_commits_with_its_checkpoint(
    hand: Hand, documents: Database[Any]
) -> None:
    """A crash before the checkpoint leaves no collection, and the replay makes it silently."""
    operation = op("create_collection", collection="things", options={"validator": VALIDATOR})
    taken = hand.take("1.0.0", operation)
    with pytest.raises(ZeroDivisionError):
        hand.step(taken, operation, crash)
    assert "things" not in documents.list_collection_names()
    hand.run(operation)
    assert "things" in documents.list_collection_names()
    assert hand.warnings == []


def test_replay_of_a_view_accepts_its_own_effect(hand: Hand, documents: Database[Any]) -> None:
    """A view is made outside of a transaction: the replay finds it, which needs no warning."""
    operation = op("create_collection", collection="v", options={"viewOn": "x", "pipeline": []})
    with pytest.raises(ZeroDivisionError):
        hand.step(hand.take("1.0.0", operation), operation, crash)
    assert "v" in documents.list_collection_names()
    hand.run(operation)
    assert hand.warnings == []
    assert hand.confirmed == 1


# --- create_index ---


@pytest.mark.parametrize(
    ("index", "options", "name"),
    [
        ([["email", 1]], {"unique": True}, "email_1"),
        (
            [["a", 1], ["b", -1]],
            {"name": "mine", "partialFilterExpression": {"a": {"$gt": 5}}},
            "mine",
        ),
        ([["text", "text"], ["more", "text"]], {"weights": {"more": 5}}, "text_text_more_text"),
        ([["at", 1.0]], {"expireAfterSeconds": 60, "collation": {"locale": "de"}}, "at_1"),
        ([["$**", 1]], {"wildcardProjection": {"a": 1}}, "$**_1"),
        ([["where", "2dsphere"], ["a.b", 1]], {"sparse": True}, "where_2dsphere_a.b_1"),
    ],
)
def test_create_index(
    hand: Hand, documents: Database[Any], index: Any, options: dict[str, Any], name: str
) -> None:
    """It is built once, an equal one is accepted with a warning, a different one is shown."""
    documents.users.insert_one({"email": "x"})
    operation = op("create_index", collection="users", index=index, options=options)
    assert hand.run(operation).done == 1
    assert name in documents.users.index_information()
    assert hand.warnings == []
    hand.run(operation, "2.0.0")
    assert ["exists already" in each for each in hand.warnings] == [True]
    other = op("create_index", collection="users", index=[["z", 1]], options={"name": name})
    with pytest.raises(OperationFailed, match=r"different: .*wanted: .*code 86"):
        hand.run(other, "3.0.0")


def test_create_index_under_another_name_is_refused(hand: Hand, documents: Database[Any]) -> None:
    """The same keys twice are of no use to anybody; MongoDB refuses it, and both are shown."""
    documents.users.create_index("email")
    operation = op("create_index", collection="users", index=[["email", 1]], options={"name": "n"})
    with pytest.raises(OperationFailed, match=r"email_1.*\"n\".*code 85"):
        hand.run(operation)


def test_create_index_with_a_new_collection(hand: Hand, documents: Database[Any]) -> None:
    """Both are made in one transaction with the journal: a crash leaves neither."""
    operation = op("create_index", collection="users", index=[["email", 1]])
    with pytest.raises(ZeroDivisionError):
        hand.step(hand.take("1.0.0", operation), operation, crash)
    assert "users" not in documents.list_collection_names()
    hand.run(operation)
    assert "email_1" in documents.users.index_information()
    assert "is made together" in hand.warnings[-1]
    assert hand.confirmed == 0


def test_create_index_replay_accepts_its_own_effect(hand: Hand, documents: Database[Any]) -> None:
    """The index was built, the checkpoint was lost: the replay finds it, without a warning."""
    documents.users.insert_one({"email": "x"})
    operation = op("create_index", collection="users", index=[["email", 1]])
    taken = hand.step(hand.take("1.0.0", operation), operation)
    assert "email_1" not in documents.users.index_information()
    with pytest.raises(ZeroDivisionError):
        hand.step(taken, operation, crash)
    assert "email_1" in documents.users.index_information()
    hand.run(operation)
    assert hand.warnings == []
    assert hand.confirmed == 2


def test_create_index_says_which_key_is_there_twice(hand: Hand, documents: Database[Any]) -> None:
    """A unique index over duplicates fails for good, with the server's message."""
    documents.users.insert_many([{"email": "x"}, {"email": "x"}])
    operation = op(
        "create_index", collection="users", index=[["email", 1]], options={"unique": True}
    )
    with pytest.raises(OperationFailure) as caught:
        hand.run(operation)
    assert hand.database.classify(caught.value) is Fault.LASTING
    assert 'keyValue: {"email": "x"}' in hand.database.describe(caught.value)


def test_create_index_on_a_collection_made_again(hand: Hand, documents: Database[Any]) -> None:
    """The index aims at the collection that was there at the start, by its UUID (FAULTS 11)."""
    documents.users.insert_one({"email": "x"})
    operation = op("create_index", collection="users", index=[["email", 1]])
    taken = hand.step(hand.take("1.0.0", operation), operation)
    documents.drop_collection("users")
    documents.users.insert_one({"email": "y"})
    with pytest.raises(OperationFailed, match="made again"):
        hand.step(taken, operation)


# --- drop_index ---


@pytest.mark.parametrize("index", ["mine", [["a", 1], ["b", -1]]])
def test_drop_index(hand: Hand, documents: Database[Any], index: Any) -> None:
    """By name or by keys; the whole definition is kept, and the replay finds it gone."""
    documents.users.create_index([("a", 1), ("b", -1)], name="mine", sparse=True)
    documents.users.create_index([("b", -1), ("a", 1)], name="reverse")
    operation = op("drop_index", collection="users", index=index)
    taken = hand.take("1.0.0", operation)
    assert '"sparse": true' in (taken.undo or {})["definition"]
    with pytest.raises(ZeroDivisionError):
        hand.step(taken, operation, crash)
    assert set(documents.users.index_information()) == {"_id_", "reverse"}
    assert hand.run(operation).done == 1
    assert hand.warnings == []


def test_drop_index_that_never_was(hand: Hand, documents: Database[Any]) -> None:
    """It lists what there is, unless `if_exists` allows it."""
    documents.users.create_index("email")
    for index in ("emial_1", [["emial", 1]]):
        with pytest.raises(OperationFailed, match=r"There are: .*email_1.*if_exists"):
            hand.run(op("drop_index", collection="users", index=index))
    with pytest.raises(OperationFailed, match="no collection 'user'"):
        hand.run(op("drop_index", collection="user", index="email_1"))
    hand.run(op("drop_index", collection="users", index="x", if_exists=True))
    hand.run(op("drop_index", collection="user", index="x", if_exists=True), "2.0.0")
    assert len(hand.warnings) == 2


def test_drop_index_leaves_a_newer_one(
    hands: Callable[..., Hand], documents: Database[Any]
) -> None:
    """Frozen before sending; meanwhile it is dropped and one of that name made (FAULTS 10)."""
    documents.users.create_index("a", name="i")
    operation = op("drop_index", collection="users", index="i")
    late, newer = hands("late"), hands("newer")
    taken = late.take("1.0.0", operation)
    newer.run(operation)
    documents.users.create_index("b", name="i")
    operation.step(late.work(taken, late.database.handle))
    assert "i" in documents.users.index_information()
    assert "stays" in late.warnings[-1]


def test_drop_index_of_a_collection_made_again(hand: Hand, documents: Database[Any]) -> None:
    """The same definition in a new collection is not the index that was recorded."""
    documents.users.create_index("a", name="i")
    operation = op("drop_index", collection="users", index="i")
    taken = hand.take("1.0.0", operation)
    documents.drop_collection("users")
    documents.users.create_index("a", name="i")
    hand.finish(taken, operation)
    assert "i" in documents.users.index_information()


def crash() -> None:
    """The worker ends here."""
    raise ZeroDivisionError
