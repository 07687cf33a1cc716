"""The walk through large, odd and busy collections, by the runner itself."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest
from mongodb_hand import Hand, op
from pymongo.database import Database

from dharma_tasks.operations.base import Operation
from dharma_tasks.runner import Control, Runner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Taken

INCREMENT = {"collection": "things", "filter": {}, "update": {"$inc": {"n": 1}}}


def run(hand: Hand, operation: Operation[Any], settings: Settings) -> Taken:
    """Carry it out as a worker does, with its pace and its pauses."""
    control = Mock(spec=Control, **{"ending.return_value": None})
    assignment = hand.assignment("1.0.0", operation.kind)
    return Runner(operation, assignment, hand.database, control, settings, "worker").run()


# --- batches that are too much ---


def test_a_batch_that_is_not_over_in_time_is_halved(
    hand: Hand, documents: Database[Any], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A silent connection may be a batch that is too large: the next one is smaller (Law 10)."""
    monkeypatch.setattr("dharma_tasks.databases.mongodb.connection.SOCKET_SECONDS", 1)
    hand.database.close()
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(1500)])
    slow = {**INCREMENT, "filter": {"$where": "sleep(1) || true"}}
    run(hand, op("update_documents", **slow), settings.model_copy(update={"retry_seconds": 20}))
    assert documents.things.count_documents({"n": 1}) == 1500
