"""Each engine dies, vanishes or refuses in the middle of an operation: it goes on by itself.

The effects of every operation count themselves, so that one that is lost or doubled shows.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from typing import Any

import psycopg
import pytest
from disturbed import (
    Batched,
    Copied,
    Documents,
    Plain,
    assert_nothing_left,
    assert_undisturbed,
    begin,
    hastened,
    progress,
)
from failing import FailingMongod
from place import Place, wait_for
from pymongo.errors import PyMongoError

from dharma_tasks.databases import NAMES
from dharma_tasks.local import LocalEngines
from dharma_tasks.reading import whereabouts
from dharma_tasks.redis_client import connect_redis


@pytest.fixture
def place(place: Place) -> Place:
    """In a hurry."""
    return hastened(place)


# -- Redis ----------------------------------------------------------------------------------


def test_redis_flushed_in_the_middle(place: Place) -> None:
    """FLUSHALL: the submit says so, the worker stops, a new submit goes on (Law 2, FAULTS 21)."""
    work = Batched(place)
    submitted = begin(place, [work])
    connect_redis(place.settings).flushall()
    out, err = submitted.communicate(timeout=30)
    assert submitted.returncode == 4, f"{out}\n{err}"
    assert "Give the same command again" in out + err
    wait_for(lambda: "not known to Redis any more" in place.log(), "the worker's reason")
    before = work.done()
    assert 0 < before < work.rows
    assert place.status()["postgresql"]["migrations"][0]["state"] == "running"
    wait_for(place.alive, "the worker's announcement")
    assert work.done() == before, "the worker went on without a run"
    again = place.start_submit()
    progress(work, before)
    assert_undisturbed(place, again, work)


def test_two_runs_that_do_not_know_of_each_other(place: Place) -> None:
    """The first run's worker freezes, Redis forgets it, another run begins (FAULTS 8, 21)."""
    work = Batched(place)
    submitted = begin(place, [work])
    first = place.workers[0]
    family = _family(first)
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    connect_redis(place.settings).flushall()
    assert submitted.wait(timeout=30) == 4
    submitted.communicate()
    place.start_worker()
    place.write("postgresql", "002_next", {"version": "1.1.0"}, "CREATE TABLE next (id int);\n")
    again = place.start_submit()
    before = work.done()
    progress(work, before)
    for pid in family:
        os.kill(pid, signal.SIGCONT)
    work.hurry()
    out, err = again.communicate(timeout=90)
    assert again.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    work.assert_applied()
    assert_nothing_left(place)
    states = [migration["state"] for migration in place.status()["postgresql"]["migrations"]]
    assert states == ["applied", "applied"]


def _family(worker: subprocess.Popen[bytes]) -> list[int]:
    import psutil

    return [worker.pid, *(each.pid for each in psutil.Process(worker.pid).children(recursive=True))]


@pytest.mark.long
def test_redis_frozen_for_longer_than_the_lease(place: Place, engines: LocalEngines) -> None:
    """Redis does not answer while an operation runs: it stops, or goes on fenced; then once."""
    work = Batched(place)
    submitted = begin(place, [work])
    redis = engines.pid("redis")
    assert redis is not None
    os.kill(redis, signal.SIGSTOP)
    try:
        wait_for(lambda: "Redis could not be reached" in place.log(), "the worker's reason", 30)
        stopped = work.done()
        assert stopped < work.rows
    finally:
        os.kill(redis, signal.SIGCONT)
    progress(work, stopped)
    assert_undisturbed(place, submitted, work)


# -- the databases' servers -----------------------------------------------------------------


@pytest.mark.long
def test_every_server_killed(place: Place, engines: LocalEngines) -> None:
    """SIGKILL of three servers in the middle of their operations; started; once (FAULTS 5).

    Each says of itself then that it is another one, as a copy of its files would.
    """
    works = (Copied(place), Documents(place), Batched(place))
    before = whereabouts(NAMES, place.settings)
    submitted = begin(place, works)
    try:
        for work in works:
            engines.kill(work.database)
        for work in works:
            wait_for(work.waiting, f"the reason in the progress of {work.database}")
    finally:
        engines.up([work.database for work in works])
    assert_undisturbed(place, submitted, *works)
    after = whereabouts(NAMES, place.settings)
    assert not {*before.values()} & {*after.values()}


def test_plain_file_interrupted(place: Place, engines: LocalEngines) -> None:
    """One long transaction: its backend is terminated, then the whole server; each row once."""
    work = Plain(place)
    submitted = begin(place, [work])
    wait_for(lambda: terminate(work), "a backend at work")
    wait_for(lambda: "57P01" in place.log(), "the first failure")
    work.in_the_middle()
    engines.kill("postgresql")
    try:
        wait_for(lambda: "refused" in (work.waiting() or ""), "the reason in its progress")
    finally:
        engines.start("postgresql")
    assert_undisturbed(place, submitted, work)


def test_backend_terminated(place: Place) -> None:
    """`pg_terminate_backend` in the middle of a batch, three times: each row once."""
    work = Batched(place)
    submitted = begin(place, [work])
    for _ in range(3):
        before = work.done()
        wait_for(lambda: terminate(work), "a backend at work")
        progress(work, before)
    assert_undisturbed(place, submitted, work)
    assert "57P01" in place.log()


def terminate(work: Batched) -> int:
    """End the server process that sleeps in our file; returns how many there were."""
    with psycopg.connect(work.url) as connection:
        return connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE wait_event = 'PgSleep' AND datname = current_database()"
        ).rowcount


def test_primary_steps_down(place: Place) -> None:
    """`replSetStepDown` in the middle of a bulk update: each document once."""
    work = Documents(place)
    submitted = begin(place, [work])
    before = work.done()
    with work.client() as client:
        client.admin.command("replSetStepDown", 1, force=True)
    progress(work, before)
    assert_undisturbed(place, submitted, work)
    assert "PrimarySteppedDown" in place.log() or "InterruptedDueToRepl" in place.log()


@pytest.mark.long
def test_reindex_task_cancelled(place: Place) -> None:
    """Somebody cancels the task on the server: its range is done again (FAULTS 5)."""
    work = Copied(place)
    submitted = begin(place, [work])
    (task,) = work.tasks()
    with work.client() as client:
        client.tasks.cancel(task_id=task, wait_for_completion=True)
    wait_for(lambda: set(work.tasks()) - {task}, "another task")
    assert_undisturbed(place, submitted, work)


# -- MongoDB's transactions -----------------------------------------------------------------


@pytest.mark.long
def test_an_application_writes_one_document_all_the_time(place: Place) -> None:
    """200 writes a second to one document: the update ends, each document once (FAULTS 9)."""
    work = Documents(place)
    stop = threading.Event()
    hits = [0]

    def application() -> None:
        with work.client() as client:
            counters = client.get_default_database()["counters"]
            while not stop.wait(0.005):
                try:
                    counters.update_one({"_id": work.rows // 3}, {"$inc": {"hits": 1}})
                except PyMongoError:
                    continue
                hits[0] += 1

    thread = threading.Thread(target=application)
    thread.start()
    try:
        place.start_worker()
        submitted = place.start_submit()
        wait_for(lambda: work.done() > work.rows // 3, "the batch with this document")
        assert_undisturbed(place, submitted, work)
    finally:
        stop.set()
        thread.join()
    with work.client() as client:
        found = client.get_default_database()["counters"].find_one({"_id": work.rows // 3})
    assert found is not None
    assert found["hits"] == hits[0] > 0
    assert "fault=conflict" in place.log() or '"conflict"' in place.log()


FAILURES: dict[str, dict[str, Any]] = {
    "a write conflict": {"failCommands": ["update"], "errorCode": 112,
                         "errorLabels": ["TransientTransactionError"]},
    "the transaction is gone at its commit": {
        "failCommands": ["commitTransaction"], "errorCode": 251,
        "errorLabels": ["TransientTransactionError"]},
    "the connection is lost at the commit": {
        "failCommands": ["commitTransaction"], "closeConnection": True},
    "committed, but not known to be by a majority": {
        "failCommands": ["commitTransaction"],
        "writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
    "the primary steps down at the commit": {
        "failCommands": ["commitTransaction"], "errorCode": 10107,
        "errorLabels": ["RetryableWriteError"]},
}  # fmt: skip
"""What `failCommand` does to the next commands."""


@pytest.mark.long
def test_transactions_fail(place: Place, failing_mongod: FailingMongod) -> None:
    """Every way in which a transaction fails at its end, several times each: once (Law 3)."""
    failing_mongod.serve(place)
    work = Documents(place)
    submitted = begin(place, [work])
    for data in FAILURES.values():
        before = work.done()
        # Three in a row: the driver tries a commit once more by itself.
        with failing_mongod.fails("failCommand", {"times": 3}, **data):
            progress(work, before)
    assert_undisturbed(place, submitted, work)
