"""The audit trail: documents are only ever added, each of them once.

The ids are made from what is told, so that telling it again, after a crash in between, adds
nothing.
"""

from __future__ import annotations

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch.documents import create, now
from dharma_tasks.journal import Entry
from dharma_tasks.migration import JSON

_KEPT = ("run", "version", "number", "fence", "generation", "by", "worker", "error")
_NAMING = ("run", "version", "number", "fence")


class History:
    """The index of the history."""

    def __init__(self, client: Elasticsearch, index: str) -> None:
        """Remember where it is."""
        self._client = client
        self._index = index

    def tell(self, event: str, source: JSON) -> None:
        """Tell what has happened to an operation (its document is `source`), or to a run."""
        told = {name: source[name] for name in _KEPT if source.get(name) is not None}
        key = ":".join(str(told.get(name, "")) for name in _NAMING)
        at = source.get("updated") or now()
        create(self._client, self._index, f"{key}:{event}", {**told, "event": event, "at": at})

    def audit(self, entry: Entry) -> None:
        """Tell what a person did."""
        told = {
            "event": entry.event,
            "run": entry.run,
            "by": entry.by,
            "version": entry.key.version,
            "number": entry.key.number,
            "detail": entry.detail,
            "at": now(),
        }
        create(self._client, self._index, entry.id, told)
