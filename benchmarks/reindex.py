"""`reindex`, with its further pass and its counting, beside one native `_reindex`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from elasticsearch import Elasticsearch

from benchmarks.place import BY_THE_JOURNAL, Place
from benchmarks.rounds import measure, timed
from benchmarks.table import Check, Table, Times, compared, ratio
from dharma_tasks.local.seed import seed

DATABASE = "elasticsearch"
DOCUMENTS = 500_000
SOURCE, COPY = "projects_v1", "projects_copy"

PLAIN = "one _reindex"
OURS, WHOLE = "reindex", "the whole submit of it"

_LIMIT = (
    "one _reindex uses 1.1 to 1.5 processors, two tasks of ours up to 1.8. Where one of them ends, "
    "the next begins after about a quarter of a second: to see its end, read its result and cut "
    "the next range. Then come the catch-up and the count"
)
_WARM = "before each round the server is started anew, and copies once each way"


def run(place: Place) -> Iterator[Table]:
    """Each way copies the same index into a new one with the same mapping."""
    size = place.size(DOCUMENTS)
    project = place.project("reindex")
    seed(project.settings, size)
    client = Elasticsearch(place.url, request_timeout=3600)
    numbers = count(1)
    mappings = client.indices.get_mapping(index=SOURCE)[SOURCE]["mappings"]

    def new() -> None:
        client.indices.delete(index=COPY, ignore_unavailable=True)
        shape = {"number_of_shards": 1, "number_of_replicas": 0}
        client.indices.create(index=COPY, mappings=mappings, settings=shape)

    def whole() -> None:
        client.indices.refresh(index=COPY)
        found = client.count(index=COPY)["count"]
        if found != size:
            msg = f"{found:,} of {size:,} documents were copied"
            raise RuntimeError(msg)

    def plain() -> Times:
        new()
        seconds = timed(lambda: client.reindex(source={"index": SOURCE}, dest={"index": COPY}))
        whole()
        return {PLAIN: [seconds]}

    def ours() -> Times:
        new()
        operation = {"type": "reindex", "source": SOURCE, "dest": COPY}
        version = project.add(next(numbers), operations=[operation])
        with project.worker():
            submitted = project.submit()
        whole()
        return {OURS: [project.seconds(version)], WHOLE: [submitted]}

    def before() -> None:
        place.restart()
        for way in (plain, ours):  # a new server's first copies are slower than all that follow
            way()

    with client:
        times, loads = measure([plain, ours], place.rounds, before)
    head, rows = compared(times, size, "documents")
    yield Table(
        f"Elasticsearch: a copy of {size:,} documents",
        head,
        rows,
        checks=[Check(f"speed of {OURS} to that of {PLAIN}", ratio(times, OURS, PLAIN), 0.95)],
        notes=[
            BY_THE_JOURNAL,
            f"one shard, no replicas; {_WARM}",
            _LIMIT,
        ],
        loads=loads,
    )
