"""Why bulk work waits on Elasticsearch, as the server itself says it."""

from __future__ import annotations

import pytest
from elasticsearch import Elasticsearch

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


def test_refused_writes(client: Elasticsearch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only those since the last look; a node that was started again counts from zero."""
    looking = Strain(client)
    assert looking.look() is None  # the real number, whatever it is
    numbers = iter([5, 5, 1_239, 1_239, 0, 3])
    monkeypatch.setattr(looking, "_count", lambda: next(numbers))
    said = [looking.look() for _ in range(6)]
    assert [each is not None for each in said] == [True, False, True, False, False, True]
    assert said[2] == "Elasticsearch has refused 1,234 writes since the last look (queue full)"
