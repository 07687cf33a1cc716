"""What is found wrong in MongoDB's operations before anything runs."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any

import pytest
from bson import Decimal128, Int64, ObjectId
from pydantic import ValidationError

from dharma_tasks.explain import explain
from dharma_tasks.operations.mongodb import catalogue


def problems(kind: str, **parameters: Any) -> list[str]:
    """Everything that is wrong, as the loader shows it."""
    try:
        found = catalogue.parse({"type": kind, **parameters}).problems()
    except ValidationError as error:
        found = explain(error, catalogue.operations[kind], parameters)
    return [str(problem) for problem in found]


def test_extended_json() -> None:
    """Canonical and relaxed forms are understood, at any depth."""
    value = {
        "at": {"$date": "2024-05-01T00:00:00Z"},
        "then": {"$date": {"$numberLong": "0"}},
        "list": [{"$oid": "0123456789abcdef01234567"}, {"$numberDecimal": "9.99"}],
        "long": {"$numberLong": "5"},
        "id": {"$uuid": "00000000-0000-0000-0000-000000000001"},
        "plain": [1, 1.5, None, True, "$text"],
    }
    operation: Any = catalogue.parse(
        {"type": "add_field", "collection": "c", "field": "f", "value": value}
    )
    assert operation.value == {
        "at": datetime(2024, 5, 1, tzinfo=UTC),
        "then": datetime(1970, 1, 1, tzinfo=UTC),
        "list": [ObjectId("0123456789abcdef01234567"), Decimal128("9.99")],
        "long": Int64(5),
        "id": uuid.UUID(int=1),
        "plain": [1, 1.5, None, True, "$text"],
    }
    assert isinstance(operation.value["long"], Int64)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": [{"$oid": "xyz"}]}, ["value", "at a[0]", "Extended JSON"]),
        ({"$date": "yesterday"}, ["value", "Extended JSON"]),
        ({"$numberDecimal": "ten"}, ["value", "Extended JSON"]),
        ({"$date": "2024-05-01T00:00:00Z", "x": 1}, ["value", "Extended JSON"]),
        ({"big": 2**80}, ["value", "MongoDB cannot hold this"]),
    ],
)
def test_bad_extended_json(value: Any, words: list[str]) -> None:
    """It says in which parameter, where in it, and why."""
    (problem,) = problems("add_field", collection="c", field="f", value=value)
    assert all(word in problem for word in words)


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        ("create_index", {"index": [["a", 1]], "options": {"uniqe": 1}},
         ["options.uniqe", "'unique'"]),
        ("create_index", {"index": [["a"]]}, ["index", "list of keys"]),
        ("create_index", {"index": []}, ["index", "list of keys"]),
        ("create_index", {"index": [["a", 1], ["a", -1]]}, ["index", "twice"]),
        ("create_index", {"index": [["a", "up"]]}, ["index", "list of keys"]),
        ("create_collection", {"options": {"validater": {}}}, ["options.validater", "'validator'"]),
        ("create_collection", {"options": []}, ["options", "object"]),
        ("modify_collection", {}, ["nothing to change", "validator, level or action"]),
        ("modify_collection", {"validator": []}, ["validator", "object"]),
        ("modify_collection", {"validator": None}, ["validator", "object"]),
        ("modify_collection", {"level": "strickt"}, ["level", "'strict', 'moderate' or 'off'"]),
        ("modify_collection", {"action": "fail"}, ["action", "'error', 'warn'"]),
        ("drop_collection", {"if_exist": True}, ["if_exist", "'if_exists'"]),
        ("drop_index", {"index": "*"}, ["index", "every index"]),
        ("drop_index", {"index": "_id_"}, ["index", "_id"]),
        ("drop_index", {"index": ""}, ["index", "list of keys"]),
        ("insert_documents", {"documents": []}, ["documents", "nothing to insert"]),
        ("insert_documents", {"documents": {"_id": 1}}, ["documents", "list of objects"]),
        ("insert_documents", {"documents": [{"_id": 1}, 5]}, ["documents", "list of objects"]),
        ("insert_documents", {"documents": [{"_id": 1}, {"a": 1}]},
         ["documents[1]._id", "missing"]),
        ("insert_documents", {"documents": [{"_id": 1}, {"_id": {"$numberLong": "1"}}]},
         ["documents[1]._id", "documents[0] has the same"]),
        ("insert_documents", {"documents": [{"_id": {"a": "x"}}, {"_id": {"a": "x"}}]},
         ["documents[1]._id", "documents[0] has the same"]),
        ("insert_documents", {"documents": [{"_id": [1]}]}, ["documents[0]._id", "array"]),
        ("insert_documents", {"documents": [{"_id": {"$regularExpression": {"pattern": "a",
          "options": ""}}}]}, ["documents[0]._id", "regular expression"]),
        ("insert_documents", {"documents": [{"_id": 1, "at": {"$timestamp": {"t": 0, "i": 0}}}]},
         ["documents[0].at", "empty timestamp"]),
        ("insert_documents", {"documents": [{"_id": 1, "at": {"$date": "soon"}}]},
         ["documents", "at [0].at", "Extended JSON"]),
        ("add_field", {"field": "$a", "value": 1}, ["field", "'$'"]),
        ("add_field", {"field": "a..b", "value": 1}, ["field", "path"]),
        ("remove_field", {"field": "_id"}, ["field", "_id"]),
        ("remove_field", {"field": "a", "filtr": {}}, ["filtr", "'filter'"]),
        ("rename_field", {"old_name": "a", "new_name": "a.b"}, ["new_name", "within"]),
        ("update_documents", {"filter": {}, "update": {"a": 1}}, ["update.a", "replace"]),
        ("update_documents", {"filter": {}, "update": {"$ste": {"a": 1}}}, ["$ste", "'$set'"]),
        ("update_documents", {"filter": {}, "update": {"$set": {}}}, ["$set", "at least one"]),
        ("update_documents", {"filter": {}, "update": {}}, ["update", "operators"]),
        ("update_documents", {"filter": {}, "update": [{"$match": {}}]}, ["update[0]", "$match"]),
        ("update_documents", {"update": {"$set": {"a": 1}}}, ["filter", "missing"]),
        ("update_documents", {"filter": {}, "update": [{"$unset": "a"}], "array_filters": []},
         ["array_filters", "pipeline"]),
    ],
)  # fmt: skip
def test_bad_parameters(kind: str, parameters: dict[str, Any], words: list[str]) -> None:
    """Each is refused with its place and what to do, the nearest name included."""
    (problem,) = problems(kind, collection="c", **parameters)
    assert all(word in problem for word in words), problem


@pytest.mark.parametrize("name", ["", "a$b", "system.users", ".a", "a.", "a\0b"])
def test_bad_collection_names(name: str) -> None:
    """Names that MongoDB refuses, and its own collections."""
    assert len(problems("create_collection", collection=name)) == 1


def test_ids_that_differ() -> None:
    """True is not 1, and 1 is not "1"."""
    ids = [True, 1, "1", {"a": 1}, {"a": True}, None, {"$numberDecimal": "2"}, 2.5]
    assert problems("insert_documents", collection="c", documents=[{"_id": i} for i in ids]) == []


def test_summaries() -> None:
    """What logs and progress show."""
    shown = {
        catalogue.parse({"type": kind, "collection": "users", **parameters}).summary
        for kind, parameters in {
            "create_index": {"index": [["email", 1], ["age", -1], ["bio", "text"]]},
            "drop_index": {"index": "mine"},
            "add_field": {"field": "a.b", "value": None},
            "rename_field": {"old_name": "a", "new_name": "b"},
        }.items()
    }
    assert shown == {
        "users(email, age desc, bio text)",
        "users(mine)",
        "users.a.b",
        "users.a -> b",
    }
