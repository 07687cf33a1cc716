"""What a reindex copies, and where to: the names that `prepare` has found and recorded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from elasticsearch import Elasticsearch

from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import ranges
from dharma_tasks.operations.elasticsearch.indices import Index, unchanged
from dharma_tasks.operations.elasticsearch.walk import hits

_MOST = 10_000
"""What a search returns at most by default: one `_id` may be found under several routings."""


@dataclass(frozen=True)
class Pair:
    """The sources with their UUIDs, the query, the fields, and the destination with its UUID.

    `before` is how far each shard of the destination was, which then `held` so many documents.
    Of the documents `max_failures` may be left out, for they do not fit.
    `shared` says why not all that is in the destination is a copy, where that is so. With `keeps`
    the copies have the versions that the source's documents have.
    """

    sources: dict[str, str]
    query: JSON | None
    fields: list[str] | None
    dest: str
    uuid: str
    before: dict[str, int]
    held: int
    shared: str | None
    max_failures: int
    keeps: bool = False

    @property
    def source(self) -> str:
        """All sources, as a request takes them."""
        return ",".join(self.sources)

    def check(self, client: Elasticsearch) -> Index:
        """Look the destination up, where everything is still the index that was recorded.

        Raises:
            OperationFailed: an index is gone, or another one has its name now.
        """
        for name, uuid in self.sources.items():
            unchanged(client, name, uuid)
        return unchanged(client, self.dest, self.uuid)

    def marks(self, client: Elasticsearch, kind: str = "global_checkpoint") -> dict[str, int]:
        """How far each shard of each source is; what has come that far can be found after this."""
        found = {
            f"{name}/{shard}": mark
            for name, uuid in self.sources.items()
            for shard, mark in ranges.marks(client, unchanged(client, name, uuid), kind).items()
        }
        ranges.refresh(client, self.source)  # after the marks (FAULTS 2)
        return found

    def counts(self, client: Elasticsearch) -> tuple[int | None, int]:
        """How many documents there are to copy, and how many the destination has got.

        The first is None where counting what matches the query takes too long.
        """
        ranges.refresh(client, self.dest)
        there = ranges.count(client, self.dest) - self.held
        return ranges.estimate(client, self.source, self.query or {"match_all": {}}), there

    def in_source(self, client: Elasticsearch, ids: list[str], **search: Any) -> list[JSON]:
        """Those of the documents that a source has, and that would be copied."""
        return hits(client, index=self.source, query=self._wanted(ids), size=_MOST, **search)

    def counted(self, client: Elasticsearch, ids: list[str]) -> int:
        """How many these are: much faster than to read them."""
        return ranges.count(client, self.source, self._wanted(ids))

    def _wanted(self, ids: list[str]) -> JSON:
        wanted: list[JSON] = [{"ids": {"values": ids}}]
        return {"bool": {"filter": wanted if self.query is None else [*wanted, self.query]}}
