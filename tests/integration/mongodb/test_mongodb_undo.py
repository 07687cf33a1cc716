"""Undoing collections and indexes on a real replica set: applied, undone, applied again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mongodb_hand import Hand, op
from mongodb_state import state
from pymongo.database import Database

from dharma_tasks.operations.base import Operation


@pytest.fixture
def undone(hand: Hand, documents: Database[Any]) -> Callable[[Operation[Any]], None]:
    """There and back twice, with a crash before the checkpoint of each step of the way back."""

    def there_and_back(operation: Operation[Any]) -> None:
        before = state(documents)
        for _ in range(2):
            hand.run(operation)
            assert state(documents) != before
            taken = hand.take("1.0.0", operation, back=True)
            while not taken.over:
                with pytest.raises(ZeroDivisionError):
                    hand.step(taken, operation, crash)
                taken = hand.step(hand.take("1.0.0", operation, back=True), operation)
            assert state(documents) == before
        hand.run(operation)
        assert state(documents) != before

    return there_and_back


# --- create_collection ---


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"validator": {"a": 1}},
        {"collation": {"locale": "de"}},
        {"capped": True, "size": 1000},
        {"viewOn": "other", "pipeline": []},
        {"timeseries": {"timeField": "at"}},
        {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
    ],
)
def test_create_collection(
    hand: Hand, undone: Callable[[Operation[Any]], None], options: dict[str, Any]
) -> None:
    """It is dropped."""
    undone(op("create_collection", collection="things", options=options))
    assert hand.warnings == []


def test_a_collection_that_was_there_before_stays(hand: Hand, documents: Database[Any]) -> None:
    """Only what this migration made is dropped."""
    documents.create_collection("things")
    before = state(documents)
    operation = op("create_collection", collection="things")
    hand.run(operation)
    hand.undo(operation)
    assert state(documents) == before


def test_a_collection_that_was_made_again_stays(hand: Hand, documents: Database[Any]) -> None:
    """Another one of the same name and options is not the one that was made."""
    operation = op("create_collection", collection="things")
    hand.run(operation)
    documents.drop_collection("things")
    documents.create_collection("things")
    hand.undo(operation)
    assert "things" in documents.list_collection_names()
    assert "made again" in hand.warnings[-1]


def test_a_collection_that_never_was_made(hand: Hand, documents: Database[Any]) -> None:
    """Taken and prepared, but its transaction did not commit: what is there is another's."""
    operation = op("create_collection", collection="things")
    hand.take("1.0.0", operation)
    documents.create_collection("things")
    hand.undo(operation)
    assert "things" in documents.list_collection_names()


def test_documents_that_are_lost_are_counted(hand: Hand, documents: Database[Any]) -> None:
    """What the application wrote into a collection goes with it, and a warning says so."""
    operation = op("create_collection", collection="things")
    hand.run(operation)
    documents.things.insert_many([{}, {}, {}])
    hand.undo(operation)
    assert "things" not in documents.list_collection_names()
    assert "3 documents" in hand.warnings[-1]


# --- create_index ---

INDEXES: list[tuple[Any, dict[str, Any]]] = [
    ([["email", 1]], {"unique": True}),
    ([["a", 1], ["b", -1]], {"name": "mine", "partialFilterExpression": {"a": {"$gt": 5}}}),
    ([["text", "text"], ["more", "text"]], {"weights": {"more": 5}, "default_language": "german"}),
    ([["at", 1.0]], {"expireAfterSeconds": 60, "collation": {"locale": "de"}}),
    ([["$**", 1]], {"wildcardProjection": {"a": 1}}),
    ([["where", "2dsphere"], ["a.b", 1]], {"sparse": True}),
    ([["where", "2d"]], {"bits": 20}),
    ([["h", "hashed"]], {"hidden": True}),
]


@pytest.mark.parametrize(("index", "options"), INDEXES)
def test_create_index(
    hand: Hand,
    documents: Database[Any],
    undone: Callable[[Operation[Any]], None],
    index: Any,
    options: dict[str, Any],
) -> None:
    """It is dropped."""
    documents.users.insert_one({"email": "x"})
    undone(op("create_index", collection="users", index=index, options=options))
    assert hand.warnings == []


def test_create_index_with_its_collection(
    hand: Hand, documents: Database[Any], undone: Callable[[Operation[Any]], None]
) -> None:
    """Both are dropped; with documents in it the collection stays."""
    operation = op("create_index", collection="users", index=[["email", 1]])
    undone(operation)
    documents.users.insert_one({"email": "x"})
    hand.undo(operation)
    assert set(documents.users.index_information()) == {"_id_"}
    assert documents.users.count_documents({}) == 1


def test_an_index_that_was_there_before_stays(hand: Hand, documents: Database[Any]) -> None:
    """Only what this migration built is dropped."""
    documents.users.create_index("email")
    operation = op("create_index", collection="users", index=[["email", 1]])
    hand.run(operation)
    hand.undo(operation)
    assert "email_1" in documents.users.index_information()


@pytest.mark.parametrize("other", [{"sparse": True}, {"expireAfterSeconds": 9}, {"keys": "b"}])
def test_another_index_of_that_name_stays(
    hand: Hand, documents: Database[Any], other: dict[str, Any]
) -> None:
    """Somebody has dropped it and built another one: it is shown."""
    documents.users.insert_one({"a": 1})
    operation = op("create_index", collection="users", index=[["a", 1]])
    hand.run(operation)
    documents.users.drop_index("a_1")
    documents.users.create_index(other.pop("keys", "a"), name="a_1", **other)
    hand.undo(operation)
    assert "a_1" in documents.users.index_information()
    assert "stays" in hand.warnings[-1]


@pytest.mark.parametrize("together", [True, False])
def test_an_index_of_a_collection_made_again_stays(
    hand: Hand, documents: Database[Any], *, together: bool
) -> None:
    """It is not the collection in which the index was built."""
    if not together:
        documents.create_collection("users")
    operation = op("create_index", collection="users", index=[["a", 1]])
    hand.run(operation)
    documents.drop_collection("users")
    documents.users.create_index("a")
    hand.undo(operation)
    assert "a_1" in documents.users.index_information()


# --- drop_index ---


@pytest.mark.parametrize(("index", "options"), INDEXES)
def test_drop_index(
    hand: Hand,
    documents: Database[Any],
    undone: Callable[[Operation[Any]], None],
    index: Any,
    options: dict[str, Any],
) -> None:
    """It is built again, with every option."""
    documents.users.insert_one({"email": "x"})
    spec = {"key": dict(index), **options, "name": "i"}
    documents.command({"createIndexes": "users", "indexes": [spec]})
    undone(op("drop_index", collection="users", index="i"))
    assert hand.warnings == []


def test_drop_index_that_was_not_there(hand: Hand, documents: Database[Any]) -> None:
    """What was not dropped is not built."""
    documents.create_collection("users")
    operation = op("drop_index", collection="users", index="i", if_exists=True)
    hand.run(operation)
    hand.undo(operation)
    assert set(documents.users.index_information()) == {"_id_"}


def test_drop_index_whose_name_was_given_again(hand: Hand, documents: Database[Any]) -> None:
    """The newer one stays, and both are shown."""
    documents.users.create_index("a", name="i")
    operation = op("drop_index", collection="users", index="i")
    hand.run(operation)
    documents.users.create_index("b", name="i")
    hand.undo(operation)
    assert documents.users.index_information()["i"]["key"] == [("b", 1)]
    assert "stays" in hand.warnings[-1]


def test_drop_index_of_a_collection_made_again(hand: Hand, documents: Database[Any]) -> None:
    """Nothing is built in another collection."""
    documents.users.create_index("a", name="i")
    operation = op("drop_index", collection="users", index="i")
    hand.run(operation)
    documents.drop_collection("users")
    documents.create_collection("users")
    hand.undo(operation)
    assert set(documents.users.index_information()) == {"_id_"}
    assert "made again" in hand.warnings[-1]


@pytest.mark.parametrize(
    "operation",
    [
        op("create_collection", collection="things"),
        op("create_index", collection="things", index=[["a", 1]]),
        op("drop_index", collection="things", index="a_1"),
        op("add_field", collection="things", field="a", value=1),
        op("remove_field", collection="things", field="a", keep_before_image=True),
    ],
)
def test_nothing_was_prepared(
    hand: Hand, documents: Database[Any], operation: Operation[Any]
) -> None:
    """An operation that was only taken has done nothing: nothing is undone."""
    documents.things.create_index("a")
    documents.things.insert_one({"a": 1})
    before = state(documents)
    hand.database.journal.take(hand.assignment("1.0.0", operation.kind), hand.owner(), counted=True)
    assert operation.irreversible() is None
    hand.undo(operation)
    assert state(documents) == before


def crash() -> None:
    """The worker ends here."""
    raise ZeroDivisionError
