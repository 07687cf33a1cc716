"""Dropping and modifying collections on a real replica set."""

from __future__ import annotations

import json
from typing import Any

import pytest
from mongodb_hand import Hand, op
from mongodb_state import state
from pymongo.database import Database

from dharma_tasks.errors import OperationFailed

OPTIONS: list[dict[str, Any]] = [
    {},
    {"validator": {"a": {"$exists": True}}, "validationLevel": "moderate"},
    {"capped": True, "size": 4096},
    {"viewOn": "others", "pipeline": []},
    {"timeseries": {"timeField": "at"}},
    {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
]
"""One of each kind."""


def crash() -> None:
    """The worker ends here."""
    raise ZeroDivisionError


# --- drop_collection ---

DROP = op("drop_collection", collection="things")


@pytest.mark.parametrize("options", OPTIONS)
def test_drop_collection(hand: Hand, documents: Database[Any], options: dict[str, Any]) -> None:
    """It is gone and nothing else is; what is done again finds it gone; a later one works too."""
    documents.others.insert_one({"_id": 1})
    before = state(documents)
    for version in ("1.0.0", "2.0.0"):
        documents.command({"create": "things", **options})
        with pytest.raises(ZeroDivisionError):
            hand.step(hand.take(version, DROP), DROP, crash)
        assert state(documents) == before
        assert hand.run(DROP, version).done == 1
        assert state(documents) == before
    assert hand.confirmed == 2
    assert hand.warnings == []


def test_drop_collection_keeps_its_definition(hand: Hand, documents: Database[Any]) -> None:
    """Options and indexes are in the journal, for who has to make it again."""
    documents.command({"create": "things", "validator": {"a": {"$exists": True}}})
    documents.things.create_index([("a", 1)], unique=True)
    kept = json.loads((hand.take("1.0.0", DROP).undo or {})["definition"])
    assert kept["options"]["validator"] == {"a": {"$exists": True}}
    assert [each["name"] for each in kept["indexes"]] == ["_id_", "a_1"]


def test_drop_collection_cannot_be_undone() -> None:
    """That is known before anything runs, and says what helps."""
    problem = DROP.irreversible()
    assert problem is not None
    assert "'things'" in problem.what
    assert "NNN_name_rollback" in problem.todo


def test_drop_collection_that_never_was(hand: Hand, documents: Database[Any]) -> None:
    """The nearest is named, or all are listed, unless `if_exists` allows it."""
    documents.thins.insert_one({"_id": 1})
    before = state(documents)
    with pytest.raises(OperationFailed, match=r"'things'.* mean 'thins'\? Where.*if_exists"):
        hand.run(DROP)
    with pytest.raises(OperationFailed, match=r"There are: .*thins\. Where.*if_exists"):
        hand.run(op("drop_collection", collection="else"))
    hand.run(op("drop_collection", collection="things", if_exists=True), "2.0.0")
    assert state(documents) == before
    assert hand.warnings == ["there is no collection 'things' to drop"]


@pytest.mark.parametrize("part", ["head", "migrations", "operations", "history", "undo"])
def test_drop_collection_refuses_the_journal(
    hand: Hand, documents: Database[Any], part: str
) -> None:
    """Without it nobody would know what is applied."""
    with pytest.raises(OperationFailed, match="belongs to the journal"):
        hand.run(op("drop_collection", collection=f"{documents.name}_{part}"))


@pytest.mark.parametrize("options", OPTIONS)
def test_drop_collection_leaves_a_newer_one(
    hand: Hand, documents: Database[Any], options: dict[str, Any]
) -> None:
    """Dropped, crashed, made again by the application, and done again (FAULTS 11)."""
    documents.command({"create": "things", **options})
    taken = hand.take("1.0.0", DROP)
    with pytest.raises(ZeroDivisionError):
        hand.step(taken, DROP, crash)
    newer = {"viewOn": "another", "pipeline": []} if "viewOn" in options else options
    documents.command({"create": "things", **newer})
    hand.run(DROP)
    assert "things" in documents.list_collection_names()
    assert "so it stays" in hand.warnings[-1]


@pytest.mark.parametrize("newer", [True, False])
def test_drop_collection_that_is_gone_when_it_is_sent(
    hand: Hand, documents: Database[Any], *, newer: bool
) -> None:
    """The command aims at the identity: another one of that name stays, and it counts as done."""
    documents.things.insert_one({"_id": 1})
    confirm = hand.confirm

    def dropped_meanwhile() -> None:
        confirm()
        documents.drop_collection("things")
        if newer:
            documents.things.insert_one({"_id": 2})

    hand.confirm = dropped_meanwhile  # type: ignore[method-assign]
    hand.run(DROP)
    assert list(documents.things.find()) == [{"_id": 2}] * newer
