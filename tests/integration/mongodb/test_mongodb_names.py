"""Hostile names on a real MongoDB: correct work, or a clear error that changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hostile_names import NAMES, failure
from mongodb_hand import Hand
from mongodb_state import state
from pydantic import ValidationError
from pymongo.database import Database

from dharma_tasks.databases.base import Fault
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb import catalogue

KINDS: dict[str, dict[str, Any]] = {
    "create_collection": {"collection": "NAME"},
    "drop_collection": {"collection": "NAME", "if_exists": True},
    "create_index": {"collection": "things", "index": [["NAME", 1]]},
    "create_index by name": {
        "collection": "things",
        "index": [["m", 1]],
        "options": {"name": "NAME"},
    },
    "add_field": {"collection": "things", "field": "NAME", "value": 1},
    "remove_field": {"collection": "things", "field": "NAME"},
    "rename_field": {"collection": "things", "old_name": "m", "new_name": "NAME"},
    "insert_documents": {"collection": "NAME", "documents": [{"_id": 1, "NAME": 1}]},
    "update_documents": {
        "collection": "things",
        "filter": {"NAME": {"$exists": False}},
        "update": {"$set": {"NAME": 1}},
        "keep_before_image": True,
    },
}


def put(value: Any, name: str) -> Any:
    """The value with `name` in the place of NAME."""
    if isinstance(value, dict):
        return {put(key, name): put(below, name) for key, below in value.items()}
    if isinstance(value, list):
        return [put(each, name) for each in value]
    return name if value == "NAME" else value


def parsed(kind: str, name: str) -> Operation[Any] | None:
    """The operation, or None where it is refused when it is read."""
    try:
        operation = catalogue.parse({"type": kind.split(maxsplit=1)[0], **put(KINDS[kind], name)})
    except ValidationError:
        return None
    return operation if operation.problems() == [] else None


@pytest.mark.parametrize("kind", KINDS)
def test_names(hand: Hand, documents: Database[Any], kind: str) -> None:
    """Each is done and undone, or refused for good; the collection beside it stays as it is."""
    documents.things.insert_one({"_id": 1, "m": 1})
    before = state(documents)
    for number, (what, name) in enumerate(NAMES.items()):
        operation = parsed(kind, name)
        if operation is None:
            continue
        version = f"1.{number}.0"
        error = failure(lambda at=version, todo=operation: hand.run(todo, at))
        if error:
            assert hand.database.classify(error) is Fault.LASTING, (what, error)
            assert hand.database.describe(error).strip().encode()
            hand.database.recover()
        elif operation.irreversible() is None:
            hand.undo(operation, version)
        assert state(documents) == before, what
