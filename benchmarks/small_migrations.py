"""300 small PostgreSQL migrations: a loop of psycopg transactions beside `submit` and a worker.

Both apply the same files, alternately, each time into a new database of the same server; the
ratio of the medians is what counts, since the machine may be busy with other things.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from dharma_tasks.local import LocalEngines
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Workers

MIGRATIONS = 300
ROUNDS = 3
LIMIT = 4.0
"""The largest ratio that the project allows itself."""


def write_migrations(folder: Path) -> list[Path]:
    """Write the files: three statements each. Returns the SQL files in order."""
    database = folder / "postgresql"
    database.mkdir(parents=True)
    files = []
    for number in range(1, MIGRATIONS + 1):
        stem = f"{number:04}_table_{number}"
        definition = {
            "version": f"1.{number}.0",
            "name": f"table_{number}",
            "description": "one of many",
            "database_type": "postgresql",
            "migration_type": "schema",
        }
        (database / f"{stem}.json").write_text(json.dumps(definition))
        path = database / f"{stem}.sql"
        path.write_text(
            f"CREATE TABLE t{number} (id integer PRIMARY KEY, name text);\n"
            f"CREATE INDEX t{number}_name ON t{number} (name);\n"
            f"INSERT INTO t{number} VALUES (1, 'one'), (2, 'two');\n"
        )
        files.append(path)
    return files


@contextmanager
def new_database(admin: str) -> Iterator[str]:
    """A database of its own for one measurement."""
    name = f"bench_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    yield make_conninfo(admin, dbname=name)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def loop(url: str, files: list[Path]) -> float:
    """Apply the files with psycopg, one transaction and one row in a journal for each."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE journal (name text PRIMARY KEY, at timestamptz)")
        begun = time.perf_counter()
        for path in files:
            with connection.transaction():
                connection.execute(path.read_text())
                connection.execute("INSERT INTO journal VALUES (%s, now())", [path.name])
        return time.perf_counter() - begun


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[None]:
    """A plain worker, with one child, that has announced itself."""
    settings = Settings(
        _env_file=None,
        redis_url=SecretStr(environment["DHARMA_REDIS_URL"]),
        namespace=environment["DHARMA_NAMESPACE"],
    )
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "dharma_tasks", "worker", "-c", "2"],
            env=os.environ | environment,
            stderr=log,
            stdout=log,
        )
        try:
            workers = Workers(connect_redis(settings), settings.namespace)
            deadline = time.monotonic() + 30
            while not workers.alive():
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    sys.exit(f"the worker did not start:\n{log.read().decode()}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()
            process.wait()


def submit(environment: dict[str, str], folder: Path) -> float:
    """Apply the folder through the worker; the time is the whole command's."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "dharma_tasks.submit", "--target", "latest", "--migrations", folder],
        env=os.environ | environment,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begun


def measure(engines: LocalEngines, folder: Path) -> tuple[list[float], ...]:
    """Alternate the loop, a submit and a second submit, `ROUNDS` times; whole commands."""
    files = write_migrations(folder)
    environment = engines.environment()
    admin = environment["DHARMA_POSTGRESQL_URL"]
    loops, submits, again = [], [], []
    for number in range(ROUNDS):
        with new_database(admin) as url:
            loops.append(loop(url, files))
        with new_database(admin) as url:
            ours = {
                "DHARMA_REDIS_URL": environment["DHARMA_REDIS_URL"],
                "DHARMA_POSTGRESQL_URL": url,
                "DHARMA_NAMESPACE": f"bench{number}",
                "DHARMA_LOG_LEVEL": "WARNING",
            }
            with worker(ours):
                submits.append(submit(ours, folder))
                again.append(submit(ours, folder))
    return loops, submits, again


def main() -> int:
    """Print the table; 1 where the ratio is above the limit."""
    with tempfile.TemporaryDirectory() as name:
        engines = LocalEngines(Path(name) / "engines")
        engines.up(only=["redis", "postgresql"])
        try:
            loops, submits, again = measure(engines, Path(name) / "migrations")
        finally:
            engines.delete()
    ratio = statistics.median(submits) / statistics.median(loops)
    print(f"{MIGRATIONS} PostgreSQL migrations of three statements, {ROUNDS} rounds, medians")
    measured = {"psycopg loop": loops, "submit": submits, "submit again: nothing to do": again}
    for label, times in measured.items():
        median = statistics.median(times)
        each = f"{1000 * median / MIGRATIONS:5.1f} ms each"
        print(f"  {label:28} {median:6.2f} s  {each}  ({min(times):.2f} to {max(times):.2f} s)")
    print(f"  ratio {ratio:.2f}, at most {LIMIT:g}")
    return int(ratio > LIMIT)
