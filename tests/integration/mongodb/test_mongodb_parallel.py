"""Bulk work that is cut into ranges, over collections of any kind: each document once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import bson
import pytest
from mixed_ids import mixed_ids
from mongodb_hand import Hand, op
from pymongo.database import Database
from ranges_hand import ThreadControl, side_by_side
from structlog.testing import capture_logs

from dharma_tasks.databases.mongodb import database
from dharma_tasks.databases.mongodb.connection import Connection
from dharma_tasks.errors import MigrationFailed
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb.keeping import CODEC
from dharma_tasks.records import Direction, MigrationState
from dharma_tasks.runner import Runner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Prepared

INCREMENT = {
    "collection": "things",
    "filter": {},
    "update": {"$inc": {"n": 1}, "$push": {"seen": 1}},
    "parallel": 4,
    "batch": {"max": 100},
}
COUNT = 6_000


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("dharma_tasks.pace.LONGEST_PAUSE", 0)
    monkeypatch.setattr("dharma_tasks.side_by_side.LOOK_SECONDS", 0.05)
    with capture_logs():
        yield


@pytest.fixture
def make(hand: Hand, settings: Settings) -> Callable[..., Callable[[], Runner]]:
    """Make the workers of one operation, each with a connection of its own."""

    def made(operation: Operation[Any], **changes: Any) -> Callable[[], Runner]:
        assignment = hand.assignment("1.0.0", operation.kind, **changes)

        def runner() -> Runner:
            return Runner(
                operation, assignment, database(settings), ThreadControl(), settings, "worker"
            )

        return runner

    return made


def prepared(hand: Hand, operation: Operation[Any]) -> Prepared:
    """What it finds."""
    taken = hand.database.journal.take(
        hand.assignment("9.0.0", operation.kind), hand.owner(), counted=True
    )
    found = operation.prepare(hand.work(taken, hand.database.handle))
    assert found is not None
    return found


def test_ranges_of_a_collection_with_mixed_ids(hand: Hand, documents: Database[Any]) -> None:
    """They are about as large as each other, and together they are all of it."""
    documents.things.insert_many([{"_id": each} for each in mixed_ids(COUNT)])
    found = prepared(hand, op("update_documents", **INCREMENT))
    things = documents.things.with_options(codec_options=CODEC)
    ids = [
        bson.encode(each, codec_options=CODEC)
        for each in things.find({}, {"_id": True}).sort("_id", 1)
    ]
    ends = [each.undo["last"][0] for each in found.ranges]
    places = [ids.index(bson.encode({"_id": end}, codec_options=CODEC)) for end in ends]
    assert places == [COUNT * n // 4 - 1 for n in range(1, 5)]
    assert [each.cursor for each in found.ranges] == [None, *({"after": end} for end in ends[:-1])]


@pytest.mark.parametrize(
    ("documents_", "wanted"), [(0, 0), (1, 0), (1_999, 0), (2_000, 2), (3_500, 3), (9_000, 4)]
)
def test_few_documents_are_not_worth_many_ranges(
    hand: Hand, documents: Database[Any], documents_: int, wanted: int
) -> None:
    """A thousand each, at least."""
    documents.create_collection("things")
    if documents_:
        documents.things.insert_many([{"_id": n} for n in range(documents_)])
    assert len(prepared(hand, op("update_documents", **INCREMENT)).ranges) == wanted


def test_far_cuts(hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too far for one command is found in several."""
    monkeypatch.setattr("dharma_tasks.operations.mongodb.walk._FAR", 700)
    documents.things.insert_many([{"_id": n} for n in range(8_000)])
    found = prepared(hand, op("update_documents", **INCREMENT))
    assert [each.undo["last"] for each in found.ranges] == [[1_999], [3_999], [5_999], [7_999]]


def test_several_workers_at_once(
    documents: Database[Any], make: Callable[..., Callable[[], Runner]]
) -> None:
    """Each document once, whoever does it."""
    documents.things.insert_many([{"_id": each, "n": 0} for each in mixed_ids(COUNT)])
    taken, others = side_by_side(make(op("update_documents", **INCREMENT)), workers=4)
    assert documents.things.count_documents({"n": 1, "seen": [1]}) == COUNT
    assert (taken.done, taken.total) == (COUNT, COUNT)
    assert any(others), "the others have done something too"


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("add_field", {"field": "a.b", "value": {"x": 1}}),
        ("rename_field", {"old_name": "n", "new_name": "m"}),
        ("remove_field", {"field": "n", "keep_before_image": True}),
        (
            "update_documents",
            {"filter": {}, "update": {"$inc": {"n": 1}}, "keep_before_image": True},
        ),
    ],
)
def test_there_and_back(
    documents: Database[Any],
    make: Callable[..., Callable[[], Runner]],
    kind: str,
    parameters: dict[str, Any],
) -> None:
    """What was kept in all ranges is put back; the way back is one worker's."""
    documents.things.insert_many([{"_id": each, "n": 0} for each in mixed_ids(4_000)])
    before = list(documents.things.find_raw_batches(sort=[("_id", 1)]))
    operation = op(kind, collection="things", parallel=3, batch={"max": 300}, **parameters)
    side_by_side(make(operation), workers=3)
    assert list(documents.things.find_raw_batches(sort=[("_id", 1)])) != before
    back = make(operation, back=True)()
    assert back.assignment.direction is Direction.BACK
    taken = back.run()
    assert taken.over
    back.database.close()
    if kind == "rename_field":  # the field is the last one then
        assert documents.things.count_documents({"n": 0, "m": {"$exists": False}}) == 4_000
    else:
        assert list(documents.things.find_raw_batches(sort=[("_id", 1)])) == before


def test_a_document_that_is_refused(
    hand: Hand, documents: Database[Any], make: Callable[..., Callable[[], Runner]]
) -> None:
    """In whatever range: the error names the range, the document and what MongoDB said."""
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(COUNT)])
    documents.things.update_one({"_id": 4_321}, {"$set": {"n": "a text"}})
    with pytest.raises(MigrationFailed, match=r"range 3 of 4: Cannot apply \$inc .*_id: 4321"):
        side_by_side(make(op("update_documents", **INCREMENT)), workers=4)
    (migration,) = hand.database.journal.survey().migrations
    assert migration.state is MigrationState.FAILED
    assert documents.things.find_one({"_id": 4_321}) == {"_id": 4_321, "n": "a text"}
    counts = Counter(each["n"] for each in documents.things.find({"_id": {"$ne": 4_321}}))
    assert counts.keys() <= {0, 1}, "and what is done is done once"


def test_an_application_that_deletes_the_ends(
    documents: Database[Any],
    make: Callable[..., Callable[[], Runner]],
    hand: Hand,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the documents are gone at which ranges end, the others are visited all the same."""
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(COUNT)])
    operation = op("update_documents", **INCREMENT)
    found = prepared(hand, operation)
    ends = [each.undo["last"][0] for each in found.ranges]
    batches = count()
    original = type(operation)._update

    def update(self: Any, work: Any, within: Any) -> int:
        if next(batches) == 2:
            documents.things.delete_many({"_id": {"$in": ends}})
        return int(original(self, work, within))

    monkeypatch.setattr(type(operation), "_update", update)
    side_by_side(make(operation), workers=2)
    assert {each["n"] for each in documents.things.find()} == {1}
    assert documents.things.count_documents({}) == COUNT - len(ends)


def test_ranges_that_a_secondary_has_cut(
    make: Callable[..., Callable[[], Runner]],
    documents: Database[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is behind: they are less equal then, and together they are all of it, as ever."""
    ids = mixed_ids(COUNT)
    documents.things.insert_many([{"_id": each, "n": 0} for each in ids])
    older = f"{documents.name}-older"
    documents.client[older].things.insert_many([{"_id": each} for each in ids[: COUNT // 2]])
    monkeypatch.setattr(Connection, "_nearby", property(lambda self: self.client[older]))
    try:
        taken, _ = side_by_side(make(op("update_documents", **INCREMENT)), 3)
    finally:
        documents.client.drop_database(older)
    assert taken.over
    assert documents.things.count_documents({"n": 1, "seen": [1]}) == COUNT
