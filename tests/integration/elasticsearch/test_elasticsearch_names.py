"""Hostile names on a real Elasticsearch: correct work, or a clear error that changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from elasticsearch_hand import Hand
from hostile_names import ALONE, NAMES, failure
from pydantic import ValidationError

from dharma_tasks.databases.base import Fault
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue

KINDS: dict[str, JSON] = {
    "create_index": {"index": "NAME"},
    "delete_index": {"index": "NAME"},
    "update_mapping": {"index": "NAME", "mapping": {"properties": {"a": {"type": "long"}}}},
    "update_mapping of a field": {
        "index": "THERE",
        "mapping": {"properties": {"NAME": {"type": "long"}}},
    },
    "update_settings": {"index": "NAME", "settings": {"refresh_interval": "5s"}},
    "create_alias": {"index": "THERE", "alias": "NAME"},
    "delete_alias": {"alias": "NAME"},
    "reindex": {"source": {"index": "THERE"}, "dest": {"index": "NAME"}},
}


def put(value: Any, name: str, there: str) -> Any:
    """The value with these names in their places."""
    if isinstance(value, dict):
        return {put(k, name, there): put(v, name, there) for k, v in value.items()}
    return {"NAME": name, "THERE": there}.get(value, value) if isinstance(value, str) else value


def refused(operation: JSON) -> bool:
    """Whether it is refused when it is read."""
    try:
        return bool(catalogue.parse(operation).problems())
    except ValidationError:
        return True


@pytest.mark.parametrize("kind", KINDS)
def test_names(
    hand: Hand, fill: Callable[..., None], state: Callable[[], JSON], unique: str, kind: str
) -> None:
    """Each is done, or refused for good; what is refused has changed nothing."""
    there = f"{unique}there"
    fill(there, 3)
    before = state()
    hand.count = len(NAMES)
    # What begins with the test's own name is deleted after it.
    made = [f"{unique}{name}" for what, name in NAMES.items() if what != "empty"]
    made += [NAMES[what] for what in ALONE]
    hand.count = len(made)
    for hand.number, name in enumerate(made, start=1):
        operation = {"type": kind.split(maxsplit=1)[0], **put(KINDS[kind], name, there)}
        if refused(operation):
            continue
        error = failure(lambda todo=operation: hand.finish(todo, hand.prepared(todo)))
        if error:
            assert hand.database.classify(error) is Fault.LASTING, (name[:20], error)
            assert hand.database.describe(error).strip().encode()
            assert state() == before, name[:20]
        else:
            before = state()
            assert there in str(before)
