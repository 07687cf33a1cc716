"""Many PostgreSQL files: `submit` and a worker beside a psycopg loop, alembic and yoyo.

All apply the same files, in turn, each time into a new database of the same server.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from benchmarks import other_tools, sql_files
from benchmarks.place import Place
from benchmarks.rounds import measure
from benchmarks.table import Check, Table, Times, compared, ratio

DATABASE = "postgresql"
SMALL, GROWN = 1_000, 300

LOOP, ALEMBIC, YOYO = "psycopg loop", "alembic", "yoyo"
OURS, AGAIN = "submit", "submit again, nothing to do"

_START = (
    "submit again, nothing to do: what each submit takes to start (Python, its imports, the files "
    "that it reads and checks) and to plan, which no queue could hide"
)
_QUEUE = (
    "the queue's latency is hidden: a task that has ended its migration carries the next small "
    "ones of its database out itself, for up to a second (relay.py). By a profile of the worker "
    "half of what is left is PostgreSQL, a sixth Redis, a twentieth Celery's events"
)


def run(place: Place) -> Iterator[Table]:
    """Whole commands, but for the loop; the worker is up before."""
    small, grown = place.size(SMALL), place.size(GROWN)
    yield _table(place, f"PostgreSQL: {small:,} small migrations", sql_files.small(small))
    yield _table(place, f"PostgreSQL: {grown:,} files of a grown project", sql_files.grown(grown))


def _table(place: Place, title: str, texts: Sequence[str]) -> Table:
    name = f"bench_{uuid.uuid4().hex[:8]}"
    files = other_tools.write(place.folder / f"{name}_sql", texts)
    alembic = other_tools.write_alembic(place.folder / f"{name}_alembic", files)
    url = urlsplit(place.url)._replace(path=f"/{name}").geturl()
    project = place.project(name, url)
    for number, text in enumerate(texts, start=1):
        project.add(number, sql=text)

    def ours() -> Times:
        with project.worker():
            return {OURS: [project.submit()], AGAIN: [project.submit()]}

    ways: list[Callable[[], Times]] = [
        lambda: {LOOP: [other_tools.loop(url, files)]},
        ours,
        lambda: {ALEMBIC: [other_tools.alembic(url, alembic)]},
        lambda: {YOYO: [other_tools.yoyo(url, files[0].parent)]},
    ]
    each = [_in_new_database(place.url, name, way) for way in ways]
    times, loads = measure(each, place.rounds)
    head, rows = compared(times, len(texts), "migrations")
    return Table(
        title,
        head,
        rows,
        checks=[
            Check("time to that of the loop", ratio(times, LOOP, OURS), 4, at_most=True),
            Check("time to that of yoyo", ratio(times, YOYO, OURS), 1, at_most=True),
        ],
        notes=[f"time to that of alembic: {ratio(times, ALEMBIC, OURS):.2f}", _START, _QUEUE],
        loads=loads,
    )


def _in_new_database(admin: str, name: str, way: Callable[[], Times]) -> Callable[[], Times]:
    def run() -> Times:
        with _new_database(admin, name):
            return way()

    return run


@contextmanager
def _new_database(admin: str, name: str) -> Iterator[None]:
    """An empty one for one measurement, of the same name each time."""
    database = sql.Identifier(name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(database))
    try:
        yield
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(database))
