"""Why bulk work waits on Elasticsearch, as the server itself says it."""

from __future__ import annotations

import pytest
from elasticsearch import ApiError, Elasticsearch

from dharma_tasks.databases.elasticsearch import ElasticsearchDatabase
from dharma_tasks.databases.elasticsearch.strain import Strain
from dharma_tasks.settings import Settings

NOWHERE = {"number_of_replicas": 0, "routing.allocation.require.rack": "none"}


def strain(settings: Settings) -> str | None:
    """What a worker sees."""
    database = ElasticsearchDatabase(settings)
    try:
        return database.strain(lambda _: None)
    finally:
        database.close()


def test_a_red_cluster(client: Elasticsearch, settings: Settings, unique: str) -> None:
    """Yellow is fine; of red the indices are named."""
    client.indices.create(index=f"{unique}-yellow", settings={"number_of_replicas": 1})
    assert strain(settings) is None
    client.indices.create(index=f"{unique}-lost", settings=NOWHERE, wait_for_active_shards="0")
    said = strain(settings)
    assert said is not None
    assert said.startswith("the cluster is red: not all data of ")
    assert f"{unique}-lost" in said
    client.indices.delete(index=f"{unique}-lost")
    assert strain(settings) is None


def test_refused_writes(client: Elasticsearch, unique: str) -> None:
    """One that would take more memory than the node has for writes, as the server refuses it."""
    looking = Strain(client)
    assert looking.look() is None
    (node,) = client.nodes.stats(metric="indexing_pressure")["nodes"].values()
    limit = node["indexing_pressure"]["memory"]["limit_in_bytes"]
    with pytest.raises(ApiError) as refused:
        client.options(max_retries=0).index(index=unique, document={"x": "x" * limit})
    assert refused.value.status_code == 429
    assert looking.look() == "Elasticsearch has refused 1 write since the last look"
    assert looking.look() is None


def test_refused_since_the_last_look(
    client: Elasticsearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before do not count; a node that was started again counts from zero."""
    looking = Strain(client)
    numbers = iter([7, 12, 12, 1_246, 1_246, 0, 3])
    monkeypatch.setattr(looking, "_count", lambda: next(numbers))
    said = [looking.look() for _ in range(7)]
    assert [each is not None for each in said] == [False, True, False, True, False, False, True]
    assert said[3] == "Elasticsearch has refused 1,234 writes since the last look"
