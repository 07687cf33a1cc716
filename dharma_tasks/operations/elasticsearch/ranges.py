"""The ranges of `_seq_no` that a reindex goes through, and how far it is: its cursor.

Every document has a sequence number, `_seq_no`, counted in each shard; an update gives it a new
one. A range of numbers is therefore a set of documents, and the ranges up to the largest number
of the start are all documents of the start. Ranges are cut one at a time, so that the cursor
stays small however large the index is.
"""

from __future__ import annotations

from typing import Any

from elasticsearch import ConnectionTimeout, Elasticsearch
from pydantic import BaseModel, Field

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import Index

MOST = 50_000
"""Documents in a range: about two seconds of work, which is what a lost task costs."""
FEWEST = 20_000


class Range(BaseModel):
    """Both ends are included. `label` is that of the work which started the task."""

    low: int
    high: int
    header: str = ""
    task: str = ""
    label: str = ""
    tries: int = 0


class Progress(BaseModel):
    """The cursor: the ranges below `next` are done, run now, or must run `again`."""

    marks: dict[str, int]
    """How far each shard was when the last pass began."""
    next: int = 0
    end: int
    width: int = Field(default_factory=lambda: MOST)
    source: int | None
    """Documents to copy, as counted when the last pass began; None where that took too long."""
    extended: str | None = None
    """The label of the work that began a further pass."""
    copied: int = 0
    """Documents that finished ranges have worked through."""
    dropped: int = 0
    """Of these, the ones that an ingest pipeline has dropped."""
    shown: int = 0
    """Documents reported as done, those of running tasks included. It never falls."""
    running: list[Range] = []
    again: list[Range] = []
    written: dict[str, int] | None = None
    """How far each shard of the destination was at the end: whatever we wrote is below."""
    used: list[str] = []
    """Tasks whose results are in this cursor and can be deleted once it is committed."""

    @property
    def ended(self) -> bool:
        """Whether every range is done."""
        return not self.running and not self.again and self.next > self.end


def matching(query: JSON | None, low: int, high: int) -> JSON:
    """The documents of a range, as a query."""
    within = {"range": {"_seq_no": {"gte": low, "lte": high}}}
    return {"bool": {"filter": [within] if query is None else [within, query]}}


def cut(client: Elasticsearch, index: str, query: JSON | None, progress: Progress) -> Range | None:
    """Cut off the next range, moving `progress` on; None where no documents are left.

    Where documents are rare or frequent in the numbers, the width follows.
    """
    shrunk = False
    while progress.next <= progress.end:
        low, high = progress.next, min(progress.next + progress.width - 1, progress.end)
        documents = estimate(client, index, matching(query, low, high))
        if documents == 0:
            progress.next = high + 1
            progress.width *= 2
        elif documents is not None and documents > MOST and progress.width > 1:
            progress.width //= 2
            shrunk = True
        elif documents is not None and documents < FEWEST and high < progress.end and not shrunk:
            progress.width *= 2
        else:
            progress.next = high + 1
            return Range(low=low, high=high)
    return None


def count(client: Elasticsearch, index: str, query: JSON | None = None) -> int:
    """Count documents, as far as they are visible to searches.

    Raises:
        Interrupted: a shard did not answer. The server would leave its documents out, and an
            empty range is skipped.
    """
    answer = client.count(index=index, query=query or {"match_all": {}})
    if answer["_shards"]["failed"]:
        message = f'{answer["_shards"]["failed"]} shards of index "{index}" could not be counted'
        raise Interrupted(message)
    return int(answer["count"])


def estimate(client: Elasticsearch, index: str, query: JSON) -> int | None:
    """Count documents where that is not vital; None where it takes too long."""
    try:
        return count(client, index, query)
    except ConnectionTimeout:
        return None


def marks(client: Elasticsearch, index: Index, kind: str = "global_checkpoint") -> dict[str, int]:
    """How far each shard is: its global checkpoint, up to which every copy has every write.

    Not the largest number that a search finds: one below it may still be on its way (FAULTS 2).
    `max_seq_no` is the largest number that was given to any write so far.

    Raises:
        Interrupted: a shard has no primary that answers.
    """
    answer = client.indices.stats(index=index.name, metric="docs", level="shards")
    shards: dict[str, Any] = answer["indices"].get(index.name, {}).get("shards", {})
    primaries = {
        number: copy["seq_no"][kind]
        for number, copies in shards.items()
        for copy in copies
        if copy["routing"]["primary"]
    }
    if len(primaries) < int(index.settings["index.number_of_shards"]):
        message = f'only the shards {sorted(primaries)} of index "{index.name}" answer'
        raise Interrupted(message)
    return primaries


def refresh(client: Elasticsearch, index: str) -> None:
    """Make every write so far visible to searches.

    Raises:
        Interrupted: not on every shard.
    """
    failed = client.indices.refresh(index=index)["_shards"]["failed"]
    if failed:
        message = f'{failed} shards of index "{index}" could not be refreshed'
        raise Interrupted(message)
