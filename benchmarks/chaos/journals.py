"""The three journals as an onlooker reads them: with plain clients, several times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Event, Lock, Thread
from typing import Any, NamedTuple

import psycopg
from elastic_transport import TransportError
from elasticsearch import ApiError
from pymongo.errors import PyMongoError

from benchmarks.chaos.ground import DATABASES, Document, Ground

_EVERY = 0.2
"""Seconds between two looks; how exact a time to progress is."""
UNREACHABLE = (psycopg.Error, PyMongoError, TransportError, ApiError)


class Entry(NamedTuple):
    """What one operation's record says."""

    state: str
    done: int
    cursor: str
    fence: int
    attempts: int
    total: int | None


Entries = dict[tuple[str, int], Entry]
"""By version and number."""


class Journals:
    """Reads the operations' records of all three databases."""

    def __init__(self, ground: Ground) -> None:
        """Remember where they are."""
        self._ground = ground
        self._postgresql: psycopg.Connection[Any] | None = None
        self._read: dict[str, Callable[[Iterable[str]], Entries]] = {
            "mongodb": self._mongodb,
            "postgresql": self._of_postgresql,
            "elasticsearch": self._elasticsearch,
        }

    def read(self, database: str, versions: Iterable[str]) -> Entries:
        """The records of these versions. Raises one of `UNREACHABLE`."""
        return self._read[database](versions)

    def _mongodb(self, versions: Iterable[str]) -> Entries:
        operations = self._ground.mongodb.get_default_database()[
            f"{self._ground.namespace}_operations"
        ]
        found = operations.find({"_id.version": {"$in": list(versions)}})
        return {(each["_id"]["version"], each["_id"]["number"]): _entry(each) for each in found}

    def _of_postgresql(self, versions: Iterable[str]) -> Entries:
        if self._postgresql is None or self._postgresql.closed:
            self._postgresql = self._ground.postgresql()
            # Faults are for the workers: this one would be an onlooker's.
            self._postgresql.execute("SET application_name = 'chaos'")
        table = f"public.{self._ground.namespace}_operations"
        connection = self._postgresql
        if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            return {}
        rows = connection.execute(
            "SELECT version, number, state, done, cursor::text, fence, attempts, total"
            f" FROM {table} WHERE version = ANY(%s)",
            [list(versions)],
        ).fetchall()
        return {(row[0], row[1]): Entry(*row[2:]) for row in rows}

    def _elasticsearch(self, versions: Iterable[str]) -> Entries:
        """By their ids, for a search does not see the newest."""
        numbers = range(1, 5)
        keys = {f"{version}#{n}": (version, n) for version in versions for n in numbers}
        client = self._ground.elasticsearch.options(request_timeout=2)
        answer = client.mget(index=f"{self._ground.namespace}_operations", ids=list(keys))
        return {
            keys[each["_id"]]: _entry(each["_source"])
            for each in answer["docs"]
            if each.get("found")
        }


def _entry(record: Document) -> Entry:
    return Entry(
        state=str(record["state"]),
        done=int(record.get("done") or 0),
        cursor=repr(record.get("cursor")),
        fence=int(record.get("fence") or 0),
        attempts=int(record.get("attempts") or 0),
        total=record.get("total"),
    )


Goals = dict[tuple[str, int], str]
"""The states to come to, by version and number."""


def reached(goals: Goals, found: Entries, before: Entries) -> bool:
    """Whether each operation is where it is to be, and not only because it was so before."""
    return all(
        key in found
        and found[key].state == state
        and (key not in before or found[key].fence > before[key].fence)
        for key, state in goals.items()
    )


@dataclass(frozen=True)
class _Look:
    """One successful look at a journal: when it was begun, and what was different then."""

    at: float
    moved: bool
    finished: bool


class Watch:
    """Three threads, one a database, that note when an operation moves on.

    A new fence or attempt is no progress; another cursor, count or state is. A database has
    nothing left to do when each operation is in the state wanted, and was taken for it.
    """

    def __init__(self, ground: Ground) -> None:
        """Begin to look."""
        self._ground = ground
        self._begun = time.monotonic()
        self._goals: dict[str, Goals] = {}
        self._before: dict[str, Entries] = {}
        self._looks: dict[str, list[_Look]] = {name: [] for name in DATABASES}
        self._lock = Lock()
        self._over = Event()
        self._threads = [
            Thread(target=self._run, args=[name], name=f"watch {name}", daemon=True)
            for name in DATABASES
        ]
        for thread in self._threads:
            thread.start()

    def follow(self, goals: dict[str, Goals], before: dict[str, Entries]) -> None:
        """Look at these from now on: by database, what is to be, and what was before."""
        with self._lock:
            self._goals, self._before = goals, before

    def close(self) -> None:
        """End the threads."""
        self._over.set()
        for thread in self._threads:
            thread.join(10)

    def progress(self, databases: Iterable[str], since: float) -> float | None:
        """When one of the databases first moved on after `since`, or had nothing left to do."""
        moments = [self._progress(name, since) for name in databases]
        return min((each for each in moments if each is not None), default=None)

    def moved(self) -> float:
        """When anything moved last, in any database."""
        looks = [look.at for found in self._looks.values() for look in found if look.moved]
        return max(looks, default=self._begun)

    def _progress(self, database: str, since: float) -> float | None:
        """The first look after `since` shows how it stood; a later one that it has moved."""
        baseline = True
        for look in self._looks[database]:
            if look.at < since:
                continue
            if look.finished or (look.moved and not baseline):
                return look.at
            baseline = False
        return None

    def _run(self, database: str) -> None:
        journals = Journals(self._ground)
        before: object = None
        while not self._over.wait(_EVERY):
            with self._lock:
                goals = self._goals.get(database)
                former = self._before.get(database, {})
            if goals is None:
                continue
            at = time.monotonic()
            try:
                found = journals.read(database, {version for version, _ in goals})
            except UNREACHABLE:
                continue
            now = (goals, {key: (e.state, e.done, e.cursor) for key, e in found.items()})
            look = _Look(at, now != before, reached(goals, found, former))
            self._looks[database].append(look)
            before = now
