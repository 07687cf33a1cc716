"""The ranges of `_seq_no` that an index is gone through in, and how far that is: a cursor.

Every document has a sequence number, `_seq_no`, counted in each shard; an update gives it a new
one. A range of numbers is therefore a set of documents, and the ranges up to the largest number
of the start are all documents of the start. Ranges are cut one at a time, so that the cursor
stays small however large the index is.

Who only reads goes through all shards together. Who writes what he reads gives it new numbers,
which are below the largest one of another shard: he goes through one shard after the other.
"""

from __future__ import annotations

from math import inf
from typing import Any

from elasticsearch import ConnectionTimeout, Elasticsearch
from pydantic import BaseModel, Field

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import Index
from dharma_tasks.operations.elasticsearch.walk import Walk

MOST = 50_000
"""Documents in a range: about two seconds of work, which is what a lost task costs."""
FEWEST = 20_000
_LAST = 10_000
"""Numbers in one of the last ranges. They are narrow, so that tasks end at about the same time."""


class Range(BaseModel):
    """Both ends are included. `label` is that of the work which started the task."""

    low: int
    high: int
    shard: str | None = None
    header: str = ""
    task: str = ""
    label: str = ""
    tries: int = 0


class Following(BaseModel):
    """The cursor of a catch-up (`following.py`)."""

    marks: dict[str, int]
    """How far each shard of the source has been read."""
    ends: dict[str, int] = {}
    """Where the pass that goes on ends; empty between passes."""
    new: int | None = None
    """How many numbers the last pass had before it."""
    label: str = ""
    """That of the work which said where the pass ends."""
    near: bool = False
    """Whether that was the last pass of this round."""
    walk: Walk | None = None
    """How far the destination's ids are looked up in the source."""
    looked: bool = False
    """Whether they were, in this round."""
    last: bool = False
    """Whether this is the second round."""
    closed: bool = False
    """Whether a write block of ours may be on the source."""
    proven: bool = False
    """Whether the destination was found to be the same; aliases may have moved since."""
    followed: int = 0
    """Documents read in the passes."""
    dropped: int = 0
    """Of these, the ones that an ingest pipeline has dropped."""
    unfit: dict[str, str] = {}
    """Documents that the destination does not take, by id, and why."""

    def begin_last(self, *, closed: bool) -> None:
        """Begin the second round."""
        self.last, self.closed = True, closed
        self.near, self.new, self.looked = False, None, False

    @property
    def left(self) -> int:
        """How many numbers this pass still has before it."""
        return sum(end - self.marks[each] for each, end in self.ends.items())

    @property
    def shard_behind(self) -> str | None:
        """The shard of the source that this pass goes on with."""
        return next((each for each, end in self.ends.items() if self.marks[each] < end), None)


class Progress(BaseModel):
    """The cursor: the ranges below `next` are done, run now, or must run `again`."""

    marks: dict[str, int]
    """How far each shard was when the last pass began."""
    next: int = 0
    end: int
    shard: str | None = None
    """The shard that `next` and `end` are of; None for all of them together."""
    shards: list[str] = []
    """Those that come after it."""
    width: int = Field(default_factory=lambda: MOST)
    source: int | None
    """Documents to work through, as counted when a pass began; None where that took too long."""
    left: int | None = None
    """The first number of the ranges that are left to the catch-up: documents failed in them."""
    following: Following | None = None
    """What comes after the ranges, where the source is followed."""
    extended: str | None = None
    """The label of the work that began a further pass."""
    copied: int = 0
    """Documents that finished ranges have worked through."""
    dropped: int = 0
    """Of these, the ones that an ingest pipeline has dropped."""
    conflicts: int = 0
    """Of these, the ones that were not written, for somebody else had written them."""
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
        left = self.running or self.again or self.shards
        return not left and self.next > self.end


def matching(query: JSON | None, low: int, high: int) -> JSON:
    """The documents of a range, as a query."""
    within = {"range": {"_seq_no": {"gte": low, "lte": high}}}
    return {"bool": {"filter": [within] if query is None else [within, query]}}


def cut(  # noqa: PLR0913 - given by name
    client: Elasticsearch,
    index: str,
    query: JSON | None,
    progress: Progress,
    *,
    most: float = inf,
    at_once: int = 1,
) -> Range | None:
    """Cut off the next range, moving `progress` on; None where no documents are left.

    It has no more than `most` documents, as far as that can be counted. `at_once` is how many are
    worked through at the same time.
    """
    found = _cut(client, index, query, progress, most, at_once)
    while found is None and progress.shards:
        progress.shard = progress.shards.pop(0)
        progress.next, progress.end = 0, progress.marks[progress.shard]
        found = _cut(client, index, query, progress, most, at_once)
    return found


def _cut(  # noqa: PLR0913, PLR0917 - those of `cut`
    client: Elasticsearch,
    index: str,
    query: JSON | None,
    progress: Progress,
    most: float,
    at_once: int,
) -> Range | None:
    """The next range of this shard. Its width follows where documents are rare or frequent."""
    shrunk, most = False, min(MOST, most)
    fewest = FEWEST * most / MOST
    while progress.next <= progress.end:
        low = progress.next
        last = max(_LAST, (progress.end - low + 1) // (2 * at_once))
        high = min(low + min(progress.width, last) - 1, progress.end)
        documents = estimate(client, index, matching(query, low, high), progress.shard)
        if documents == 0:
            progress.next = high + 1
            progress.width *= 2
        elif documents is not None and documents > most and progress.width > 1:
            progress.width = max(1, min(progress.width, last) // 2)
            shrunk = True
        elif (
            documents is not None
            and documents < fewest
            and progress.width <= last
            and high < progress.end
            and not shrunk
        ):
            progress.width *= 2
        else:
            progress.next = high + 1
            return Range(low=low, high=high, shard=progress.shard)
    return None


def count(
    client: Elasticsearch, index: str, query: JSON | None = None, shard: str | None = None
) -> int:
    """Count documents, of one shard or all, as far as they are visible to searches.

    Raises:
        Interrupted: a shard did not answer. The server would leave its documents out, and an
            empty range is skipped.
    """
    where = query or {"match_all": {}}
    answer = client.count(index=index, query=where, preference=on(shard))
    if answer["_shards"]["failed"]:
        message = f'{answer["_shards"]["failed"]} shards of index "{index}" could not be counted'
        raise Interrupted(message)
    return int(answer["count"])


def estimate(
    client: Elasticsearch, index: str, query: JSON, shard: str | None = None
) -> int | None:
    """Count documents where that is not vital; None where it takes too long."""
    try:
        return count(client, index, query, shard)
    except ConnectionTimeout:
        return None


def on(shard: str | None) -> str | None:
    """The `preference` of a request that is for one shard, or for all."""
    return None if shard is None else f"_shards:{shard}"


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
