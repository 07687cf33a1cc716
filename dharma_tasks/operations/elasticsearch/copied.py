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

from elasticsearch import Elasticsearch, NotFoundError
from pydantic import Field

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import Index
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.operations.elasticsearch.ranges import marks, refresh
from dharma_tasks.operations.elasticsearch.walk import Walk, identity, page
from dharma_tasks.operations.elasticsearch.writes import delete_as_read
from dharma_tasks.work import Work

_PAGE = 1000
"""As many as the server's own reindex reads at once."""
_NAMED = 5


class Back(Walk):
    """The cursor of the way back: how far each shard is walked, and where that ends."""

    late: bool = False
    """A task wrote after the end of the reindex, which therefore proves nothing."""
    left: int = 0
    """Documents that were copied, and differ from the source by now."""
    named: list[str] = Field(default_factory=list)


def begin(client: Elasticsearch, source: str, dest: Index, before: dict[str, int]) -> Back:
    """Begin the walk, above where each shard was before the reindex."""
    refresh(client, dest.name)
    with suppress(NotFoundError):  # which matters where there is something to compare
        refresh(client, source)
    ends = marks(client, dest, "max_seq_no")
    return Back(after={each: before.get(each, -1) for each in ends}, ends=ends)


def delete_page(
    work: Work[Elasticsearch],
    pair: Pair,
    written: dict[str, int],
    back: Back,
) -> int:
    """Delete what is ours in the next page, moving `back` on; returns how many were looked at.

    `written` is where each shard of the destination was at the end of the reindex, as far as that
    is known. A replay finds what is left of the page.
    """
    shard = back.shard
    if shard is None:
        return 0
    refresh(work.handle, pair.dest)  # what was deleted just before a crash must not be found again
    size = min(work.size, _PAGE)
    hits = page(work.handle, pair.dest, shard, back, shard, size=size)
    there = _in_source(work.handle, pair, [hit["_id"] for hit in hits])
    end = written.get(shard, back.ends[shard])
    ours, left = [], []
    for hit in hits:
        in_time = hit["_seq_no"] <= end
        same = there.get(identity(hit))
        if in_time and same is not None and same == hit["_source"]:
            ours.append(hit)
        elif in_time or same is not None:
            left.append(hit["_id"])
    left += delete_as_read(work, pair.dest, ours)
    back.left += len(left)
    back.named = (back.named + left)[:_NAMED]
    back.passed(shard, hits, size)
    return len(hits)


def _in_source(
    client: Elasticsearch, pair: Pair, ids: list[str]
) -> dict[tuple[str, str | None], JSON]:
    """Those of the documents that a source has, and that would be copied."""
    if not ids:
        return {}
    try:
        return {
            identity(hit): hit["_source"] for hit in pair.in_source(client, ids, source=pair.fields)
        }
    except NotFoundError as error:
        gone, dest = pair.source, pair.dest
        what = f'"{gone}" is gone, so what is in "{dest}" may be the only copy; it is left there'
        todo = f'Make "{gone}" again from "{dest}" or a backup, then roll back again'
        raise OperationFailed(what, todo) from error
