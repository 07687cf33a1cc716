"""Where a benchmark takes place: engines of its own, and a folder of migrations for a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from benchmarks.rounds import timed
from dharma_tasks.databases import connect
from dharma_tasks.local import LocalEngines
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Workers

BY_THE_JOURNAL = (
    "the operation's time is the journal's, from its first write for the migration to its last; a "
    "worker carries it out. That of the whole submit is the command's, from its start to its end"
)
"""For the tables."""
_WORKER_SECONDS = 60
"""How long a worker may take to announce itself."""


@dataclass(frozen=True)
class Place:
    """Redis and one database. `factor` makes the work smaller, to try a benchmark."""

    database: str
    engines: LocalEngines
    folder: Path
    factor: float
    rounds: int

    def size(self, count: int) -> int:
        """So much work, or less where it is only tried."""
        return max(round(count * self.factor), 20)

    @cached_property
    def redis(self) -> str:
        """The URL of Redis."""
        return self.engines.environment()["DHARMA_REDIS_URL"]

    @cached_property
    def url(self) -> str:
        """The URL of the database."""
        return self.engines.environment()[f"DHARMA_{self.database.upper()}_URL"]

    def restart(self) -> None:
        """End the database cleanly and start it: it gets slower from round to round."""
        self.engines.stop(self.database)
        self.engines.start(self.database)

    def project(self, name: str, url: str | None = None) -> Project:
        """A new, empty folder of migrations for the database, or for the one at `url`."""
        return Project(self.folder / name, self.database, name, self.redis, url or self.url)


@dataclass(frozen=True)
class Project:
    """A folder of migrations for one database, and the real commands on it."""

    folder: Path
    database: str
    namespace: str
    redis: str
    url: str

    @cached_property
    def settings(self) -> Settings:
        """As the commands have them."""
        return Settings(
            _env_file=None,
            redis_url=SecretStr(self.redis),
            namespace=self.namespace,
            **{f"{self.database}_url": SecretStr(self.url)},  # type: ignore[arg-type]
        )

    @cached_property
    def environment(self) -> dict[str, str]:
        """Of the commands; nothing of the caller's own settings.

        Compiled modules are kept, as wherever it is installed: else each start compiles them.
        """
        left_out = ("DHARMA_", "PYTHONDONTWRITEBYTECODE")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        return {
            **kept,
            "DHARMA_REDIS_URL": self.redis,
            f"DHARMA_{self.database.upper()}_URL": self.url,
            "DHARMA_NAMESPACE": self.namespace,
            "DHARMA_MIGRATIONS_DIR": str(self.folder),
            "DHARMA_LOG_LEVEL": "WARNING",
        }

    def add(self, number: int, sql: str | None = None, **keys: Any) -> str:
        """Write the migration `number`; returns its version."""
        place = self.folder / self.database
        place.mkdir(parents=True, exist_ok=True)
        version = f"1.{number}.0"
        definition = {
            "version": version,
            "name": f"migration_{number}",
            "database_type": self.database,
            "migration_type": "data",
            **keys,
        }
        stem = f"{number:04}_migration_{number}"
        (place / f"{stem}.json").write_text(json.dumps(definition))
        if sql is not None:
            (place / f"{stem}.sql").write_text(sql)
        return version

    def run(self, *arguments: str) -> float:
        """Give one command of `dharma`; the seconds are the whole command's."""
        command = [sys.executable, "-m", "dharma_tasks", *arguments]
        return timed(
            lambda: subprocess.run(
                command, env=self.environment, check=True, stdout=subprocess.DEVNULL
            )
        )

    def submit(self) -> float:
        """Apply what is there, through a worker."""
        return self.run("submit", "--target", "latest")

    def seconds(self, version: str) -> float:
        """How long a migration took by the journal, from its first write to its last."""
        database = connect(self.database, self.settings)
        try:
            found = database.journal.survey().by_version()[version].seconds
        finally:
            database.close()
        return found or 0.0

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """A plain worker with two children, that has announced itself."""
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "dharma_tasks", "worker", "-c", "2"],
                env=self.environment,
                stderr=log,
                stdout=log,
            )
            try:
                workers = Workers(connect_redis(self.settings), self.namespace)
                deadline = time.monotonic() + _WORKER_SECONDS
                while not workers.alive():
                    if process.poll() is not None or time.monotonic() > deadline:
                        log.seek(0)
                        sys.exit(f"the worker did not start:\n{log.read().decode()}")
                    time.sleep(0.1)
                yield process
            finally:
                process.terminate()
                process.wait()
