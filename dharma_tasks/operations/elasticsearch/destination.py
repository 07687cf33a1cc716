"""The destination of a reindex: faster settings while it is loaded, its own ones after.

What is put back was recorded once, before the first change (FAULTS 20): a successor that finds
the changed settings must not take them for the original ones.

An index that held documents before may be in use: its searches need refreshing, and its replicas
are somebody's safety. So its settings stay as they are, and the record is empty.
"""

from __future__ import annotations

from elasticsearch import Elasticsearch

from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import Index

# Replicas are copied once at the end, which is cheaper than writing each document twice.
_LOADING: JSON = {
    "index.refresh_interval": "-1",
    "index.number_of_replicas": "0",
    "index.auto_expand_replicas": "false",
}


def original(index: Index) -> JSON:
    """The settings to put back; None is a default, which stays one when it is put back."""
    return {name: index.settings.get(name) for name in _LOADING}


def prepare_load(client: Elasticsearch, index: Index) -> None:
    """Turn refreshing and replicas off, where they are on."""
    wanted = {name: value for name, value in _LOADING.items() if _differs(index, name, value)}
    if wanted:
        client.indices.put_settings(index=index.name, settings=wanted)


def is_loading(index: Index) -> bool:
    """Whether the settings are still those of the load: later changes are somebody else's."""
    return not any(_differs(index, name, value) for name, value in _LOADING.items())


def put_back(client: Elasticsearch, name: str, settings: JSON) -> None:
    """Put the original settings back. Does not wait for replicas: they may never find a node."""
    if settings:
        client.indices.put_settings(index=name, settings=settings)


def why_shared(index: Index, held: int) -> str | None:
    """Why not all that is in the index is a copy under its own id."""
    if held:
        return f"{index.name} held {held} documents before, beside which others are copied"
    pipelines = ("index.default_pipeline", "index.final_pipeline")
    if any(index.settings.get(each, "_none") != "_none" for each in pipelines):
        return f"an ingest pipeline of {index.name} changes what is copied"
    return None


def why_irreversible(index: Index, held: int) -> str | None:
    """Why what will be copied into the index cannot be found again, to be taken out of it."""
    if index.mapping.get("_source") and not why_shared(index, held):
        return f"{index.name} does not keep documents as they are written (_source)"
    return why_shared(index, held)


def _differs(index: Index, name: str, value: str) -> bool:
    default = "false" if name == "index.auto_expand_replicas" else None
    return bool(index.settings.get(name, default) != value)
