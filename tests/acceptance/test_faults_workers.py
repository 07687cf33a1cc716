"""Kill -9 at every step, messages that come twice, and an operation that kills its worker.

Issue 4, faults 1, 2, 7 and 8. `injected/killing.py` lets a worker kill itself at a named point.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from disturbed import Batched, Copied
from elasticsearch import Elasticsearch, helpers
from failing import FailingMongod
from gate import WAITING, Gate
from kill_points import Killing
from place import DEADLINE, Place, wait_for
from pymongo import MongoClient

from dharma_tasks.databases import NAMES
from dharma_tasks.identity import is_dead
from dharma_tasks.lease import Held
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.status import look

ROWS = 60
"""Rows of PostgreSQL, and documents of Elasticsearch, of the small mixed run."""
DOCUMENTS = 5_000
"""Documents of MongoDB: more than two batches, which begin with 2,000."""


# -- the place -----------------------------------------------------------------------------


@contextmanager
def postgresql(place: Place) -> Iterator[psycopg.Connection[Any]]:
    """The test's PostgreSQL database; each statement is committed."""
    with psycopg.connect(place.url("postgresql"), autocommit=True) as connection:
        yield connection


@contextmanager
def mongodb(place: Place) -> Iterator[Any]:
    """The test's MongoDB database."""
    with MongoClient[dict[str, Any]](place.url("mongodb")) as client:
        yield client.get_default_database()


@contextmanager
def elasticsearch(place: Place) -> Iterator[Elasticsearch]:
    """The test's Elasticsearch."""
    with Elasticsearch(place.url("elasticsearch")) as client:
        yield client


@pytest.fixture
def killing(place: Place, tmp_path: Path) -> Killing:
    """Nothing is armed yet. A short lease: what is left of a dead worker's is gone soon."""
    place.settings = place.settings.model_copy(update={"lease_seconds": 2.0})
    return Killing(place, tmp_path)


@pytest.fixture
def held(killing: Killing, place: Place) -> Killing:
    """For workers that stand still, and give no sign of life: a lease that outlasts it."""
    place.settings = place.settings.model_copy(update={"lease_seconds": 30.0})
    return killing


def events(place: Place, event: str) -> list[dict[str, Any]]:
    """What the workers have logged under this name (they log JSON)."""
    lines = [json.loads(line) for line in place.logs_text().splitlines() if line[:1] == "{"]
    return [line for line in lines if line["event"] == event]


def leases(place: Place) -> list[Held]:
    """Every lease that is there; one that runs out between two reads is not."""
    redis = connect_redis(place.settings)
    names = redis.keys(f"{place.settings.namespace}:lease:*")
    texts = [text for name in names if (text := redis.get(name))]
    return [Held.model_validate_json(text) for text in texts]


def working(place: Place, *, but: int | None = None) -> int | None:
    """The pid of a live process that has a lease, and is not `but`."""
    pids = {held.holder.pid for held in leases(place) if not is_dead(held.holder)}
    return next(iter(pids - {but}), None)


def ended(place: Place, submitted: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for the submit's end; return what it printed."""
    out, err = submitted.communicate(timeout=120)
    assert submitted.returncode == status, f"{out}\n{err}\n{place.logs_text()}"
    return out


def assert_tidy(place: Place) -> None:
    """Every migration and operation is done, status says so, and nothing is left in Redis."""
    status = look(place.settings, place.folder, send=lambda _: None)
    for name, found in status.databases.items():
        for migration in found.migrations:
            assert migration.state is MigrationState.APPLIED, (name, migration)
            assert {each.state for each in migration.operations} == {OperationState.DONE}
        assert found.run is None
        assert found.progress is None
        assert not found.error
    assert status.runs == []
    assert working(place) is None
    wait_for(lambda: not leases(place), "the leases of the dead to run out", 5)


# -- a small mixed run over the three databases --------------------------------------------


@pytest.fixture
def mixed(place: Place, unique: str) -> Place:
    """Data, and migrations with effects that are wrong when they are made twice."""
    with postgresql(place) as connection:
        connection.execute(
            "CREATE TABLE counters (id int PRIMARY KEY, plain int, batched int, alone int)"
        )
        connection.execute("INSERT INTO counters SELECT i, 0, 0, 0 FROM generate_series(1, 60) i")
    with mongodb(place) as database:
        database["counters"].insert_many({"_id": n, "n": 0} for n in range(DOCUMENTS))
    with elasticsearch(place) as client:
        old = f"{unique}_old"
        client.indices.create(index=old, settings={"number_of_replicas": 0})
        helpers.bulk(
            client, ({"_index": old, "_id": str(n), "n": n} for n in range(ROWS)), refresh=True
        )
    _write_postgresql(place)
    _write_mongodb(place)
    _write_elasticsearch(place, unique)
    return place


def _write_postgresql(place: Place) -> None:
    place.write(
        "postgresql",
        "001_plain",
        {"version": "1.0.0"},
        "UPDATE counters SET plain = plain + 1;\n",
    )
    place.write(
        "postgresql",
        "002_batched",
        {"version": "1.1.0", "batch": {"table": "counters", "key": "id", "size": 20}},
        "UPDATE counters SET batched = batched + 1 WHERE id BETWEEN :batch_start AND :batch_end\n",
    )
    place.write(
        "postgresql",
        "003_alone",
        {"version": "1.2.0", "transactional": False, "dependencies": ["mongodb:1.0.0"]},
        "UPDATE counters SET alone = alone + 1;\n"
        "CREATE INDEX CONCURRENTLY by_alone ON counters (alone);\n"
        "UPDATE counters SET alone = alone + 1;\n",
    )


def _write_mongodb(place: Place) -> None:
    update = {"type": "update_documents", "collection": "counters", "filter": {}}
    index = {"type": "create_index", "collection": "counters", "index": [["n", 1]]}
    once = {**update, "update": {"$inc": {"n": 1}, "$push": {"tags": "once"}}}
    twice = {**update, "update": {"$mul": {"n": 2}, "$push": {"tags": "twice"}}}
    place.write("mongodb", "001_once", {"version": "1.0.0", "operations": [once, index]})
    place.write("mongodb", "002_twice", {"version": "1.1.0", "operations": [twice]})


def _write_elasticsearch(place: Place, unique: str) -> None:
    old, new = f"{unique}_old", f"{unique}_new"
    mapping = {"properties": {"n": {"type": "integer"}}}
    settings = {"number_of_replicas": 0}
    create = {"type": "create_index", "index": new, "mapping": mapping, "settings": settings}
    copy = {"type": "reindex", "source": old, "dest": new}
    alias = {"type": "create_alias", "index": new, "alias": f"{unique}_alias"}
    place.write("elasticsearch", "001_copy", {"version": "1.0.0", "operations": [create, copy]})
    place.write("elasticsearch", "002_alias", {"version": "1.1.0", "operations": [alias]})


def assert_each_effect_once(place: Place, unique: str) -> None:
    """Row by row and document by document what an undisturbed run gives."""
    with postgresql(place) as connection:
        rows = connection.execute("SELECT * FROM counters ORDER BY id").fetchall()
        valid = connection.execute(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index "
            "WHERE indrelid = 'counters'::regclass AND NOT indisprimary"
        ).fetchall()
    assert rows == [(n, 1, 1, 2) for n in range(1, ROWS + 1)]
    assert valid == [("by_alone", True)]
    with mongodb(place) as database:
        documents = list(database["counters"].find().sort("_id"))
        indexes = set(database["counters"].index_information())
    tags = ["once", "twice"]
    assert documents == [{"_id": n, "n": 2, "tags": tags} for n in range(DOCUMENTS)]
    assert indexes == {"_id_", "n_1"}
    assert copied(place, f"{unique}_alias") == {str(n): {"n": n} for n in range(ROWS)}


def copied(place: Place, index: str) -> dict[str, Any]:
    """Every document of an index."""
    with elasticsearch(place) as client:
        client.indices.refresh(index=index)
        return {hit["_id"]: hit["_source"] for hit in helpers.scan(client, index=index)}


# -- between any two steps -----------------------------------------------------------------

OPERATIONS = {
    "postgresql": ("sql", "sql_batch", "sql_statements"),
    "mongodb": ("update_documents", "create_index"),
    "elasticsearch": ("create_index", "reindex", "create_alias"),
}
ONE_STEP = {"postgresql.sql", "elasticsearch.create_index", "elasticsearch.create_alias"}
NOTHING_TO_RECORD = {"postgresql.sql", "postgresql.sql_statements"}


def points(database: str) -> list[str]:
    """Every point between two steps in `database`, for each kind of its operations."""
    once = ("surveyed", "opened", "begun", "leased", "applied")
    found = [f"{point}.{database}" for point in once]
    for kind in OPERATIONS[database]:
        name = f"{database}.{kind}"
        each = ["taken", "batch", "done", "unacknowledged"]
        each += [] if name in NOTHING_TO_RECORD else ["prepared"]
        each += [] if name in ONE_STEP else ["stepped"]
        found += [f"{point}.{name}" for point in each]
    return found + ([] if database == "postgresql" else [f"moved.{database}"])


@pytest.mark.long
def test_child_killed_between_any_two_steps(mixed: Place, killing: Killing, unique: str) -> None:
    """Each step, of each database and operation, kills the child that made it, once (FAULTS 7)."""
    killing.arm(*(point for name in NAMES for point in points(name)), "planned", "confirmed")
    killing.start_worker()
    ended(mixed, mixed.start_submit())
    assert killing.left() == []
    assert_each_effect_once(mixed, unique)
    assert_tidy(mixed)


def test_worker_killed_between_two_steps(mixed: Place, killing: Killing, unique: str) -> None:
    """The same with the whole worker: none is left that could send anything, until the next.

    At last, between a plan with nothing to do and the run's end.
    """
    killing.arm("begun", "applied", what="worker")
    killing.arm("done.mongodb.update_documents", "moved.elasticsearch", what="worker")
    killing.start_worker()
    submitted = mixed.start_submit()
    keep_one_alive(mixed, killing, submitted)
    ended(mixed, submitted)
    assert killing.left() == []
    killing.arm("planned", what="worker")
    submitted = mixed.start_submit()
    keep_one_alive(mixed, killing, submitted)
    assert "Nothing to do" in ended(mixed, submitted)
    assert_each_effect_once(mixed, unique)
    assert_tidy(mixed)


def keep_one_alive(place: Place, killing: Killing, submitted: subprocess.Popen[str]) -> None:
    """Start a new worker whenever the last one is dead, until the submit ends."""
    until = time.monotonic() + 120
    while submitted.poll() is None and time.monotonic() < until:
        if place.workers[-1].poll() is None:
            time.sleep(0.02)
            continue
        kills = len(killing.log())
        try:
            killing.start_worker()
        except AssertionError:  # it was ready, and has killed itself already
            assert len(killing.log()) > kills


# -- in the middle of an operation ---------------------------------------------------------


def kill_child(place: Place) -> float:
    """Kill -9 of the child that works. Returns seconds until another one has the work."""
    killed = wait_for(lambda: working(place), "a lease")
    os.kill(killed, signal.SIGKILL)
    begun = time.monotonic()
    wait_for(lambda: working(place, but=killed), "another child's lease")
    return time.monotonic() - begun


WITHIN_A_WORKER = 2.0
"""Seconds to progress when a child of the pool dies, says issue 4."""


def test_child_killed_in_postgresql(place: Place, killing: Killing) -> None:
    """In a plain migration's long statement, then in a CREATE INDEX CONCURRENTLY (FAULTS 13)."""
    with postgresql(place) as connection:
        connection.execute("CREATE TABLE counters (id int, n int DEFAULT 0)")
        connection.execute("INSERT INTO counters SELECT generate_series(1, 1000)")
    gate = Gate(place)
    place.write(
        "postgresql",
        "001_plain",
        {"version": "1.0.0"},
        f"UPDATE counters SET n = n + 1;\n{WAITING}",
    )
    place.write(
        "postgresql",
        "002_index",
        {"version": "1.1.0", "transactional": False},
        "CREATE INDEX CONCURRENTLY by_n ON counters (n);\n",
    )
    killing.start_worker()
    submitted = place.start_submit()
    with postgresql(place) as looks, postgresql(place) as blocks:

        def builds(phase: str) -> Any:
            query = "SELECT pid FROM pg_stat_progress_create_index WHERE phase LIKE %s"
            return looks.execute(query, [phase]).fetchone()

        first = wait_for(gate.backend, "the long statement")
        blocks.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        blocks.execute("SELECT FROM pg_class")  # an old snapshot, for which the index must wait
        assert kill_child(place) < WITHIN_A_WORKER
        wait_for(lambda: gate.backend() not in {None, first}, "the statement, once more")
        gate.open()
        first = wait_for(lambda: builds("%old snapshots%"), "the index")
        assert kill_child(place) < WITHIN_A_WORKER
        wait_for(lambda: builds("%") not in {None, first}, "the index, once more")
        blocks.execute("COMMIT")
        ended(place, submitted)
        rows = looks.execute("SELECT id, n FROM counters ORDER BY id").fetchall()
        indexes = looks.execute(
            "SELECT indexrelid::regclass::text, indisvalid FROM pg_index "
            "WHERE indrelid = 'counters'::regclass"
        ).fetchall()
    assert rows == [(n, 1) for n in range(1, 1001)]
    assert indexes == [("by_n", True)]
    assert_tidy(place)


def test_child_killed_in_mongodb(
    place: Place, held: Killing, failing_mongod: FailingMongod
) -> None:
    """In a bulk $inc and $push, then in an index build that goes on in the server (FAULTS 6).

    Each kill finds its work standing still: with a batch that is not committed yet, then with
    an index that the server holds half built.
    """
    failing_mongod.serve(place)
    with mongodb(place) as database:
        counters = database["counters"]
        counters.insert_many({"_id": n, "n": 0} for n in range(DOCUMENTS))
        update = {"$inc": {"n": 1}, "$push": {"tags": "once"}}
        bulk = {"type": "update_documents", "collection": "counters", "filter": {}}
        index = {"type": "create_index", "collection": "counters", "index": [["n", 1]]}
        operations = [{**bulk, "update": update}, index]
        place.write("mongodb", "001_bulk", {"version": "1.0.0", "operations": operations})
        step = "mongodb.update_documents"
        held.arm(f"stepped.{step}", what="hold")
        held.start_worker()
        submitted = place.start_submit()
        wait_for(held.log, "the first batch")
        held.arm(f"batch.{step}", what="hold")
        held.disarm(f"stepped.{step}")
        wait_for(lambda: len(held.log()) == 2, "the second batch")
        assert 0 < counters.count_documents({"n": 1}) < DOCUMENTS
        with failing_mongod.fails("hangAfterStartingIndexBuild"):
            assert kill_child(place) < WITHIN_A_WORKER
            held.disarm(f"batch.{step}")
            wait_for(lambda: building(database), "the index build")
            assert kill_child(place) < WITHIN_A_WORKER
            assert building(database), "the server should go on with it"
        ended(place, submitted)
        documents = list(counters.find().sort("_id"))
        indexes = counters.index_information()
    assert documents == [{"_id": n, "n": 1, "tags": ["once"]} for n in range(DOCUMENTS)]
    assert set(indexes) == {"_id_", "n_1"}
    assert_tidy(place)


def building(database: Any) -> bool:
    """Whether the server builds an index."""
    running = database.client.admin.aggregate([{"$currentOp": {"allUsers": True}}])
    return any("Index Build" in each.get("msg", "") for each in running)


@pytest.mark.long
def test_child_killed_in_elasticsearch(place: Place, held: Killing) -> None:
    """A task that is not in the journal yet is ended, one that is is adopted (FAULTS 3).

    The server holds every task back from its birth, so each kill finds one that runs.
    """
    work = Copied(place)
    stepped, batch = "stepped.elasticsearch.reindex", "batch.elasticsearch.reindex"
    held.arm(stepped, what="hold")
    held.start_worker()
    submitted = place.start_submit()
    wait_for(held.log, "the step before that which starts a task")
    held.arm(batch)
    held.disarm(stepped)
    work.in_the_middle()
    assert held.log() == [stepped, batch]
    ended_task, adopted = work.started()
    for kills in (1, 2):
        assert kill_child(place) < WITHIN_A_WORKER
        held.arm(stepped, what="hold")
        wait_for(lambda kills=kills: len(held.log()) == 2 + kills, "a step with the task")  # type: ignore[misc]
        held.disarm(stepped)
        assert work.tasks() == [adopted]
    work.hurry()
    ended(place, submitted)
    assert work.started() == [ended_task, adopted]
    work.assert_applied()
    assert_tidy(place)


# -- how soon there is progress ------------------------------------------------------------


@pytest.fixture
def slow(place: Place, killing: Killing) -> Batched:
    """An update in batches that goes on slowly; the usual leases."""
    place.settings = place.settings.model_copy(update={"lease_seconds": 10.0})
    return Batched(place)


def kill_worker(worker: subprocess.Popen[bytes]) -> None:
    """Kill -9 of the whole process group."""
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


@pytest.mark.alone
def test_only_worker_started_again_and_again(place: Place, killing: Killing, slow: Batched) -> None:
    """Kill -9 of the whole group, twice: progress soon after each start."""
    killing.start_worker()
    submitted = place.start_submit()
    slow.in_the_middle()
    took = []
    for _ in range(2):
        kill_worker(place.workers[-1])
        took.append(slow.progress_after(killing.start_worker))
    assert min(took) < 5, f"{took} s, with the start of Python itself"
    slow.hurry()
    ended(place, submitted)
    slow.assert_each_once()
    assert_tidy(place)


@pytest.mark.long
@pytest.mark.alone
def test_worker_killed_with_another_on_another_node(
    place: Place, killing: Killing, slow: Batched
) -> None:
    """Kill -9 of the whole group: its neighbour cannot see that, and waits for the lease's end."""
    worker = killing.start_worker(KILLING_NODE="first")
    submitted = place.start_submit()
    killing.start_worker("-Q", "postgresql", KILLING_NODE="second")
    slow.in_the_middle()
    took = slow.progress_after(lambda: kill_worker(worker))
    assert leases(place)[0].holder.node == "second"
    assert 8 < took < 15
    slow.hurry()
    ended(place, submitted)
    slow.assert_each_once()
    assert_tidy(place)


# -- messages that come twice, and runs at the same time -----------------------------------

_SEND_THREE_TIMES = """
from dharma_tasks.dispatch import send
from dharma_tasks.messages import operation_chain
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.runs import Runs
from dharma_tasks.settings import settings

runs = Runs(connect_redis(settings()), settings().namespace)
(snapshot,) = runs.open()
send([operation_chain(runs, snapshot.run, snapshot.working["mongodb"])] * 3)
"""


def test_the_same_message_three_times_at_once(mixed: Place, held: Killing, unique: str) -> None:
    """Each duplicate of a chain steps aside, and none fires the next link (FAULTS 17)."""
    held.arm("batch.mongodb.update_documents", what="hold")
    held.start_worker()
    submitted = mixed.start_submit()
    wait_for(held.log, "the first batch")
    subprocess.run([sys.executable, "-c", _SEND_THREE_TIMES], env=mixed.environment, check=True)
    wait_for(lambda: len(aside(mixed)) == 3, "three that step aside")
    held.disarm("batch.mongodb.update_documents")
    ended(mixed, submitted)
    assert len(aside(mixed)) == 3
    begun = [(e["version"], e["operation"]) for e in events(mixed, "started") if of_mongodb(e)]
    assert begun == [("1.0.0", 1), ("1.0.0", 2), ("1.1.0", 1)]
    assert_each_effect_once(mixed, unique)
    assert_tidy(mixed)


def of_mongodb(event: dict[str, Any]) -> bool:
    """Whether it is about an operation of MongoDB."""
    return bool(event["database"] == "mongodb")


def aside(place: Place) -> list[str]:
    """Why duplicates stepped aside."""
    return [event["reason"] for event in events(place, "stepped_aside")]


def test_every_chain_sent_three_times(mixed: Place, killing: Killing, unique: str) -> None:
    """Duplicates race with the first: some find a lease, some an operation that is done."""
    killing.start_worker(KILLING_TIMES="3")
    mixed.submit()
    assert aside(mixed)
    assert_each_effect_once(mixed, unique)
    assert_tidy(mixed)


def test_two_submits_at_the_same_instant(mixed: Place, held: Killing, unique: str) -> None:
    """Of the same folder one joins the other's run; of another folder it waits for its turn."""
    other = replace(mixed, folder=mixed.folder.with_name("other"))
    other.write("postgresql", "000_more", {"version": "0.1.0"}, "CREATE TABLE more ();\n")
    held.arm("batch.mongodb", what="hold")
    held.start_worker()
    both = [mixed.start_submit(), mixed.start_submit()]
    said = [submitted_run(each) for each in both]
    assert said[0] == said[1]
    third = other.start_submit("--allow-out-of-order")
    assert said[0] in next_line(third)
    held.disarm("batch.mongodb")
    assert submitted_run(third) != said[0]
    for each in (*both, third):
        ended(mixed, each)
    assert_each_effect_once(mixed, unique)
    with postgresql(mixed) as connection:
        assert connection.execute("SELECT to_regclass('more') IS NOT NULL").fetchone() == (True,)


def next_line(submitted: subprocess.Popen[str]) -> str:
    """The next line that a submit prints."""
    assert submitted.stdout
    deadline = threading.Timer(DEADLINE, submitted.kill)  # then there is nothing more to read
    deadline.start()
    try:
        line = submitted.stdout.readline()
    finally:
        deadline.cancel()
    assert line, f"the submit ended, or said nothing for {DEADLINE:g} s"
    return line


def submitted_run(submitted: subprocess.Popen[str]) -> str:
    """The run that a submit says that it has submitted or joined."""
    found = re.match(r"(?:Run|Joined run) ([^ :]+)", line := next_line(submitted))
    assert found, line
    return found[1]


@pytest.mark.long
def test_two_runs_on_different_databases(mixed: Place, held: Killing) -> None:
    """One goes its way while the other stands still."""
    held.arm("batch.mongodb", what="hold")
    held.start_worker()
    first = mixed.start_submit("--databases", "mongodb")
    wait_for(held.log, "a batch that stands still")
    mixed.submit("--databases", "elasticsearch")
    assert first.poll() is None
    assert [snapshot.run.databases for snapshot in mixed.runs.open()] == [("mongodb",)]
    held.disarm("batch.mongodb")
    ended(mixed, first)


# -- an operation that kills its worker ----------------------------------------------------


@pytest.mark.long
def test_an_operation_that_kills_its_worker_every_time(
    mixed: Place, killing: Killing, unique: str
) -> None:
    """Stopped after a set number of attempts; the worker lives, other databases are unharmed."""
    killing.arm("batch.mongodb.update_documents", what="child always")
    worker = killing.start_worker(DHARMA_MAX_ATTEMPTS="3")
    failed = ended(mixed, mixed.start_submit(), status=1)
    assert "begun 3 times without any progress" in failed
    assert killing.log() == ["batch.mongodb.update_documents"] * 3
    status = mixed.status()
    states = {m["version"]: m["state"] for m in status["mongodb"]["migrations"]}
    assert states == {"1.0.0": "rolled_back", "1.1.0": "pending"}
    assert "begun 3 times" in status["mongodb"]["migrations"][0]["error"]
    for name in ("postgresql", "elasticsearch"):
        assert {m["state"] for m in status[name]["migrations"]} <= {"applied", "pending"}
    assert worker.poll() is None
    killing.disarm("batch.mongodb.update_documents")
    mixed.submit()
    assert_each_effect_once(mixed, unique)
    assert_tidy(mixed)
