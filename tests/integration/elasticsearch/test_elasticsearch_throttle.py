"""Bulk work that the server keeps to a rate itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.operations.elasticsearch import server_tasks

RATE = 400


@pytest.mark.parametrize("kind", ["reindex", "update_by_query"])
def test_the_server_keeps_the_rate(
    hand: Hand, client: Elasticsearch, fill: Callable[..., None], unique: str, kind: str
) -> None:
    """Over all its tasks: 1,200 documents at 400 a second take about three seconds, not a tenth."""
    fill(f"{unique}-v1", 1200)
    client.indices.create(index=f"{unique}-v2")
    if kind == "reindex":
        operation = {"type": kind, "source": f"{unique}-v1", "dest": f"{unique}-v2"}
    else:
        operation = {"type": kind, "index": f"{unique}-v1"}
    hand.rate = RATE
    begun = time.monotonic()
    done = hand.do(operation)
    # The server does not wait before its first batch of each task.
    assert 1200 / RATE - 1.5 < time.monotonic() - begun < 20
    assert done.done == 1200


def test_large_documents_in_small_batches(
    hand: Hand, client: Elasticsearch, fill: Callable[..., None], unique: str
) -> None:
    """`batch.max` is how many the server reads and writes at once."""
    fill(f"{unique}-v1", 200)
    client.indices.create(index=f"{unique}-v2")
    operation = {"type": "reindex", "source": f"{unique}-v1", "dest": f"{unique}-v2"}
    operation["batch"] = {"max": 10}
    hand.rate = 40  # slow enough to be looked at
    taken = hand.until(operation, hand.prepared(operation), lambda cursor: cursor["running"])
    header = taken.cursor["running"][0]["header"]
    running = server_tasks.running(client, taken.undo["tag"])
    status = client.tasks.get(task_id=running[header].ids[0])["task"]["status"]
    assert status["requests_per_second"] == 40
    assert status["total"] == 200
    assert status["created"] <= 10 * status["batches"] < 200
    hand.rate = None
    server_tasks.stop(hand.work(taken))
    assert hand.finish(operation, taken).done == 200
