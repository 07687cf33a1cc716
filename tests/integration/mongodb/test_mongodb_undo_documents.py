"""Undoing what was done to documents, on a real replica set."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import Binary, Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Regex, Timestamp
from mongodb_hand import Hand, op
from mongodb_state import kept, raw, state
from pymongo.database import Database
from pymongo.errors import PyMongoError

from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import FenceLost, OperationFailed, Outdated
from dharma_tasks.journal import Amendment, Declaration
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb import images
from dharma_tasks.records import MigrationState, OperationState

IDS: list[Any] = [
    *(MinKey(), MaxKey(), None, True, False),
    *(float("nan"), float("-inf"), Decimal128("1.5"), Int64(2**60), 3, 4.5, -7),
    *("a", "", "zz", "$name", b"\x01\x02", Binary(b"\x01", 5)),
    *(uuid.UUID(int=1), datetime(2020, 1, 1, tzinfo=UTC)),
    *({"a": 1}, {"b": "x", "c": 1}, {}, {"a": "$x", "b.c": {"d": MaxKey()}}),
    *(ObjectId(), ObjectId(), Timestamp(1, 2), Code("x"), *range(100, 120)),
]
"""At least one `_id` of every BSON type that MongoDB takes there, in no order."""

VALUES: dict[str, Any] = {
    "z": 1,
    "int": 1,
    "long": Int64(1),
    "double": 1.0,
    "decimal": Decimal128("1.10"),
    "nan": float("nan"),
    "null": None,
    "regex": Regex("^a", "i"),
    "code": Code("f()", {"x": 1}),
    "stamp": Timestamp(0, 0),
    "far": Timestamp(7, 8),
    "min": MinKey(),
    "max": MaxKey(),
    "uuid": uuid.UUID(int=5),
    "old_uuid": Binary(b"0123456789abcdef", 3),
    "when": datetime(1, 1, 1, tzinfo=UTC),
    "deep": {"b": [1, {"y": [], "x": {}}], "a": ""},
}
"""Every BSON type; the names are in no order."""

ADD = op("add_field", collection="things", field="new", value="v")
RENAME = op("rename_field", collection="things", old_name="old", new_name="new")


def back_and_forth(hand: Hand, operation: Operation[Any], before: Callable[[], Any]) -> None:
    """Applied and undone twice, the second time with a crash before each checkpoint."""
    was = before()
    hand.run(operation)
    done = before()
    assert done != was
    hand.undo(operation)
    assert before() == was
    crashing(hand, operation)
    assert before() == done
    crashing(hand, operation, back=True)
    assert before() == was


def crashing(hand: Hand, operation: Operation[Any], *, back: bool = False) -> None:
    """One whole way; each batch is done, lost before its checkpoint, and done again."""
    taken = hand.take("1.0.0", operation, back=back)
    while not taken.over:
        with pytest.raises(ZeroDivisionError):
            hand.step(taken, operation, crash)
        taken = hand.step(hand.take("1.0.0", operation, back=back), operation)


# --- add_field ---


@pytest.mark.parametrize("field", ["new", "a.b", "a.b.c"])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_add_field(hand: Hand, documents: Database[Any], size: int, field: str) -> None:
    """Byte by byte as before, for `_id`s of every type, and with what of a path was missing."""
    hand.size = size
    documents.things.insert_many([{"_id": each, "n": 0} for each in IDS])
    documents.things.insert_many([{"_id": n, "a": {}, "n": 0} for n in range(1000, 1010)])
    documents.things.insert_many([{"_id": n, "new": None, "a": {"b": {"c": 1}}} for n in (5, 6)])
    operation = op("add_field", collection="things", field=field, value={"x": [1, None]})
    back_and_forth(hand, operation, lambda: raw(documents, "things"))
    assert kept(documents) == 0
    assert hand.warnings == []


@pytest.mark.parametrize("value", [1, None, "v", [1], {"a": 1}])
def test_add_field_leaves_what_was_changed_since(
    hand: Hand, documents: Database[Any], value: Any
) -> None:
    """FAULTS 24: another value, an array that holds it, another type: they stay, and are named."""
    documents.things.insert_many([{"_id": n} for n in range(20)])
    operation = op("add_field", collection="things", field="new", value=value)
    hand.run(operation)
    changed: list[Any] = ["other", [value, 2], 1.0, {"a": 1, "b": 2}, "V", Int64(1), False]
    for n, each in enumerate(changed):
        documents.things.update_one({"_id": n}, {"$set": {"new": each}})
    documents.things.update_one({"_id": 10}, {"$set": {"more": 1}})
    documents.things.update_one({"_id": 11}, {"$unset": {"new": 1}})
    documents.things.delete_one({"_id": 12})
    hand.undo(operation)
    left = {each["_id"]: each["new"] for each in documents.things.find({"new": {"$exists": True}})}
    assert left == dict(enumerate(changed))
    assert documents.things.find_one({"_id": 10}) == {"_id": 10, "more": 1}
    (warning,) = hand.warnings
    assert f"{len(changed)} documents of 'things'" in warning
    assert "…" in warning


def test_add_field_leaves_what_it_did_not_touch(hand: Hand, documents: Database[Any]) -> None:
    """The same value from before, and in documents that the application wrote in between."""
    documents.things.insert_many([{"_id": n} for n in range(0, 60, 2)])
    documents.things.update_one({"_id": 4}, {"$set": {"new": "v"}})
    before = raw(documents, "things")
    hand.run(ADD)
    written = [{"_id": n, "new": "v"} for n in range(1, 60, 2)]
    documents.things.insert_many(written)
    hand.undo(ADD)
    assert list(documents.things.find({"_id": {"$mod": [2, 1]}})) == written
    documents.things.delete_many({"_id": {"$mod": [2, 1]}})
    assert raw(documents, "things") == before


def test_add_field_leaves_what_grew_around_it(hand: Hand, documents: Database[Any]) -> None:
    """Where the application has put more beside it, only the field itself goes."""
    documents.things.insert_many([{"_id": 1}, {"_id": 2}])
    operation = op("add_field", collection="things", field="a.b", value=1)
    hand.run(operation)
    documents.things.update_one({"_id": 2}, {"$set": {"a.c": 2}})
    hand.undo(operation)
    assert list(documents.things.find()) == [{"_id": 1}, {"_id": 2, "a": {"c": 2}}]
    assert hand.warnings == []


def test_add_field_under_a_collation(hand: Hand, documents: Database[Any]) -> None:
    """Values that the collation takes for equal are not the same."""
    things = documents.create_collection("things", collation={"locale": "en", "strength": 1})
    things.insert_many([{"_id": each} for each in ["b", "a", "C", 5]])
    hand.run(ADD)
    things.update_one({"_id": "a"}, {"$set": {"new": "V"}})
    hand.undo(ADD)
    assert list(things.find({"new": {"$exists": True}})) == [{"_id": "a", "new": "V"}]


# --- rename_field ---


@pytest.mark.parametrize("new", ["new", "a.b", "c.d.e"])
def test_rename_field(hand: Hand, documents: Database[Any], new: str) -> None:
    """Every value as before; the field is the last one then, for MongoDB puts it there."""
    hand.size = 7
    documents.things.insert_many([{"_id": each, "n": 0, "old": VALUES} for each in IDS])
    documents.things.insert_many([{"_id": n, "a": {"c": 1}, "old": n} for n in range(1000, 1010)])
    documents.things.insert_many([{"_id": n, "new": 1, "a": {"b": 1}, "old": n} for n in (5, 6)])
    operation = op("rename_field", collection="things", old_name="old", new_name=new)
    back_and_forth(hand, operation, lambda: raw(documents, "things"))
    assert kept(documents) == 0


def test_rename_field_leaves_what_was_changed_since(hand: Hand, documents: Database[Any]) -> None:
    """Both names, or neither; a newer value under the new name goes back under the old one."""
    documents.things.insert_many([{"_id": n, "old": n} for n in range(5)])
    hand.run(RENAME)
    documents.things.update_one({"_id": 0}, {"$set": {"old": "x"}})
    documents.things.update_one({"_id": 1}, {"$unset": {"new": 1}})
    documents.things.update_one({"_id": 2}, {"$set": {"new": "y"}})
    documents.things.insert_one({"_id": 2.5, "new": "z"})
    hand.undo(RENAME)
    assert list(documents.things.find().sort("_id", 1)) == [
        {"_id": 0, "new": 0, "old": "x"},
        {"_id": 1},
        {"_id": 2, "old": "y"},
        {"_id": 2.5, "new": "z"},
        {"_id": 3, "old": 3},
        {"_id": 4, "old": 4},
    ]
    (warning,) = hand.warnings
    assert warning.startswith("2 documents")
    assert warning.endswith("_id 0, 1")


# --- before-images ---


@pytest.mark.parametrize(
    "operation",
    [
        op("add_field", collection="things", field="new.x", value=1, keep_before_image=True),
        op(
            "rename_field",
            collection="things",
            old_name="int",
            new_name="a.b",
            keep_before_image=True,
        ),
        op("remove_field", collection="things", field="deep.b", keep_before_image=True),
        *(
            op(
                "update_documents",
                collection="things",
                filter={},
                update=update,
                keep_before_image=True,
            )
            for update in (
                {"$inc": {"n": 1}, "$currentDate": {"at": True}},
                {"$unset": dict.fromkeys(VALUES, 1), "$set": {"n": "x"}},
                [{"$replaceWith": {"_id": "$_id"}}],
            )
        ),
    ],
)
@pytest.mark.parametrize("size", [3, 1000])
def test_before_images(
    hand: Hand, documents: Database[Any], operation: Operation[Any], size: int
) -> None:
    """Every document byte by byte as before: types, and the order of fields."""
    hand.size = size
    documents.things.insert_many([{"_id": each, "n": 0, **VALUES} for each in IDS])
    # An insert would fill in an empty timestamp at the top of a document.
    documents.things.update_many({}, [{"$set": {"stamp": Timestamp(0, 0)}}])
    was = raw(documents, "things")
    assert operation.irreversible() is None
    for _ in range(2):
        crashing(hand, operation)
        assert raw(documents, "things") != was
        crashing(hand, operation, back=True)
        assert raw(documents, "things") == was
    assert kept(documents) == 0
    assert hand.warnings == []


def test_before_images_leave_what_was_changed_since(hand: Hand, documents: Database[Any]) -> None:
    """FAULTS 24: a change anywhere in a document keeps it as it is; what was deleted stays so."""
    documents.things.insert_many([{"_id": n, "n": n} for n in range(12)])
    operation = op(
        "update_documents",
        collection="things",
        filter={"n": {"$gt": 1}},
        update={"$mul": {"n": 2}},
        keep_before_image=True,
    )
    hand.run(operation)
    documents.things.update_one({"_id": 3}, {"$set": {"more": 1}})
    documents.things.update_one({"_id": 4}, {"$set": {"n": 8.0}})
    documents.things.update_one({"_id": 0}, {"$set": {"more": 1}})
    documents.things.delete_one({"_id": 5})
    hand.undo(operation)
    left = {3: {"n": 6, "more": 1}, 4: {"n": 8.0}, 0: {"n": 0, "more": 1}}
    assert list(documents.things.find().sort("_id", 1)) == [
        {"_id": n, **left.get(n, {"n": n})} for n in range(12) if n != 5
    ]
    (warning,) = hand.warnings
    assert warning.startswith("2 documents")
    assert warning.endswith("_id 3, 4")


def test_before_images_of_large_documents(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch ends before it keeps too much; a document of nearly 16 MB is kept in two pieces."""
    monkeypatch.setattr(images, "_MUCH", 2**20)
    some = [{"_id": n, "data": os.urandom(400_000)} for n in range(7)]
    documents.things.insert_many([*some, {"_id": 7, "data": os.urandom(16_700_000)}, {"_id": 8}])
    was = raw(documents, "things")
    operation = op("add_field", collection="things", field="a", value=1, keep_before_image=True)
    taken = hand.run(operation)
    assert (taken.done, taken.total) == (9, 9)
    assert documents.things.count_documents({"a": 1}) == 9
    assert [each["pieces"] for each in kept_documents(documents)] == [1, 1, 1, 1, 2, 2, 1]
    hand.undo(operation)
    assert raw(documents, "things") == was
    assert kept(documents) == 0


@pytest.mark.parametrize(
    "operation",
    [
        op("remove_field", collection="things", field="a"),
        op("update_documents", collection="things", filter={}, update={"$set": {"a": 1}}),
    ],
)
def test_irreversible(hand: Hand, documents: Database[Any], operation: Operation[Any]) -> None:
    """Without before-images it says what would help; only what never began can be undone.

    The journal knows it, whatever becomes of the file.
    """
    problem = operation.irreversible()
    assert problem is not None
    assert "keep_before_image" in problem.todo
    documents.things.insert_one({"a": 2})
    hand.take("1.0.0", operation)
    hand.undo(operation)
    hand.run(operation)
    assert kept(documents) == 0
    (record,) = hand.database.journal.survey().migrations
    assert record.operations[0].irreversible == "it has kept nothing of what it overwrote"
    with pytest.raises(OperationFailed, match="has kept nothing"):
        hand.undo(operation)


# --- from the middle, and over again ---


@pytest.mark.parametrize("operation", [ADD, RENAME])
def test_from_the_middle(hand: Hand, documents: Database[Any], operation: Operation[Any]) -> None:
    """Only what was reached is undone, and a worker that was frozen meanwhile does nothing."""
    documents.things.insert_many([{"_id": n, "old": n} for n in range(50)])
    was = raw(documents, "things")
    taken = hand.take("1.0.0", operation)
    for _ in range(3):
        taken = hand.step(taken, operation)
    assert kept(documents) == 3
    hand.undo(operation)
    with pytest.raises(FenceLost):
        hand.step(taken, operation)
    assert raw(documents, "things") == was
    assert kept(documents) == 0


def test_undone_in_smaller_batches(hand: Hand, documents: Database[Any]) -> None:
    """A conflict on the way back halves the batch, and what was kept at once is undone in parts."""
    documents.things.insert_many([{"_id": n} for n in range(40)])
    hand.size = 40
    hand.run(ADD)
    taken = hand.take("1.0.0", ADD, back=True)
    with documents.client.start_session() as session, session.start_transaction():
        documents.things.update_one({"_id": 20}, {"$set": {"hot": 1}}, session=session)
        with pytest.raises(PyMongoError) as caught:
            hand.step(taken, ADD)
        assert hand.database.classify(caught.value) is Fault.CONFLICT
        hand.database.recover()
        hand.size = 15
        taken = hand.step(hand.take("1.0.0", ADD, back=True), ADD)
    assert taken.done == 15
    assert documents.things.count_documents({"new": "v"}) == 25
    hand.finish(taken, ADD)
    assert documents.things.count_documents({"new": "v"}) == 0


def test_a_collection_that_is_gone(hand: Hand, documents: Database[Any]) -> None:
    """Another one of that name is left alone, and what was kept is removed."""
    documents.things.insert_many([{"_id": n} for n in range(30)])
    hand.run(ADD)
    documents.drop_collection("things")
    documents.things.insert_many([{"_id": n, "new": "v"} for n in range(30)])
    before = state(documents)
    hand.undo(ADD)
    assert state(documents) == before
    assert kept(documents) == 0
    assert "was dropped since" in hand.warnings[-1]


def test_what_was_rolled_back_by_a_file_begins_anew(hand: Hand, documents: Database[Any]) -> None:
    """Nothing that was kept the first time is left, and the second time is undone exactly."""
    documents.things.insert_many([{"_id": n} for n in range(30)])
    hand.run(ADD)
    assert kept(documents) == 3
    assignment = hand.assignment("1.0.0", "remove_field")
    remove = op("remove_field", collection="things", field="new")
    file = replace(
        assignment,
        key=assignment.key.model_copy(update={"number": 2}),
        count=2,
        outcome=MigrationState.ROLLED_BACK,
    )
    taken = hand.database.journal.take(file, hand.owner(), counted=True)
    with pytest.raises(Outdated, match="rollback file has begun"):
        hand.take("1.0.0", ADD)
    prepared = remove.prepare(hand.work(taken, hand.database.handle))
    assert prepared is not None
    hand.finish(hand.database.journal.prepare(taken, prepared), remove)
    assert kept(documents) == 3
    documents.things.update_one({"_id": 3}, {"$set": {"new": "v"}})
    hand.take("1.0.0", ADD)
    assert kept(documents) == 0
    hand.run(ADD)
    hand.undo(ADD)
    assert list(documents.things.find({"new": "v"})) == [{"_id": 3, "new": "v"}]


# --- prune ---


def test_prune(hand: Hand, documents: Database[Any]) -> None:
    """What is old is removed, and then it can't be undone; what is at work keeps all.

    As does an operation that is done, of a migration that has failed since.
    """
    journal = hand.database.journal
    documents.things.insert_many([{"_id": n, "old": 1} for n in range(30)])
    hand.run(ADD)
    running = op("add_field", collection="things", field="b", value=1)
    hand.step(hand.take("2.0.0", running), running)
    failed = op("add_field", collection="things", field="c", value=1)
    first = replace(hand.assignment("3.0.0", "add_field"), count=2)
    second = replace(first, key=first.key.model_copy(update={"number": 2}))
    taken = journal.take(first, hand.owner(), counted=True)
    prepared = failed.prepare(hand.work(taken, hand.database.handle))
    assert prepared is not None
    hand.finish(journal.prepare(taken, prepared), failed)
    taken = journal.take(second, hand.owner(), counted=True)
    journal.fail(taken, "no", MigrationState.FAILED)
    now = datetime.now(UTC)
    assert journal.prune(now - timedelta(hours=1), run="p", by="me") == []
    (pruned,) = journal.prune(now + timedelta(hours=1), run="p", by="me")
    assert (pruned.version, pruned.number, pruned.documents) == ("1.0.0", 1, 3)
    assert kept(documents) == 1 + 3
    (told,) = [each for each in journal.history(100) if each.event == "pruned"]
    assert (told.run, told.by, told.version, told.number) == ("p", "me", "1.0.0", 1)
    assert told.detail == "what it kept for its way back was removed (documents: 3)"
    assert (told.name, told.checksum) == ("name", "sum")
    record = journal.survey().by_version()["1.0.0"]
    assert "pruned" in str(record.operations[0].irreversible)
    with pytest.raises(OperationFailed, match="pruned"):
        hand.undo(ADD)
    hand.undo(running, "2.0.0")
    assert documents.things.count_documents({"b": 1}) == 0


@pytest.mark.parametrize("state", [MigrationState.ROLLED_BACK, MigrationState.APPLIED])
def test_what_was_kept_for_a_way_back_that_will_not_be(
    hand: Hand, documents: Database[Any], state: MigrationState
) -> None:
    """Declared rolled back, its next beginning removes it; declared applied, `prune` does."""
    documents.things.insert_many([{"_id": n} for n in range(30)])
    hand.step(hand.take("1.0.0", ADD), ADD)
    amendment = Amendment("1.0.0", "name", "sum", ("add_field",), state)
    journal = hand.database.journal
    journal.declare(Declaration("declared", "me", "repair", "by hand", (amendment,)), 1)
    assert kept(documents) == 1
    generation = hand.begin("next", 2)
    if state is MigrationState.APPLIED:
        assert hand.take("1.0.0", ADD, generation).over
        soon = datetime.now(UTC) + timedelta(hours=1)
        (pruned,) = journal.prune(soon, run="p", by="me")
        assert (pruned.number, pruned.documents) == (1, 1)
    else:
        taken = hand.take("1.0.0", ADD, generation)
        assert (taken.cursor, taken.done) == (None, 0)
    assert kept(documents) == 0


def test_what_was_kept_is_missing(hand: Hand, documents: Database[Any]) -> None:
    """Somebody has removed some of it: nothing is undone, rather than a part."""
    documents.things.insert_many([{"_id": n} for n in range(30)])
    hand.run(ADD)
    documents[f"{documents.name}_undo"].delete_one({})
    with pytest.raises(OperationFailed, match=r"not in .* any more"):
        hand.undo(ADD)
    assert documents.things.count_documents({"new": "v"}) == 30
    (record,) = hand.database.journal.survey().migrations
    assert record.operations[0].state is OperationState.UNDOING


def kept_documents(documents: Database[Any]) -> list[Any]:
    """What is kept for the way back, in order."""
    return list(documents[f"{documents.name}_undo"].find().sort("_id", 1))


def crash() -> None:
    """The worker ends here."""
    raise ZeroDivisionError
