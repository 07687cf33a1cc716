"""Dropping and modifying collections on a real replica set."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Int64
from mongodb_hand import Hand, op
from mongodb_state import raw, state
from pymongo.database import Database
from pymongo.errors import OperationFailure, WriteError

from dharma_tasks.databases.mongodb import Handle
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


# --- modify_collection ---

VALIDATOR = {"a": {"$exists": True}}
MODIFY = op("modify_collection", collection="things", validator=VALIDATOR, action="warn")


def validation(documents: Database[Any]) -> dict[str, Any]:
    """How `things` validates, the defaults spelled out."""
    (found,) = documents.list_collections(filter={"name": "things"})
    defaults = {"validator": {}, "validationLevel": "strict", "validationAction": "error"}
    return defaults | found["options"]


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        ({}, {"validator": VALIDATOR}),
        ({}, {"validator": VALIDATOR, "level": "moderate", "action": "warn"}),
        ({"validator": VALIDATOR, "validationAction": "warn"}, {"validator": {}}),
        ({"validator": {"n": {"$gt": 1}}}, {"validator": {"n": {"$gt": 1.0}}}),
        ({"validator": {"a": 1, "b": 1}}, {"validator": {"b": 1, "a": 1}}),
        (
            {"validator": {"$jsonSchema": {"required": ["b"], "properties": {"b": {}}}}},
            {"validator": {"at": {"$lt": {"$date": "2030-01-01T00:00:00Z"}}}},
        ),
        (
            {"validator": {"at": {"$gt": datetime(2024, 5, 1, tzinfo=UTC), "$ne": Int64(1)}}},
            {"validator": {"$expr": {"$eq": ["$a", "$b.c"]}}},
        ),
        ({"capped": True, "size": 4096, "validator": VALIDATOR}, {"level": "off"}),
        ({"validationLevel": "moderate", "validationAction": "warn"}, {"action": "error"}),
    ],
)
def test_modify_collection(
    hand: Hand, documents: Database[Any], options: dict[str, Any], parameters: dict[str, Any]
) -> None:
    """There and back twice, all done again after a crash; what is not given stays as it was."""
    documents.command({"create": "things", **options})
    documents.things.insert_one({"x": 1}, bypass_document_validation=True)
    was, written = repr(validation(documents)), raw(documents, "things")
    operation = op("modify_collection", collection="things", **parameters)
    for _ in range(2):
        for back in (False, True):
            with pytest.raises(ZeroDivisionError):
                hand.step(hand.take("1.0.0", operation, back=back), operation, crash)
            hand.finish(hand.take("1.0.0", operation, back=back), operation)
            assert (repr(validation(documents)) == was) is back
    assert hand.confirmed == 4
    assert hand.warnings == []
    assert raw(documents, "things") == written


def test_modify_collection_takes_effect(hand: Hand, documents: Database[Any]) -> None:
    """MongoDB refuses what does not fit from then on, and no longer once it is undone."""
    documents.create_collection("things")
    operation = op("modify_collection", collection="things", validator=VALIDATOR)
    hand.run(operation)
    with pytest.raises(WriteError, match="failed validation"):
        documents.things.insert_one({"b": 1})
    hand.undo(operation)
    documents.things.insert_one({"b": 1})


def test_modify_collection_that_is_so_already(hand: Hand, documents: Database[Any]) -> None:
    """It is accepted with a warning, and its way back leaves it as it is."""
    documents.create_collection("things", validator=VALIDATOR, validationAction="warn")
    was = state(documents)
    hand.run(MODIFY)
    assert "already" in hand.warnings[-1]
    hand.undo(MODIFY)
    assert state(documents) == was
    assert (hand.confirmed, len(hand.warnings)) == (0, 1)


def test_modify_collection_that_is_not_there(hand: Hand, documents: Database[Any]) -> None:
    """The nearest name is shown."""
    documents.create_collection("thins")
    with pytest.raises(OperationFailed, match=r"no collection 'things'.* mean 'thins'"):
        hand.run(MODIFY)


@pytest.mark.parametrize("options", [OPTIONS[3], OPTIONS[4]])
def test_modify_collection_that_validates_nothing(
    hand: Hand, documents: Database[Any], options: dict[str, Any]
) -> None:
    """Views and time series."""
    documents.command({"create": "things", **options})
    with pytest.raises(OperationFailed, match="validates nothing"):
        hand.run(MODIFY)


def test_modify_collection_with_a_validator_that_is_none(
    hand: Hand, documents: Database[Any]
) -> None:
    """The server says why, and nothing is changed."""
    documents.create_collection("things")
    was = state(documents)
    operation = op("modify_collection", collection="things", validator={"$foo": 1})
    with pytest.raises(OperationFailure, match=r"unknown top level operator: \$foo"):
        hand.run(operation)
    hand.undo(operation)
    assert state(documents) == was
    assert hand.warnings == []


def test_modify_collection_that_another_has_changed(hand: Hand, documents: Database[Any]) -> None:
    """Between looking and doing: it is refused, all three are shown, and it stays."""
    documents.create_collection("things", validator={"was": 1})
    taken = hand.take("1.0.0", MODIFY)
    documents.command({"collMod": "things", "validator": {"other": 1}})
    was = state(documents)
    with pytest.raises(OperationFailed, match=r'"was": 1.*"other": 1.*"a".*Look who did that'):
        hand.step(taken, MODIFY)
    hand.undo(MODIFY)
    assert state(documents) == was
    assert "so it stays" in hand.warnings[-1]


def test_modify_collection_changed_since(hand: Hand, documents: Database[Any]) -> None:
    """The way back leaves what somebody has set since; what it never set does not count."""
    documents.create_collection("things")
    hand.run(MODIFY)
    documents.command({"collMod": "things", "validationLevel": "off"})
    hand.undo(MODIFY)
    assert validation(documents) == {
        "validator": {}, "validationLevel": "off", "validationAction": "error"
    }  # fmt: skip
    hand.run(MODIFY)
    documents.command({"collMod": "things", "validationAction": "error"})
    was = state(documents)
    hand.undo(MODIFY)
    assert state(documents) == was
    assert "so it stays" in hand.warnings[-1]


@pytest.mark.parametrize("again", [True, False])
def test_modify_collection_of_another_one(
    hand: Hand, documents: Database[Any], *, again: bool
) -> None:
    """Dropped, or made again, it is not the one that was changed (FAULTS 11)."""
    documents.create_collection("things")
    hand.run(MODIFY)
    documents.drop_collection("things")
    if again:
        documents.create_collection("things", validator=VALIDATOR, validationAction="warn")
    was = state(documents)
    hand.undo(MODIFY)
    assert state(documents) == was
    assert "dropped since" in hand.warnings[-1]


def test_modify_collection_made_again_when_it_is_sent(hand: Hand, documents: Database[Any]) -> None:
    """The command aims at the identity: another one of that name is not changed."""
    documents.create_collection("things")
    confirm = hand.confirm

    def made_again() -> None:
        confirm()
        documents.drop_collection("things")
        documents.create_collection("things")

    hand.confirm = made_again  # type: ignore[method-assign]
    with pytest.raises(OperationFailure, match="UUID"):
        hand.run(MODIFY)
    assert validation(documents)["validator"] == {}


def test_modify_collection_made_again_before(hand: Hand, documents: Database[Any]) -> None:
    """Another one of that name is noticed before anything is sent, by any server."""
    documents.create_collection("things")
    taken = hand.take("1.0.0", MODIFY)
    documents.drop_collection("things")
    documents.create_collection("things")
    with pytest.raises(OperationFailed, match="made again"):
        hand.step(taken, MODIFY)
    assert hand.confirmed == 0


def test_what_was_done_is_looked_at_again(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody undoes it at once: the operation does not count as done."""
    documents.create_collection("others")
    documents.command({"create": "things", "viewOn": "others", "pipeline": []})
    send = Handle.command

    def sent_and_undone(self: Handle, command: dict[str, Any], **more: Any) -> dict[str, Any]:
        answer = send(self, command, **more)
        if "drop" in command:
            documents.command({"create": "things", "viewOn": "others", "pipeline": []})
        else:
            documents.command({"collMod": "others", "validationLevel": "strict"})
        return answer

    monkeypatch.setattr(Handle, "command", sent_and_undone)
    with pytest.raises(OperationFailed, match="there again"):
        hand.run(DROP)
    with pytest.raises(OperationFailed, match="and then it was"):
        hand.run(op("modify_collection", collection="others", level="off"), "2.0.0")
