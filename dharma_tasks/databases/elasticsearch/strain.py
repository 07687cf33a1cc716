"""Why bulk work should wait: a part of the data is away, or writes are refused."""

from __future__ import annotations

from elasticsearch import Elasticsearch

_NAMED = 3
_REJECTED = "nodes.*.thread_pool.write.rejected"


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
            return f"Elasticsearch has refused {refused:,} writes since the last look (queue full)"
        return None

    def _red(self) -> str:
        found = self._client.cat.indices(
            health="red", h="index", format="json", expand_wildcards="all"
        )
        names = sorted(str(each["index"]) for each in found.body)  # type: ignore[index]
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        return f"not all data of {', '.join(names[:_NAMED])}{more} is there"

    def _count(self) -> int:
        """Writes that were refused, over all nodes since each was started."""
        answer = self._client.nodes.stats(metric="thread_pool", filter_path=_REJECTED)
        nodes = answer.get("nodes", {}).values()
        return sum(each["thread_pool"]["write"]["rejected"] for each in nodes)
