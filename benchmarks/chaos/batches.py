"""Which batches are begun, and which of them were begun again after a fault.

A worker that loads this module (`celery worker -I benchmarks.chaos.batches`) writes a line to
the file `BATCHES` before each batch: one write to a file, of which the databases see nothing. A
batch of `reindex` is a range of sequence numbers that the server is asked to copy; a successor
that adopts the server's task begins nothing. `BATCHES_RANGE` makes these ranges smaller.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch.journal import ElasticsearchJournal
from dharma_tasks.databases.mongodb.journal import MongodbJournal
from dharma_tasks.databases.mongodb.ranges import MongodbRanges
from dharma_tasks.databases.postgresql.journal import PostgresqlJournal
from dharma_tasks.databases.postgresql.ranges import PostgresqlRanges
from dharma_tasks.journal import Ledger
from dharma_tasks.operations.elasticsearch import ranges
from dharma_tasks.work import Step, Taken

OPEN_RANGES = {"mongodb": 1, "postgresql": 1, "elasticsearch": 2}
"""How many batches of one operation may be under way at once: what one fault may cost."""

PARALLEL = 3
"""Into how many ranges some operations of a campaign are cut."""

OPEN_IN_CAMPAIGN = {"mongodb": PARALLEL, "postgresql": PARALLEL, "elasticsearch": 2}
"""What one fault may cost there."""


class Begun(NamedTuple):
    """A batch that was begun: of which work, how much of that was done, its cursor, by whom.

    `work` is the operation, as a lease names it; a range of a `reindex` is a work of its own.
    """

    work: str
    done: int
    cursor: str
    pid: int

    @property
    def database(self) -> str:
        """Where."""
        return self.work.partition(":")[0]


def read(notes: Path) -> list[Begun]:
    """What was begun so far, in order."""
    if not notes.exists():
        return []
    return [Begun(*json.loads(line)) for line in notes.read_text().splitlines()]


def again(begun: Iterable[Begun]) -> list[Begun]:
    """Those that were begun in vain: later, work began at the same place, or at an earlier one.

    A batch that had no effect yet when its worker died counts as well, so this is an upper bound.
    """
    lowest: dict[str, int] = {}
    places: set[tuple[str, int, str]] = set()
    found = []
    for each in reversed(list(begun)):
        if each[:3] in places or each.done > lowest.get(each.work, each.done):
            found.append(each)
        places.add(each[:3])
        lowest[each.work] = min(each.done, lowest.get(each.work, each.done))
    return found


# -- in a worker ---------------------------------------------------------------------------


def _note(notes: str, work: object, done: int = 0, cursor: object = None) -> None:
    """One write: whoever is killed here leaves a whole line, or none."""
    line = json.dumps([str(work), done, repr(cursor), os.getpid()]) + "\n"
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())
    os.close(file)


def _note_steps(notes: str, owner: type[Ledger[Any]]) -> None:
    original = owner.step

    @wraps(original)
    def wrapped(self: Any, taken: Taken, batch: Callable[[Any], Step], **options: Any) -> Taken:
        def noted(handle: Any) -> Step:
            # The steps of these only look after tasks, or after ranges.
            if taken.assignment.type != "reindex" and not taken.ranges:
                _note(notes, taken.assignment.key, taken.done, taken.cursor)
            return batch(handle)

        return original(self, taken, noted, **options)

    owner.step = wrapped  # type: ignore[method-assign]


def _note_ranges(notes: str) -> None:
    original = Elasticsearch.reindex

    @wraps(original)
    def wrapped(self: Elasticsearch, **options: Any) -> Any:
        # The label: run/operation/fence/tag/range/task.
        _, operation, *_, numbers, _ = self._headers["x-opaque-id"].split("/")
        _note(notes, f"{operation} {numbers}")
        return original(self, **options)

    Elasticsearch.reindex = wrapped  # type: ignore[method-assign]


if "BATCHES" in os.environ:
    for _journal in (MongodbJournal, PostgresqlJournal, ElasticsearchJournal):
        _note_steps(os.environ["BATCHES"], _journal)
    for _ranges in (MongodbRanges, PostgresqlRanges):
        _note_steps(os.environ["BATCHES"], _ranges)
    _note_ranges(os.environ["BATCHES"])
if "BATCHES_RANGE" in os.environ:
    ranges.MOST = int(os.environ["BATCHES_RANGE"])
    ranges.FEWEST = ranges.MOST // 2
