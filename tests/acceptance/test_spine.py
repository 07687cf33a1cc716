"""From a folder of files to three databases, by the commands that README names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from disturbed import Documents, assert_undisturbed, begin, hastened
from elasticsearch import Elasticsearch
from gate import WAITING, Gate
from place import Place, wait_for

from dharma_tasks.databases import NAMES
from dharma_tasks.loader import load
from dharma_tasks.local.seed import seed

EXAMPLE = Path(__file__).parents[2] / "migrations"
EVERYTHING_APPLIED = {name: {"applied"} for name in NAMES}
INDICES = ("projects_v1", "projects_v2", "people_v1")


@pytest.fixture
def example(place: Place) -> Iterator[Place]:
    """The worked example's folder. Its indices' names are not a test's own: none is left."""
    place.folder = EXAMPLE
    with elastic(place) as client:
        quiet = client.options(ignore_status=404)
        for index in INDICES:
            quiet.indices.delete(index=index)
        yield place
        for index in INDICES:
            quiet.indices.delete(index=index)


def elastic(place: Place) -> Elasticsearch:
    """A client of the test's Elasticsearch."""
    assert place.settings.elasticsearch_url is not None
    return Elasticsearch(place.settings.elasticsearch_url.get_secret_value())


def postgresql(place: Place) -> psycopg.Connection[Any]:
    """A connection to the test's PostgreSQL database."""
    assert place.settings.postgresql_url is not None
    return psycopg.connect(place.settings.postgresql_url.get_secret_value())


def states(place: Place) -> dict[str, set[str]]:
    """The states of all migrations, by database."""
    return {
        name: {migration["state"] for migration in found["migrations"]}
        for name, found in place.status().items()
    }


def table(place: Place, number: int, sql: str = "", **more: Any) -> None:
    """Write one small PostgreSQL migration."""
    place.write(
        "postgresql",
        f"{number:03}_step{number}",
        {"version": f"1.{number}.0", **more},
        sql or f"CREATE TABLE step{number} (id int)",
    )


def collection(place: Place, number: int, **more: Any) -> None:
    """Write one small MongoDB migration."""
    operation = {"type": "create_collection", "collection": f"step{number}"}
    place.write(
        "mongodb",
        f"{number:03}_step{number}",
        {"version": f"1.{number}.0", "operations": [operation], **more},
    )


def test_the_example_on_seeded_databases(example: Place) -> None:
    """The demo's path: seed, worker, submit, status; and again: nothing to do."""
    seed(example.settings, size=2_000)
    example.start_worker()
    first = json.loads(example.submit("--json").stdout)
    assert first["state"] == "done"
    assert states(example) == EVERYTHING_APPLIED
    versions = {db: found["current"] for db, found in example.status().items()}
    highest = {m.database: m.version for m in load(EXAMPLE).migrations}
    assert versions == highest
    with elastic(example) as client:
        assert list(client.indices.get_alias(name="projects")) == ["projects_v2"]
        assert client.count(index="projects")["count"] == 2_000
    again = example.submit()
    assert "Nothing to do" in again.stdout


def test_the_example_on_empty_databases_inline(example: Place) -> None:
    """`--inline` runs the same without a worker, and on databases that hold nothing yet."""
    example.submit("--inline")
    assert states(example) == EVERYTHING_APPLIED


def test_split_queues(place: Place) -> None:
    """Workers that serve one database each: confirmed on the other's queue (FAULTS 25)."""
    table(place, 1)
    collection(place, 1, dependencies=["postgresql:1.1.0"])
    table(place, 2, dependencies=["mongodb:1.1.0"])
    place.start_worker("-Q", "mongodb", DHARMA_POSTGRESQL_URL="", DHARMA_ELASTICSEARCH_URL="")
    place.start_worker("-Q", "postgresql", DHARMA_MONGODB_URL="", DHARMA_ELASTICSEARCH_URL="")
    place.submit()
    found = states(place)
    assert found["mongodb"] == found["postgresql"] == {"applied"}


def test_submitter_and_status_need_redis_only(place: Place) -> None:
    """The databases' credentials live with the worker: `status` asks it."""
    table(place, 1)
    place.start_worker()
    only_redis = {k: v for k, v in place.environment.items() if k != "DHARMA_MONGODB_URL"}
    for name in ("POSTGRESQL", "ELASTICSEARCH"):
        only_redis.pop(f"DHARMA_{name}_URL")
    command = [sys.executable, "-m", "dharma_tasks"]
    subprocess.run([*command, "submit"], env=only_redis, check=True, capture_output=True)
    done = subprocess.run(
        [*command, "status", "--json"], env=only_redis, check=True, capture_output=True, text=True
    )
    assert json.loads(done.stdout)["databases"]["postgresql"]["current"] == "1.1.0"


def test_a_failure_shows_the_database_s_own_words(place: Place) -> None:
    """Exit 1; what was applied stays; the rest is named; the corrected file goes on."""
    table(place, 1)
    table(place, 2, "CREATE TABLE step2 (id int);\nSELECT no_such_column FROM step1;\n")
    table(place, 3)
    place.start_worker()
    failed = place.submit(check=False)
    assert failed.returncode == 1
    assert 'column "no_such_column" does not exist' in failed.stdout + failed.stderr
    assert "What was done of it is undone: it is rolled back." in failed.stderr
    assert "1.3.0 step3" in failed.stdout + failed.stderr
    migrations = {m["version"]: m["state"] for m in place.status()["postgresql"]["migrations"]}
    assert migrations == {"1.1.0": "applied", "1.2.0": "rolled_back", "1.3.0": "pending"}
    table(place, 2)
    place.submit()
    assert states(place)["postgresql"] == {"applied"}


def test_refused_before_the_first_write(place: Place) -> None:
    """Exit 2, with file and place and what to do; no journal was made."""
    table(place, 1)
    collection(place, 1, dependencies=["postgresql:9.9.9"])
    table(place, 2, "SELEC 1")
    place.start_worker()
    refused = place.submit(check=False)
    assert refused.returncode == 2
    assert "002_step2.sql" in refused.stdout + refused.stderr
    assert "postgresql:9.9.9" in refused.stdout + refused.stderr
    with postgresql(place) as connection:
        found = connection.execute(
            "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
        ).fetchone()
    assert found == (0,)


@pytest.mark.long
def test_refused_by_the_plan_before_the_first_write(place: Place) -> None:
    """A late version is found by the worker that plans: exit 2, unless it is allowed."""
    table(place, 2)
    place.start_worker()
    place.submit()
    table(place, 1)
    collection(place, 1)
    late = place.submit(check=False)
    assert late.returncode == 2
    assert "1.1.0" in late.stdout + late.stderr
    assert place.status()["mongodb"]["current"] is None
    place.submit("--allow-out-of-order")
    assert states(place)["postgresql"] == {"applied"}


def test_no_worker(place: Place) -> None:
    """Exit 4, and how to start one."""
    table(place, 1)
    done = place.submit(check=False)
    assert done.returncode == 4
    assert "celery -A dharma_tasks worker" in done.stdout + done.stderr


def test_a_database_that_nobody_serves(place: Place) -> None:
    """Exit 2 with its name; `--databases` leaves it out."""
    table(place, 1)
    collection(place, 1)
    place.start_worker(DHARMA_MONGODB_URL="")
    refused = place.submit(check=False)
    assert refused.returncode == 2
    assert "mongodb" in refused.stdout + refused.stderr
    place.submit("--databases", "postgresql")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C reaches what we start, also where a shell runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_join_wait_and_stop_waiting(place: Place) -> None:
    """The same submit joins; another waits for its turn; Ctrl-C and a timeout leave the run."""
    gate = Gate(place)
    table(place, 1, WAITING)
    place.start_worker()
    first = place.start_submit()
    wait_for(place.runs.open, "the run")
    run = place.runs.open()[0].run.id
    joined = place.start_submit()
    timed = place.submit("--timeout", "1", check=False)
    assert timed.returncode == 3
    assert run in timed.stdout + timed.stderr
    other = place.submit("--databases", "postgresql", "--target", "1.0.0", "--timeout", "1",
                         check=False)  # fmt: skip
    assert other.returncode == 3
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=30)
    assert first.returncode == 3
    assert "dharma status" in out + err
    gate.open()
    out, _ = joined.communicate(timeout=60)
    assert joined.returncode == 0
    assert run in out
    assert [migration["state"] for migration in place.status()["postgresql"]["migrations"]] == [
        "applied"
    ]


def test_two_projects_share_the_servers(place: Place) -> None:
    """Another namespace has its own queue, workers and journal, in the same database."""
    table(place, 1)
    place.start_worker()
    place.submit()
    mine = place.settings
    place.settings = mine.model_copy(update={"namespace": mine.namespace + "b"})
    try:
        assert not place.alive()
        table(place, 1, "CREATE TABLE others (id int)")
        place.start_worker()
        place.submit()
        assert place.status()["postgresql"]["current"] == "1.1.0"
    finally:
        place.settings = mine


def test_exactly_once_in_mongodb_after_a_kill(place: Place) -> None:
    """$inc over many documents, the worker's process group killed in the middle."""
    work = Documents(hastened(place))
    submitted = begin(place, [work])
    os.killpg(place.workers[0].pid, signal.SIGKILL)
    place.workers[0].wait()
    assert work.done() < work.rows
    place.start_worker()
    assert_undisturbed(place, submitted, work)
