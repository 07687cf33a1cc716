"""Capped collections, time series and views: each operation works there, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from mongodb_hand import Hand, op
from mongodb_state import state
from pymongo.database import Database

from dharma_tasks.errors import OperationFailed

KINDS: dict[str, dict[str, Any]] = {
    "view": {"viewOn": "others", "pipeline": []},
    "timeseries": {"timeseries": {"timeField": "at", "metaField": "m"}},
    "capped": {"capped": True, "size": 4096},
}
OPERATIONS: dict[str, dict[str, Any]] = {
    "create_index": {"index": [["m", 1]]},
    "drop_index": {"index": "m_-1"},
    "modify_collection": {"validator": {"m": {"$type": "string"}}},
    "insert_documents": {"documents": [{"_id": 1, "at": {"$date": "2024-05-01T00:00:00Z"}}]},
    "add_field": {"field": "a", "value": 1},
    "remove_field": {"field": "m"},
    "rename_field": {"old_name": "m", "new_name": "n"},
    "update_documents": {"filter": {}, "update": {"$set": {"a": 1}}},
}
WORKS = {
    *(("timeseries", "create_index"), ("timeseries", "drop_index")),
    *(("capped", "create_index"), ("capped", "drop_index")),
}
CASES = [
    (kind, name)
    for kind in KINDS
    for name in OPERATIONS
    if (kind, name) != ("capped", "modify_collection")  # it works: see its own tests
]


@pytest.fixture
def make(documents: Database[Any]) -> Callable[[str], None]:
    """Makes `things` of that kind, with an index where it may have one."""

    def made(kind: str) -> None:
        documents.command({"create": "things", **KINDS[kind]})
        if kind != "view":
            documents.things.create_index([("m", -1)])

    return made


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_what_works_there(
    hand: Hand, documents: Database[Any], make: Callable[[str], None], kind: str, name: str
) -> None:
    """There and back; what does not work is refused before anything is changed, and says why."""
    make(kind)
    before = state(documents)
    operation = op(name, collection="things", **OPERATIONS[name])
    if (kind, name) in WORKS:
        hand.run(operation)
        assert state(documents) != before
        hand.undo(operation)
    else:
        with pytest.raises(OperationFailed, match=f"'things' is (a )?{kind}"):
            hand.run(operation)
    assert state(documents) == before
