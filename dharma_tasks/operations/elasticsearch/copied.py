"""What a reindex has written, found again in its destination and deleted.

The destination is walked shard by shard along `_seq_no`, which every write of a document moves:

- up to where a shard was before the reindex, documents are none of ours;
- up to where it was at the end of the reindex, they are ours where the source has them just so
  now. What the application changed in the meantime differs, and stays. What it wrote there
  itself, the same as in the source, is taken for ours; the source still has it;
- above that, they are the application's, which has written or changed them since.

Numbers of versions would prove nothing: after a delete they go on for a while.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from elasticsearch import Elasticsearch, NotFoundError
from pydantic import BaseModel

from dharma_tasks.databases.elasticsearch.errors import Interrupted, explain, passes
from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import Index
from dharma_tasks.operations.elasticsearch.ranges import marks, refresh
from dharma_tasks.work import Work

_PAGE = 1000
"""As many as the server's own reindex reads at once."""
_NAMED = 5
_CONFLICT = 409
_MISSING = 404


class Back(BaseModel):
    """The cursor of the way back: how far each shard is walked, and where that ends."""

    after: dict[str, int]
    ends: dict[str, int]
    late: bool = False
    """A task wrote after the end of the reindex, which therefore proves nothing."""
    left: int = 0
    """Documents that were copied, and differ from the source by now."""
    named: list[str] = []

    @property
    def shard(self) -> str | None:
        """The shard to go on with."""
        return next((each for each, end in self.ends.items() if self.after[each] < end), None)


def begin(client: Elasticsearch, source: str, dest: Index, before: dict[str, int]) -> Back:
    """Begin the walk, above where each shard was before the reindex."""
    refresh(client, dest.name)
    with suppress(NotFoundError):  # which matters where there is something to compare
        refresh(client, source)
    ends = marks(client, dest, "max_seq_no")
    return Back(after={each: before.get(each, -1) for each in ends}, ends=ends)


def delete_page(
    work: Work[Elasticsearch],
    source: tuple[str, JSON | None],
    dest: str,
    written: dict[str, int],
    back: Back,
) -> int:
    """Delete what is ours in the next page, moving `back` on; returns how many were looked at.

    `source` is the index and the query of what was copied; `written` is where each shard of the
    destination was at the end of the reindex, as far as that is known. A replay finds what is
    left of the page.
    """
    shard = back.shard
    if shard is None:
        return 0
    refresh(work.handle, dest)  # what was deleted just before a crash must not be found again
    size = min(work.size, _PAGE)
    hits = _page(work.handle, dest, shard, back, size)
    there = _in_source(work.handle, source, dest, [hit["_id"] for hit in hits])
    end = written.get(shard, back.ends[shard])
    ours, left = [], []
    for hit in hits:
        in_time = hit["_seq_no"] <= end
        same = there.get(_key(hit))
        if in_time and same is not None and same == hit["_source"]:
            ours.append(hit)
        elif in_time or same is not None:
            left.append(hit["_id"])
    left += _delete(work, dest, ours)
    back.left += len(left)
    back.named = (back.named + left)[:_NAMED]
    back.after[shard] = hits[-1]["_seq_no"] if len(hits) == size else back.ends[shard]
    return len(hits)


def _page(client: Elasticsearch, dest: str, shard: str, back: Back, size: int) -> list[JSON]:
    return _hits(
        client,
        index=dest,
        preference=f"_shards:{shard}",
        query={"range": {"_seq_no": {"gt": back.after[shard], "lte": back.ends[shard]}}},
        sort=[{"_seq_no": "asc"}],
        seq_no_primary_term=True,
        size=size,
    )


def _in_source(
    client: Elasticsearch, source: tuple[str, JSON | None], dest: str, ids: list[str]
) -> dict[tuple[str, str | None], JSON]:
    """Those of the documents that the source has, and that would be copied."""
    if not ids:
        return {}
    index, query = source
    wanted: list[JSON] = [{"ids": {"values": ids}}, *([query] if query else [])]
    try:
        hits = _hits(client, index=index, query={"bool": {"filter": wanted}}, size=len(ids))
    except NotFoundError as error:
        what = f'"{index}" is gone, so what is in "{dest}" may be the only copy; it is left there'
        todo = f'Make "{index}" again from "{dest}" or a backup, then roll back again'
        raise OperationFailed(what, todo) from error
    return {_key(hit): hit["_source"] for hit in hits}


def _hits(client: Elasticsearch, **search: Any) -> list[JSON]:
    answer = client.search(track_total_hits=False, **search)
    if answer["_shards"]["failed"] or answer["timed_out"]:
        message = f'not every shard of index "{search["index"]}" could be searched'
        raise Interrupted(message)
    hits: list[JSON] = answer["hits"]["hits"]
    return hits


def _delete(work: Work[Elasticsearch], dest: str, ours: list[JSON]) -> list[str]:
    """Delete documents, unless somebody changes them at this moment; returns which those were."""
    if not ours:
        return []
    work.confirm()
    items = work.handle.bulk(index=dest, operations=[_deletion(hit) for hit in ours])["items"]
    changed = []
    for item in items:
        result = item["delete"]
        if result["status"] == _CONFLICT:
            changed.append(result["_id"])
        elif "error" in result and result["status"] != _MISSING:
            message = f'document "{result["_id"]}" of {dest}: {explain(result["error"])}'
            if passes(result["status"], result["error"]):
                raise Interrupted(message)
            raise OperationFailed(message, "Correct the cause, then roll back again")
    return changed


def _deletion(hit: JSON) -> JSON:
    aim: JSON = {
        "_id": hit["_id"],
        "if_seq_no": hit["_seq_no"],
        "if_primary_term": hit["_primary_term"],
    }
    return {"delete": {**aim, "routing": hit["_routing"]} if "_routing" in hit else aim}


def _key(hit: JSON) -> tuple[str, str | None]:
    return hit["_id"], hit.get("_routing")
