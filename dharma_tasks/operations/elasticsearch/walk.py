"""Going through the shards of an index along `_seq_no`, page by page: the cursor, the searches."""

from __future__ import annotations

from typing import Any

from elasticsearch import Elasticsearch
from pydantic import BaseModel

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.migration import JSON


class Walk(BaseModel):
    """How far each shard is walked, and where that ends."""

    after: dict[str, int]
    ends: dict[str, int]

    @property
    def shard(self) -> str | None:
        """The shard to go on with."""
        return next((each for each, end in self.ends.items() if self.after[each] < end), None)

    def passed(self, shard: str, page: list[JSON], size: int) -> None:
        """Move on behind a page that was asked for with this size."""
        self.after[shard] = page[-1]["_seq_no"] if len(page) == size else self.ends[shard]


def page(
    client: Elasticsearch, index: str, shard: str, walk: Walk, key: str, **search: Any
) -> list[JSON]:
    """The next documents of a shard, which `walk` knows as `key`, with their numbers."""
    return hits(
        client,
        index=index,
        preference=f"_shards:{shard}",
        sort=[{"_seq_no": "asc"}],
        seq_no_primary_term=True,
        query=_query(walk.after[key], walk.ends[key], search.pop("named", None)),
        **search,
    )


def _query(after: int, end: int, named: JSON | None) -> JSON:
    """All documents of these numbers; those that also match `named` say so in `matched_queries`."""
    within: JSON = {"filter": [{"range": {"_seq_no": {"gt": after, "lte": end}}}]}
    if named is not None:
        within["should"] = [{"bool": {"filter": [named], "_name": "named"}}]
    return {"bool": within}


def hits(client: Elasticsearch, **search: Any) -> list[JSON]:
    """Search every shard that is meant.

    Raises:
        Interrupted: one did not answer, and its documents are left out.
    """
    answer = client.search(track_total_hits=False, **search)
    if answer["_shards"]["failed"] or answer["timed_out"]:
        message = f'not every shard of index "{search["index"]}" could be searched'
        raise Interrupted(message)
    found: list[JSON] = answer["hits"]["hits"]
    return found


def identity(hit: JSON) -> tuple[str, str | None]:
    """What tells a document: one `_id` may be there several times under other routings."""
    return hit["_id"], hit.get("_routing")
