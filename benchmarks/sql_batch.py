"""A batched update of a table beside one plain `UPDATE`, and how long its transactions last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from threading import Event, Thread

import psycopg

from benchmarks.place import BY_THE_JOURNAL, Place
from benchmarks.rounds import measure, timed
from benchmarks.table import Check, Table, Times, compared, ratio
from dharma_tasks.local.seed import seed

DATABASE = "postgresql"
ROWS = 1_000_000
UPDATE = "UPDATE projects SET search_text = lower(title || ' ' || summary)"
BATCHED = f"{UPDATE}\nWHERE id BETWEEN :batch_start AND :batch_end;\n"

PLAIN = "one UPDATE"
OURS, WHOLE = "batched update", "the whole submit of it"

_LONGEST = """
SELECT coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)), 0)::float8
FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_LOOK_SECONDS = 0.02


@contextmanager
def watched(url: str, longest: list[float]) -> Iterator[None]:
    """Add to `longest` how long the longest transaction of all clients lasts meanwhile."""
    over = Event()
    found = [0.0]

    def look() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            while not over.wait(_LOOK_SECONDS):
                row = connection.execute(_LONGEST).fetchone()
                found.append(row[0] if row else 0.0)

    thread = Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        longest.append(max(found))


def run(place: Place) -> Iterator[Table]:
    """One table, which every way goes through once a round; vacuumed before each of them."""
    size = place.size(ROWS)
    project = place.project("batch")
    seed(project.settings, size)
    numbers = count(1)
    longest: list[float] = []

    def cleaned() -> psycopg.Connection:
        connection = psycopg.connect(place.url, autocommit=True)
        connection.execute("VACUUM ANALYZE projects")
        connection.execute("CHECKPOINT")
        return connection

    def plain() -> Times:
        with cleaned() as connection:
            return {PLAIN: [timed(lambda: connection.execute(UPDATE))]}

    def ours() -> Times:
        cleaned().close()
        batch = {"table": "projects", "key": "id"}
        version = project.add(next(numbers), sql=BATCHED, batch=batch)
        with project.worker(), watched(place.url, longest):
            whole = project.submit()
        return {OURS: [project.seconds(version)], WHOLE: [whole]}

    times, loads = measure([plain, ours], place.rounds, place.restart)
    head, rows = compared(times, size, "rows")
    yield Table(
        f"PostgreSQL: an update of {size:,} rows",
        head,
        rows,
        checks=[
            Check(f"speed of the {OURS} to that of {PLAIN}", ratio(times, OURS, PLAIN), 0.8),
            Check("the longest transaction in any round", max(longest), 2, at_most=True, unit=" s"),
        ],
        notes=[
            BY_THE_JOURNAL,
        ],
        loads=loads,
    )
