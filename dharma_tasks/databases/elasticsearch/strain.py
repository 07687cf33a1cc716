"""Why bulk work should wait: a part of the data is away, or writes are refused."""

from __future__ import annotations

from elasticsearch import Elasticsearch

from dharma_tasks.migration import JSON
from dharma_tasks.words import several

_NAMED = 3
_QUEUE = "thread_pool.write.rejected"
_MEMORY = "indexing_pressure.memory.total.*_rejections"
_PRESSURES = ("coordinating_rejections", "primary_rejections", "replica_rejections")


class Strain:
    """What was seen at the last look."""

    def __init__(self, client: Elasticsearch) -> None:
        """Nothing was seen yet."""
        self._client = client
        self._rejected: int | None = None

    def look(self) -> str | None:
        """Say that the cluster is red (yellow is usual on one node), or has refused writes."""
        if self._client.cluster.health()["status"] == "red":
            return f"the cluster is red: {self._red()}"
        before, self._rejected = self._rejected, self._count()
        refused = 0 if before is None else self._rejected - before
        if refused > 0:
            return f"Elasticsearch has refused {several(refused, 'write')} since the last look"
        return None

    def _red(self) -> str:
        found = self._client.cat.indices(
            health="red", h="index", format="json", expand_wildcards="all"
        )
        names = sorted(str(each["index"]) for each in found.body)  # type: ignore[index]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"not all data of {', '.join(names[:_NAMED])}{more} is there"

    def _count(self) -> int:
        """Writes that were refused, over all nodes since each was started.

        Since 7.9 a node refuses by the memory that writes take, rather than when its queue is full.
        """
        answer = self._client.nodes.stats(
            metric="thread_pool,indexing_pressure",
            filter_path=[f"nodes.*.{_QUEUE}", f"nodes.*.{_MEMORY}"],
        )
        return sum(_refused(node) for node in answer.get("nodes", {}).values())


def _refused(node: JSON) -> int:
    pressure = node.get("indexing_pressure", {}).get("memory", {}).get("total", {})
    by_memory = sum(int(pressure.get(each, 0)) for each in _PRESSURES)
    return int(node["thread_pool"]["write"]["rejected"]) + by_memory
