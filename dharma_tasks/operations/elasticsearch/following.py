"""Catch-up of a reindex: what was written to the source since the first pass, deletes included.

Each shard is read above its mark (FAULTS 1) in passes, each of which finds less to do, until the
difference is small. Deletes leave nothing to be read: where the counts differ, the ids of the
destination are looked up in the source. All of it is done twice. The first round takes as long as
it takes; the second, the last one, has only what was written during the first, and may go under a
write block. There every shard is read to its end, so the destination has all that the source has,
and equal counts prove that it has no more.
"""

from __future__ import annotations

import time

from elasticsearch import Elasticsearch

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import Index
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.operations.elasticsearch.ranges import Following, marks, on, refresh
from dharma_tasks.operations.elasticsearch.walk import Walk, hits, identity, page
from dharma_tasks.operations.elasticsearch.writes import delete_as_read, follow
from dharma_tasks.work import Work

_SMALL = 1000
_PAGE = 1000
_IDS = 5000
_SECONDS = 0.8
_NAMED = 10


def go_on(work: Work[Elasticsearch], pair: Pair, at: Following, *, to_the_end: bool) -> bool:
    """Go on with this round for a moment, moving `at` on; False where it is over.

    `to_the_end` reads all there is, for nothing writes any more.
    """
    dest = pair.check(work.handle)
    if at.shard_behind is not None:
        _read_on(work, pair, at)
    elif at.walk is not None:
        _walk_on(work, pair, at.walk)
        at.walk = at.walk if at.walk.shard is not None else None
    else:
        now = pair.marks(work.handle)
        if not _next_pass(at, now, to_the_end=to_the_end):
            if not _must_look(work.handle, pair, at, now):
                return False
            at.looked, at.walk = True, _begin_walk(work.handle, pair, dest)
    return True


# --- passes ---


def _next_pass(at: Following, now: dict[str, int], *, to_the_end: bool) -> bool:
    """Begin a pass up to `now`, where this round needs one; returns whether it does.

    A round ends with a pass that is small, or not smaller than the one before it: a source that
    is always written to must not keep us for ever.
    """
    new = sum(end - at.marks[shard] for shard, end in now.items())
    if new <= 0 or (at.near and not to_the_end):
        return False
    at.near = new <= _SMALL or (at.new is not None and new >= at.new)
    at.new, at.ends = new, now
    return True


def _read_on(work: Work[Elasticsearch], pair: Pair, at: Following) -> None:
    if at.label != work.label:  # what did not fit may be corrected, which has moved it
        at.ends, at.label = pair.marks(work.handle), work.label
    until = time.monotonic() + _SECONDS
    while (shard := at.shard_behind) is not None and time.monotonic() < until:
        _read_page(work, pair, at, shard)


def _read_page(work: Work[Elasticsearch], pair: Pair, at: Following, key: str) -> None:
    """Read a page of a shard, and write it; what has left the query is deleted."""
    index, _, shard = key.rpartition("/")
    walk, size = Walk(after=at.marks, ends=at.ends), min(work.size, _PAGE)
    search = {"named": pair.query, "source": pair.fields, "version": pair.keeps}
    found = page(work.handle, index, shard, walk, key, size=size, **search)
    wanted: list[JSON] = []
    gone: list[JSON] = []
    for hit in _without_held(work.handle, pair, found):
        matches = pair.query is None or "matched_queries" in hit
        (wanted if matches else gone).append(hit)
    outcome = follow(work, pair, wanted, [] if pair.shared else gone)
    _leave_out(work, pair, at, wanted, outcome.unfit)
    at.dropped += outcome.dropped
    at.followed += len(found)
    walk.passed(key, found, size)
    at.marks = walk.after


def _leave_out(
    work: Work[Elasticsearch], pair: Pair, at: Following, read: list[JSON], unfit: dict[str, str]
) -> None:
    """Note which documents do not fit; of those that did before, the older state goes."""
    ids = {hit["_id"] for hit in read}
    at.unfit = {each: why for each, why in at.unfit.items() if each not in ids} | unfit
    if len(at.unfit) > pair.max_failures:
        named = [f'document "{each}": {why}' for each, why in at.unfit.items()]
        more = "; ..." if len(named) > _NAMED else ""
        what = f"{len(named)} failures while copying to {pair.dest}: {'; '.join(named[:_NAMED])}"
        todo = f"Correct these documents in {pair.source}, or the mapping of {pair.dest}"
        raise OperationFailed(
            f"{what}{more}", f"{todo}; then submit again, which goes on from here"
        )
    if unfit:
        follow(work, pair, [], [hit for hit in read if hit["_id"] in unfit])


def _without_held(client: Elasticsearch, pair: Pair, found: list[JSON]) -> list[JSON]:
    """Those that do not have the id of a document that the destination held before."""
    ids = [hit["_id"] for hit in found]
    if not pair.held or not ids:
        return found
    refresh(client, pair.dest)
    held = {
        identity(hit)
        for shard, mark in pair.before.items()
        for hit in hits(
            client,
            index=pair.dest,
            preference=on(shard),
            query={"bool": {"filter": [{"ids": {"values": ids}}, _up_to(mark)]}},
            size=len(ids),
            source=False,
        )
    }
    return [hit for hit in found if identity(hit) not in held]


def _up_to(mark: int) -> JSON:
    return {"range": {"_seq_no": {"lte": mark}}}


# --- deletes ---


def _must_look(client: Elasticsearch, pair: Pair, at: Following, now: dict[str, int]) -> bool:
    """Whether the ids of the destination are to be looked up in the source, once a round.

    Where the source is written to at this moment the counts prove nothing: the ids are looked up,
    but not in the last round, after which the same would be true again.
    """
    if at.looked or pair.shared:
        return False
    if now != at.marks:
        return not at.last
    expected, there = pair.counts(client)
    unsure = expected is None or pair.held > 0
    return expected != there if not unsure else at.followed > 0


def _begin_walk(client: Elasticsearch, pair: Pair, dest: Index) -> Walk:
    """Begin above where each shard was before: what is there was none of ours."""
    ends = marks(client, dest, "max_seq_no")
    return Walk(after={each: pair.before.get(each, -1) for each in ends}, ends=ends)


def _walk_on(work: Work[Elasticsearch], pair: Pair, walk: Walk) -> None:
    """Delete from the destination what the source has no more."""
    refresh(work.handle, pair.dest)  # what was deleted just before a crash is not found again
    until = time.monotonic() + _SECONDS
    while (shard := walk.shard) is not None and time.monotonic() < until:
        found = page(work.handle, pair.dest, shard, walk, shard, size=_IDS, source=False)
        delete_as_read(work, pair.dest, _gone(work.handle, pair, found))
        walk.passed(shard, found, _IDS)


def _gone(client: Elasticsearch, pair: Pair, found: list[JSON]) -> list[JSON]:
    """Those that the source does not have, or that do not match any more."""
    ids = [hit["_id"] for hit in found]
    alone = len(pair.sources) == 1 and not any("_routing" in hit for hit in found)
    if not ids or (alone and pair.counted(client, ids) == len(ids)):
        return []
    there = {identity(hit) for hit in pair.in_source(client, ids, source=False)}
    return [hit for hit in found if identity(hit) not in there]
