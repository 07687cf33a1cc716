"""All that a test sees of its indices in Elasticsearch: to compare it before and after."""

from __future__ import annotations

from elasticsearch import Elasticsearch
from elasticsearch.helpers import scan

from dharma_tasks.migration import JSON

_NOT_KEPT = ("index.uuid", "index.creation_date", "index.provided_name")


def state(client: Elasticsearch, pattern: str) -> JSON:
    """Mapping, settings, aliases and documents of each index, but what is new in a new one."""
    found: JSON = client.indices.get(index=pattern, flat_settings=True).body
    for name, index in found.items():
        for each in _NOT_KEPT:
            del index["settings"][each]
        index["documents"] = documents(client, name)
    return found


def documents(client: Elasticsearch, index: str) -> dict[str, JSON]:
    """All documents of an index, by id."""
    client.indices.refresh(index=index)
    return {hit["_id"]: hit["_source"] for hit in scan(client, index=index, size=5000)}
