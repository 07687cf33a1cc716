"""Long operations for tests to disturb, one kind for each database: each effect counts itself.

Every one adds 1 to every row or document, or copies each document, with little work for the
processor, and so slowly that the test has ten seconds or more from the first batch on to do what
it wants to (with `Plain`, as long as it likes); then the test says `hurry`. A test whose own
process stands still for longer than that finds the work done, and fails. What is done is read
from the database itself, by a connection of the test's own.
"""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from bson import Code
from elasticsearch import Elasticsearch
from elasticsearch.helpers import bulk
from place import Place, wait_for
from pymongo import MongoClient

from dharma_tasks.databases import connect
from dharma_tasks.databases.base import Fault
from dharma_tasks.lease import Leases
from dharma_tasks.migration import Key
from dharma_tasks.records import MigrationRecord, OperationRecord, Survey
from dharma_tasks.redis_client import connect_redis

LEASE = 2.0


def hastened(place: Place) -> Place:
    """Short leases and batches, so that much happens in little time."""
    hasty = {"lease_seconds": LEASE, "batch_seconds": 0.2}
    place.settings = place.settings.model_copy(update=hasty)
    return place


class Disturbed(ABC):
    """One migration with one long operation, and what is known about it."""

    database: ClassVar[str]
    rows: ClassVar[int]

    def __init__(self, place: Place) -> None:
        """Fill the database and write the migration."""
        self.place = place
        self.fill()

    @property
    def key(self) -> Key:
        """The operation."""
        return Key(database=self.database, version="1.0.0", number=1)

    @property
    def url(self) -> str:
        """The database, without any proxy."""
        return self.place.url(self.database)

    @abstractmethod
    def fill(self) -> None:
        """Make what the operation works on, and the migration."""

    @abstractmethod
    def hurry(self) -> None:
        """Let it go on as fast as it can, from now on."""

    @abstractmethod
    def assert_each_once(self) -> None:
        """Every effect is there, and none twice."""

    # -- the journal, by a connection of the test's own -----------------------------------

    def migration(self) -> MigrationRecord | None:
        """What the journal says of the migration.

        Elasticsearch refuses to read an index that is being made, as the journal's is at first.
        """
        found = connect(self.database, self.place.settings)

        def survey() -> Survey | None:
            try:
                return found.journal.survey()
            except Exception as error:
                if found.classify(error) is Fault.LASTING:
                    raise
                return None

        try:
            read: Survey = wait_for(survey, f"the journal of {self.database}")
            return read.by_version().get("1.0.0")
        finally:
            found.close()

    def operation(self) -> OperationRecord | None:
        """What the journal says of the operation."""
        migration = self.migration()
        return migration.operations[0] if migration and migration.operations else None

    def done(self) -> int:
        """How much of it is done, by the journal."""
        operation = self.operation()
        return operation.done if operation else 0

    def in_the_middle(self) -> int:
        """Wait until some of it is done, and return how much."""
        wait_for(lambda: self.done() > 0, f"the first batches in {self.database}")
        done = self.done()
        assert done < self.rows, "it was over before it could be disturbed"
        return done

    def holder(self) -> int | None:
        """The pid of the process that has the lease."""
        leases = Leases(connect_redis(self.place.settings), self.place.settings.namespace, 3)
        owner = leases.holder(self.key)
        return owner.pid if owner else None

    def assert_applied(self) -> None:
        """Data and journal are as after an undisturbed run."""
        self.assert_each_once()
        migration, operation = self.migration(), self.operation()
        assert migration
        assert operation
        assert (migration.state, operation.state, operation.error) == ("applied", "done", None)
        assert operation.done == self.rows

    def waiting(self) -> str | None:
        """What `status` shows as the reason why it does not move."""
        for snapshot in self.place.runs.open():
            if self.database in snapshot.progress:
                return snapshot.progress[self.database].waiting
        return None


class Batched(Disturbed):
    """PostgreSQL, an UPDATE over ranges of keys."""

    database = "postgresql"
    rows = 20_000
    size = 100

    definition: ClassVar[dict[str, Any]] = {
        "batch": {"table": "counters", "key": "id", "size": size}
    }
    sql = (
        "UPDATE counters SET n = n + 1 FROM (SELECT pg_sleep(seconds) FROM pace) AS slow\n"
        "WHERE id BETWEEN :batch_start AND :batch_end\n"
    )

    def fill(self) -> None:
        """Rows that count."""
        with psycopg.connect(self.url) as connection:
            connection.execute("CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL)")
            connection.execute("CREATE TABLE pace AS SELECT 0.15 AS seconds")
            connection.execute(
                "INSERT INTO counters SELECT i, 0 FROM generate_series(1, %s) i", [self.rows]
            )
        self.place.write("postgresql", "001_count", {"version": "1.0.0", **self.definition},
                         self.sql)  # fmt: skip

    def hurry(self) -> None:
        """No more pauses, from the next batch on."""
        self.pace(0)

    def pace(self, seconds: float) -> None:
        """So long a pause in each batch, from the next one on."""
        with psycopg.connect(self.url) as connection:
            connection.execute("UPDATE pace SET seconds = %s", [seconds])

    def checkpoint(self) -> tuple[int, int]:
        """Fence and rows done, as the journal has them together."""
        with psycopg.connect(self.url) as connection:
            table = f"public.{self.place.settings.namespace}_operations"
            row = connection.execute(f"SELECT fence, done FROM {table}").fetchone()
        assert row
        return int(row[0]), int(row[1])

    def progress_after(self, act: Callable[[], object]) -> float:
        """Act, and return the seconds from then to a checkpoint of whoever takes the work over.

        What the former owner has sent may still be committed, until the fence moves.
        """
        fence, _ = self.checkpoint()
        begun = time.monotonic()
        act()
        _, taken = wait_for(
            lambda: now if (now := self.checkpoint())[0] > fence else None, "a new owner"
        )
        wait_for(lambda: self.checkpoint()[1] > taken, "its first checkpoint")
        return time.monotonic() - begun

    def assert_each_once(self) -> None:
        """Each row is one higher."""
        with psycopg.connect(self.url) as connection:
            counts = connection.execute("SELECT n, count(*) FROM counters GROUP BY n").fetchall()
        assert counts == [(1, self.rows)]


class Plain(Batched):
    """PostgreSQL, a file that is one long transaction."""

    definition: ClassVar[dict[str, Any]] = {}
    sql = (
        "UPDATE counters SET n = n + 1;\n"
        "DO $$ BEGIN WHILE EXISTS (SELECT FROM pace WHERE seconds > 0) LOOP\n"
        "PERFORM pg_sleep(0.1); END LOOP; END $$\n"
    )

    def in_the_middle(self) -> int:
        """Wait until its transaction is open; the journal shows nothing of it."""
        wait_for(self.backend, "the statement")
        return 0

    def backend(self) -> int | None:
        """The server process that sleeps for the file."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
                " AND datname = current_database()"
            ).fetchone()
        return int(row[0]) if row else None

    def assert_applied(self) -> None:
        """As after an undisturbed run; what is done counts statements."""
        self.assert_each_once()
        migration, operation = self.migration(), self.operation()
        assert migration
        assert operation
        assert (migration.state, operation.state, operation.error) == ("applied", "done", None)


class Documents(Disturbed):
    """MongoDB, `$inc` and `$push`, a millisecond for each document, later on two.

    The first batches are the largest; the others take `batch_seconds`.
    """

    database = "mongodb"
    rows = 10_000
    slow = "function(id) { sleep(id < 4000 ? 1 : 2); return true; }"
    more: ClassVar[dict[str, Any]] = {}
    """Of the operation."""

    def fill(self) -> None:
        """Documents that count."""
        with self.client() as client:
            documents = client.get_default_database()["counters"]
            documents.insert_many({"_id": n, "n": 0, "seen": []} for n in range(self.rows))
        self._pace(self.slow)
        operation = {
            "type": "update_documents",
            "collection": "counters",
            "filter": {"$where": "pace(this._id)"},
            "update": {"$inc": {"n": 1}, "$push": {"seen": 1}},
            **self.more,
        }
        self.place.write("mongodb", "001_count", {"version": "1.0.0", "operations": [operation]})

    def client(self) -> MongoClient[dict[str, Any]]:
        """A client of the test's own."""
        return MongoClient(self.url)

    def _pace(self, function: str) -> None:
        """Store the function that the filter calls; the server reads it for each command."""
        with self.client() as client:
            stored = client.get_default_database()["system.js"]
            stored.replace_one({"_id": "pace"}, {"value": Code(function)}, upsert=True)

    def hurry(self) -> None:
        """No more pauses, from the next batch on."""
        self._pace("function() { return true; }")

    def assert_each_once(self) -> None:
        """Each document is one higher, and one longer."""
        with self.client() as client:
            documents = client.get_default_database()["counters"]
            assert documents.count_documents({"n": 1, "seen": [1]}) == self.rows
            assert documents.count_documents({}) == self.rows


class Copied(Disturbed):
    """Elasticsearch, a reindex; the server holds its tasks back from their birth until `hurry`.

    A thousand documents come at once, and then a thousand every two seconds. They are one range.
    """

    database = "elasticsearch"
    rows = 10_000
    rate = 500

    def fill(self) -> None:
        """An index, and an empty one with the same mapping."""
        self._rate = self.place.logs / "rate"
        self._rate.write_text(str(self.rate))
        self.place.injected["throttling"] = str(self._rate)
        self.source, self.dest = (f"{self.place.settings.namespace}-{n}" for n in ("old", "new"))
        mapping = {"properties": {"n": {"type": "integer"}}}
        alone = {"number_of_replicas": 0}
        with self.client() as client:
            for name in (self.source, self.dest):
                client.indices.create(index=name, mappings=mapping, settings=alone)
            bulk(
                client,
                ({"_index": self.source, "_id": str(n), "n": n} for n in range(self.rows)),
                chunk_size=3_000,
            )
        operation = {"type": "reindex", "source": self.source, "dest": self.dest}
        self.place.write(
            "elasticsearch", "001_copy", {"version": "1.0.0", "operations": [operation]}
        )

    def client(self) -> Elasticsearch:
        """A client of the test's own, patient while the server starts."""
        return Elasticsearch(self.url, retry_on_timeout=True, max_retries=5, request_timeout=30)

    def tasks(self) -> list[str]:
        """The ids of the reindex tasks that run on the server."""
        with self.client() as client:
            found = client.tasks.list(actions="indices:data/write/reindex")
        return [task for node in found["nodes"].values() for task in node["tasks"]]

    def started(self) -> list[str]:
        """The ids of the tasks that the workers have started, in order."""
        log = Path(f"{self._rate}.log")
        return log.read_text().split() if log.exists() else []

    def hurry(self) -> None:
        """Let tasks go on as fast as they can, both those that run and those that will."""
        self._rate.unlink(missing_ok=True)
        for task in self.tasks():
            with self.client() as client:
                quiet = client.options(ignore_status=404)  # it may have ended meanwhile
                quiet.reindex_rethrottle(task_id=task, requests_per_second=-1)

    def assert_each_once(self) -> None:
        """Every document is there, as it was; no task is left, and the settings are back."""
        with self.client() as client:
            client.indices.refresh(index=self.dest)
            assert client.count(index=self.dest)["count"] == self.rows
            found = client.search(index=self.dest, aggs={"sum": {"sum": {"field": "n"}}}, size=0)
            assert found["aggregations"]["sum"]["value"] == self.rows * (self.rows - 1) / 2
            settings = client.indices.get_settings(index=self.dest, flat_settings=True)
        assert "index.refresh_interval" not in settings[self.dest]["settings"]
        assert self.tasks() == []


def begin(place: Place, works: Sequence[Disturbed], **environment: str) -> subprocess.Popen[str]:
    """Start a worker and a submit; all of `works` are in the middle then."""
    place.start_worker(**environment)
    submitted = place.start_submit()
    for work in works:
        work.in_the_middle()
    return submitted


def progress(work: Disturbed, before: int) -> None:
    """Wait until more is done than `before`."""
    wait_for(lambda: work.done() > before, f"progress in {work.database}")


def gave_up(place: Place) -> list[str]:
    """What the first worker's log says of operations that it has left to others."""
    return [
        line
        for line in place.log(0).splitlines()
        if ("stepped_aside" in line or "stopped  " in line) and "reason=" in line
    ]


def assert_undisturbed(place: Place, submitted: subprocess.Popen[str], *works: Disturbed) -> None:
    """The submit ends well, all is as after an undisturbed run, and nothing is left over.

    Workers that were not killed by the test live. What is still to do need not be slow.
    """
    for work in works:
        work.hurry()
    out, err = submitted.communicate(timeout=90)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    for work in works:
        work.assert_applied()
    assert_nothing_left(place)
    states = place.status()
    for work in works:
        (migration,) = states[work.database]["migrations"]
        assert migration["state"] == "applied"


def assert_nothing_left(place: Place) -> None:
    """No run is open, no lease is held, and no worker has ended by itself."""
    redis = connect_redis(place.settings)
    assert place.runs.open() == []
    wait_for(lambda: not redis.keys(f"{place.settings.namespace}:lease:*"), "the leases' end", 5)
    for number, worker in enumerate(place.workers):
        assert worker.poll() in {None, -9}, place.log(number)
