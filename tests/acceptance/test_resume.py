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
from gate import WAITING, Gate
from place import Place, wait_for

from dharma_tasks.local import LocalEngines

WITHIN_A_WORKER = 2.0
"""Seconds to progress when a child of the pool dies, says issue 4."""


@pytest.fixture
def work(place: Place) -> Batched:
    """A batched update that goes on slowly until its end is waited for."""
    place.settings = place.settings.model_copy(update={"lease_seconds": 3.0})
    return Batched(place)


def middle(work: Batched) -> int:
    """Wait until some rows are done, and return the pid of the process that does them."""
    work.in_the_middle()
    return int(wait_for(work.holder, "the lease's holder"))


def assert_each_row_once(work: Batched, submitted: subprocess.Popen[str]) -> None:
    """The submit ends well, now without pauses, and every row is exactly one higher."""
    work.hurry()
    out, err = submitted.communicate(timeout=90)
    assert submitted.returncode == 0, f"{out}\n{err}\n{work.place.logs_text()}"
    work.assert_each_once()
    (migration,) = work.place.status()["postgresql"]["migrations"]
    assert migration["state"] == "applied"
    assert work.holder() is None


def test_pool_child_killed(place: Place, work: Batched) -> None:
    """Kill -9 of the child that works: its neighbour goes on within two seconds."""
    place.start_worker()
    submitted = place.start_submit()
    child = middle(work)
    took = work.progress_after(lambda: os.kill(child, signal.SIGKILL))
    assert took < WITHIN_A_WORKER
    assert_each_row_once(work, submitted)


def test_whole_worker_killed_and_started_again(place: Place, work: Batched) -> None:
    """Kill -9 of the worker's whole process group; a new worker on the node goes on by itself."""
    worker = place.start_worker()
    submitted = place.start_submit()
    middle(work)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    assert work.done() < work.rows
    place.start_worker()
    assert_each_row_once(work, submitted)


def test_told_to_end(place: Place, work: Batched) -> None:
    """SIGTERM, as in a deployment: the batch ends, the rest is handed on, exit status 0."""
    first = place.start_worker()
    submitted = place.start_submit()
    middle(work)
    first.terminate()
    assert first.wait(timeout=15) == 0
    assert work.done() < work.rows
    place.start_worker()
    assert_each_row_once(work, submitted)


def test_frozen_worker_commits_nothing_after_it_wakes(place: Place, work: Batched) -> None:
    """SIGSTOP for longer than the lease; another worker takes over; SIGCONT changes nothing."""
    first = place.start_worker("-Q", "postgresql")
    submitted = place.start_submit()
    frozen = psutil.Process(middle(work))
    family = [psutil.Process(first.pid), *psutil.Process(first.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    place.start_worker()
    wait_for(lambda: work.holder() not in {None, frozen.pid}, "the second worker's lease")
    taken_at = work.done()
    wait_for(lambda: work.done() > taken_at, "the second worker's progress")
    for process in family:
        process.resume()
    assert_each_row_once(work, submitted)
    wait_for(lambda: "stepped_aside" in place.log(0), "the first worker's reason in its log")


def test_killed_in_a_burst_of_small_migrations(place: Place) -> None:
    """The message that comes back is of a migration that is done: what is next goes on at once."""
    count, middle = 60, 30
    gate = Gate(place)
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
        with psycopg.connect(place.url("postgresql")) as connection:
            if connection.execute("SELECT to_regclass('steps')").fetchone() == (None,):
                return 0
            row = connection.execute("SELECT count(*) FROM steps").fetchone()
            return int(row[0]) if row else 0

    def owner() -> Any:
        with psycopg.connect(place.url("postgresql")) as connection:
            query = f"SELECT owner FROM {ours} WHERE version = %s AND owner IS NOT NULL"
            row = connection.execute(query, [f"1.{middle}.0"]).fetchone()
            return row and row[0]

    wait_for(lambda: steps() == middle - 1, "some migrations")
    os.kill(wait_for(owner, "an owner")["pid"], signal.SIGKILL)
    gate.open()
    out, err = submitted.communicate(timeout=90)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    assert steps() == count


def test_redis_restarted(place: Place, work: Batched, engines: LocalEngines) -> None:
    """Redis is killed and started while an operation runs: the same worker goes on, and lives."""
    worker = place.start_worker()
    submitted = place.start_submit()
    middle(work)
    for _ in range(3):
        engines.kill("redis")
        before = work.done()
        engines.start("redis")
        wait_for(lambda before=before: work.done() > before, "progress")  # type: ignore[misc]
    assert_each_row_once(work, submitted)
    assert worker.poll() is None, place.log()
    wait_for(place.alive, "the worker's announcement")


def test_a_journal_that_another_run_has_opened(place: Place, work: Batched) -> None:
    """Law 2: the overtaken run ends and says so; a new submit goes on from the checkpoint."""
    place.start_worker()
    submitted = place.start_submit()
    middle(work)
    head, ours = (f"public.{place.settings.namespace}_{name}" for name in ("head", "operations"))
    with psycopg.connect(work.url) as connection:
        connection.execute(f"UPDATE {head} SET generation = generation + 1, run = 'another'")
        connection.execute(f"UPDATE {ours} SET fence = fence + 1")
    out, err = submitted.communicate(timeout=60)
    assert submitted.returncode == 1
    assert "Submit again" in out + err
    assert_each_row_once(work, place.start_submit())


def test_the_pool_of_threads(place: Place, work: Batched) -> None:
    """The other pool in which the rescue timer fires: SIGTERM, and another worker goes on."""
    first = place.start_worker("--pool", "threads")
    submitted = place.start_submit()
    middle(work)
    first.terminate()
    assert first.wait(timeout=15) == 0
    place.start_worker("--pool", "threads")
    assert_each_row_once(work, submitted)


@pytest.mark.long
def test_told_to_end_in_a_long_statement(place: Place) -> None:
    """SIGTERM in the middle of a file that takes minutes: cancelled, handed on, no attempt."""
    with psycopg.connect(place.url("postgresql")) as connection:
        connection.execute("CREATE TABLE steps (n int)")
    gate = Gate(place)
    place.write(
        "postgresql",
        "001_long",
        {"version": "1.0.0"},
        f"INSERT INTO steps VALUES (1);\n{WAITING}",
    )
    first = place.start_worker()
    submitted = place.start_submit()
    wait_for(gate.backend, "the statement")
    first.terminate()
    assert first.wait(timeout=30) == 0
    assert gate.backend() is None
    place.start_worker()
    wait_for(gate.backend, "the second worker's statement")
    gate.open()
    out, err = submitted.communicate(timeout=60)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    with psycopg.connect(place.url("postgresql")) as connection:
        assert connection.execute("SELECT n FROM steps").fetchall() == [(1,)]
