"""Workers are killed, frozen or told to end while they work: the work goes on, each row once.

The issue on faults has the full set; these are the ones that the spine stands on.
"""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import psutil
import psycopg
import pytest
from disturbed import Batched
from place import Place, wait_for

from dharma_tasks.local import LocalEngines
from dharma_tasks.migration import Key

ROWS = Batched.rows
WITHIN_A_WORKER = 2.0
"""Seconds to progress when a child of the pool dies, says issue 4."""
KEY = Key(database="postgresql", version="1.0.0", number=1)


def url(place: Place) -> str:
    """The test's PostgreSQL database."""
    assert place.settings.postgresql_url is not None
    return place.settings.postgresql_url.get_secret_value()


@pytest.fixture
def work(place: Place) -> Batched:
    """A batched update that goes on slowly until its end is waited for."""
    place.settings = place.settings.model_copy(update={"lease_seconds": 3.0})
    return Batched(place)


@pytest.fixture
def bulk(work: Batched) -> Place:
    """The place of that update."""
    return work.place


WAITING = """
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.05); END LOOP;
END $$
"""


def waiting(place: Place) -> bool:
    """Whether the server carries out `WAITING`."""
    with psycopg.connect(url(place)) as connection:
        query = "SELECT FROM pg_stat_activity WHERE query LIKE %s AND pid <> pg_backend_pid()"
        ours = f"{query} AND state = 'active' AND datname = current_database()"
        return connection.execute(ours, ["%FROM go%"]).fetchone() is not None


def go(place: Place) -> None:
    """Let `WAITING` end."""
    with psycopg.connect(url(place)) as connection:
        connection.execute("INSERT INTO go DEFAULT VALUES")


def done(place: Place) -> int:
    """How many rows the journal says are done."""
    with psycopg.connect(url(place)) as connection:
        table = f"public.{place.settings.namespace}_operations"
        if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() == (None,):
            return 0
        row = connection.execute(f"SELECT done FROM {table}").fetchone()
        return int(row[0]) if row else 0


def holder(place: Place) -> int | None:
    """The pid of the process that has the lease, once it is well into its work."""
    from dharma_tasks.lease import Leases
    from dharma_tasks.redis_client import connect_redis

    leases = Leases(connect_redis(place.settings), place.settings.namespace, 3)
    owner = leases.holder(KEY)
    return owner.pid if owner else None


def middle(place: Place) -> int:
    """Wait until some rows are done, and return the pid of the process that does them."""
    wait_for(lambda: done(place) >= 3 * Batched.size, "some batches")
    assert done(place) < ROWS
    return int(wait_for(lambda: holder(place), "the lease's holder"))


def assert_each_row_once(place: Place, submitted: subprocess.Popen[str]) -> None:
    """The submit ends well, now without pauses, and every row is exactly one higher."""
    with psycopg.connect(url(place)) as connection:
        connection.execute("UPDATE pace SET seconds = 0")
    out, err = submitted.communicate(timeout=90)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    with psycopg.connect(url(place)) as connection:
        counts = connection.execute("SELECT n, count(*) FROM counters GROUP BY n").fetchall()
    assert counts == [(1, ROWS)]
    (migration,) = place.status()["postgresql"]["migrations"]
    assert migration["state"] == "applied"
    assert holder(place) is None


def test_pool_child_killed(bulk: Place, work: Batched) -> None:
    """Kill -9 of the child that works: its neighbour goes on within two seconds."""
    bulk.start_worker()
    submitted = bulk.start_submit()
    child = middle(bulk)
    took = work.progress_after(lambda: os.kill(child, signal.SIGKILL))
    assert took < WITHIN_A_WORKER
    assert_each_row_once(bulk, submitted)


def test_whole_worker_killed_and_started_again(bulk: Place) -> None:
    """Kill -9 of the worker's whole process group; a new worker on the node goes on by itself."""
    worker = bulk.start_worker()
    submitted = bulk.start_submit()
    middle(bulk)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert done(bulk) < ROWS
    bulk.start_worker()
    assert_each_row_once(bulk, submitted)


def test_told_to_end(bulk: Place) -> None:
    """SIGTERM, as in a deployment: the batch ends, the rest is handed on, exit status 0."""
    first = bulk.start_worker()
    submitted = bulk.start_submit()
    middle(bulk)
    first.terminate()
    assert first.wait(timeout=15) == 0
    assert done(bulk) < ROWS
    bulk.start_worker()
    assert_each_row_once(bulk, submitted)


def test_frozen_worker_commits_nothing_after_it_wakes(bulk: Place) -> None:
    """SIGSTOP for longer than the lease; another worker takes over; SIGCONT changes nothing."""
    first = bulk.start_worker("-Q", "postgresql")
    submitted = bulk.start_submit()
    frozen = psutil.Process(middle(bulk))
    family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    bulk.start_worker()
    wait_for(lambda: holder(bulk) not in {None, frozen.pid}, "the second worker's lease")
    taken_at = done(bulk)
    wait_for(lambda: done(bulk) > taken_at, "the second worker's progress")
    for process in family:
        process.resume()
    assert_each_row_once(bulk, submitted)
    wait_for(lambda: "stepped_aside" in bulk.log(0), "the first worker's reason in its log")


def test_killed_in_a_burst_of_small_migrations(place: Place) -> None:
    """The message that comes back is of a migration that is done: what is next goes on at once."""
    count, middle = 60, 30
    with psycopg.connect(url(place)) as connection:
        connection.execute("CREATE TABLE go ()")
    for number in range(1, count + 1):
        place.write(
            "postgresql",
            f"{number:03}_step{number}",
            {"version": f"1.{number}.0"},
            f"CREATE TABLE IF NOT EXISTS steps (n int);\nINSERT INTO steps VALUES ({number});\n"
            + (WAITING if number == middle else ""),
        )
    place.start_worker()
    submitted = place.start_submit()
    ours = f"public.{place.settings.namespace}_operations"

    def steps() -> int:
        with psycopg.connect(url(place)) as connection:
            if connection.execute("SELECT to_regclass('steps')").fetchone() == (None,):
                return 0
            row = connection.execute("SELECT count(*) FROM steps").fetchone()
            return int(row[0]) if row else 0

    def owner() -> Any:
        with psycopg.connect(url(place)) as connection:
            query = f"SELECT owner FROM {ours} WHERE version = %s AND owner IS NOT NULL"
            row = connection.execute(query, [f"1.{middle}.0"]).fetchone()
            return row and row[0]

    wait_for(lambda: steps() == middle - 1, "some migrations")
    os.kill(wait_for(owner, "an owner")["pid"], signal.SIGKILL)
    go(place)
    out, err = submitted.communicate(timeout=90)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    assert steps() == count


def test_redis_restarted(bulk: Place, engines: LocalEngines) -> None:
    """Redis is killed and started while an operation runs: the same worker goes on, and lives."""
    worker = bulk.start_worker()
    submitted = bulk.start_submit()
    middle(bulk)
    for _ in range(3):
        engines.kill("redis")
        before = done(bulk)
        engines.start("redis")
        wait_for(lambda before=before: done(bulk) > before, "progress")  # type: ignore[misc]
    assert_each_row_once(bulk, submitted)
    assert worker.poll() is None, bulk.log()
    wait_for(bulk.alive, "the worker's announcement")


def test_a_journal_that_another_run_has_opened(bulk: Place) -> None:
    """Law 2: the overtaken run ends and says so; a new submit goes on from the checkpoint."""
    bulk.start_worker()
    submitted = bulk.start_submit()
    middle(bulk)
    head, ours = (f"public.{bulk.settings.namespace}_{name}" for name in ("head", "operations"))
    with psycopg.connect(url(bulk)) as connection:
        connection.execute(f"UPDATE {head} SET generation = generation + 1, run = 'another'")
        connection.execute(f"UPDATE {ours} SET fence = fence + 1")
    out, err = submitted.communicate(timeout=60)
    assert submitted.returncode == 1
    assert "Submit again" in out + err
    assert_each_row_once(bulk, bulk.start_submit())


def test_the_pool_of_threads(bulk: Place) -> None:
    """The other pool in which the rescue timer fires: SIGTERM, and another worker goes on."""
    first = bulk.start_worker("--pool", "threads")
    submitted = bulk.start_submit()
    middle(bulk)
    first.terminate()
    assert first.wait(timeout=15) == 0
    bulk.start_worker("--pool", "threads")
    assert_each_row_once(bulk, submitted)


def test_told_to_end_in_a_long_statement(place: Place) -> None:
    """SIGTERM in the middle of a file that takes minutes: cancelled, handed on, no attempt."""
    with psycopg.connect(url(place)) as connection:
        connection.execute("CREATE TABLE go (); CREATE TABLE steps (n int)")
    place.write(
        "postgresql",
        "001_long",
        {"version": "1.0.0"},
        f"INSERT INTO steps VALUES (1);\n{WAITING}",
    )
    first = place.start_worker()
    submitted = place.start_submit()
    wait_for(lambda: waiting(place), "the statement")
    first.terminate()
    assert first.wait(timeout=30) == 0
    assert not waiting(place)
    place.start_worker()
    wait_for(lambda: waiting(place), "the second worker's statement")
    go(place)
    out, err = submitted.communicate(timeout=60)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    with psycopg.connect(url(place)) as connection:
        assert connection.execute("SELECT n FROM steps").fetchall() == [(1,)]
