"""The write block on the sources of a reindex, for its last moments.

What it was before is recorded in `undo["blocks"]` before the operation's first change, and the
cursor says that the block may be on (`closed`) before it is: whoever comes next can put it back.
A block that somebody else had set before stays.
"""

from __future__ import annotations

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import Index, recorded, unchanged
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.operations.elasticsearch.server_tasks import walked
from dharma_tasks.work import Work

SETTING = "index.blocks.write"


def is_on(index: Index) -> bool:
    """Whether writes to the index are refused."""
    return index.settings.get(SETTING) == "true"


def are_on(client: Elasticsearch, pair: Pair) -> bool:
    """Whether writes to every source are refused."""
    return all(is_on(unchanged(client, name, uuid)) for name, uuid in pair.sources.items())


def put_on(work: Work[Elasticsearch], pair: Pair) -> None:
    """Refuse writes to the sources, and wait for those that were on their way.

    Raises:
        Interrupted: a shard has not said that it refuses them.
    """
    for name, uuid in pair.sources.items():
        if not is_on(unchanged(work.handle, name, uuid)):
            work.confirm()
            answer = work.handle.indices.add_block(index=name, block="write")
            if not answer["shards_acknowledged"]:
                message = f'not every shard of index "{name}" has blocked writes yet'
                raise Interrupted(message)


def is_still(client: Elasticsearch, pair: Pair) -> bool:
    """Whether every copy of every shard has all that was written before the block."""
    return pair.marks(client) == pair.marks(client, "max_seq_no")


def take_off(work: Work[Elasticsearch]) -> None:
    """Put back what the sources had, where this operation may have blocked them."""
    cursor: JSON = walked(work) or work.cursor or {}
    if not (cursor.get("following") or {}).get("closed"):
        return
    for name, before in work.undo.get("blocks", {}).items():
        found = recorded(work.handle, name, work.undo["sources"][name])
        if before != "true" and found is not None and is_on(found):
            work.confirm()
            work.handle.indices.put_settings(index=name, settings={SETTING: before})
