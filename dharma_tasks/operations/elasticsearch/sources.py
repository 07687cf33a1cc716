"""What the source of a reindex stands for: an index, an alias or a pattern, looked up once."""

from __future__ import annotations

import time
from collections import Counter

from elasticsearch import Elasticsearch, NotFoundError

from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.elasticsearch.indices import Index, name_problems, require
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.operations.elasticsearch.walk import Walk, page

_LONGEST = 3000
"""Characters of all names: requests name them in their first line, which may have 4096."""
_IDS = 1000
_SECONDS = 3.0
_NAMED = 5


def pattern_problems(place: str, name: str) -> list[Problem]:
    """What Elasticsearch would not take as the name of an index, or as a pattern with `*`."""
    return name_problems(place, name) if name_problems(place, name.replace("*", "x")) else []


def resolve(client: Elasticsearch, name: str, dest: str) -> list[Index]:
    """The indices that a source is now; those that come later are none of it.

    Raises:
        OperationFailed: there is none, the destination is one of them, or an alias shows only a
            part of its indices.
    """
    try:
        answer = client.indices.get(index=name, flat_settings=True).body
    except NotFoundError:
        answer = {}
    if not answer:
        return [require(client, name)]
    if dest in answer:
        what = f'"{name}" has the destination "{dest}" in it'
        raise OperationFailed(what, "Name the indices that are to be copied")
    aliases = [each["aliases"].get(name, {}) for each in answer.values()]
    if any({"filter", "search_routing"} & how.keys() for how in aliases):
        what = f'alias "{name}" shows only a part of its indices'
        raise OperationFailed(what, 'Name an index, and write the filter as its "query"')
    if len(",".join(answer)) > _LONGEST:
        what = f'"{name}" stands for {len(answer)} indices, whose names are too long together'
        raise OperationFailed(what, "Use several reindex operations, each for a part of them")
    return [
        Index(each, found["settings"]["index.uuid"], found["mappings"], found["settings"])
        for each, found in sorted(answer.items())
    ]


def doubles(client: Elasticsearch, pair: Pair) -> list[str]:
    """Ids that several documents of the sources have, as far as a few seconds suffice to see."""
    named: list[str] = []
    marks = pair.marks(client)
    walk, until = Walk(after=dict.fromkeys(marks, -1), ends=marks), time.monotonic() + _SECONDS
    while (key := walk.shard) and time.monotonic() < until and len(named) < _NAMED:
        index, _, shard = key.rpartition("/")
        found = page(client, index, shard, walk, key, size=_IDS, source=False)
        ids = [hit["_id"] for hit in found]
        there = Counter(hit["_id"] for hit in pair.in_source(client, ids, source=False))
        named += [each for each, times in there.items() if times > 1]
        walk.passed(key, found, _IDS)
    return sorted(set(named))[:_NAMED]
