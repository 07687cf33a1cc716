"""Real worker processes and the real commands, on the four real engines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from dharma_tasks.redis_client import connect_redis
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Workers

INJECTED = Path(__file__).parent / "injected"
"""Modules that a worker loads so that it fails, or stands still, where a test needs it."""
DEADLINE = 60.0
"""Seconds after which a condition that a test waits for counts as never coming."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = DEADLINE) -> Any:
    """Wait until `condition` returns something true, and return that."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)
    return found


def _plain(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


@dataclass
class Place:
    """One test's settings, migrations folder and worker processes."""

    settings: Settings
    folder: Path
    logs: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    injected: dict[str, str] = field(default_factory=dict)
    """By name the modules that workers load from now on, of `injected/` or of the project, each
    with the value of the variable in the environment that is named like it.

    They are one `-I`: of several, Celery takes the last."""

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every process of this test."""
        mine = {
            f"DHARMA_{name.upper()}_URL": url.get_secret_value()
            for name in ("mongodb", "postgresql", "elasticsearch", "redis")
            if (url := self.settings.url(name)) is not None
        }
        more = ("api_key", "password", "ca_certs", "client_cert", "client_key", "fingerprint")
        for name in (f"elasticsearch_{each}" for each in more):
            if (value := getattr(self.settings, name)) is not None:
                mine[f"DHARMA_{name.upper()}"] = _plain(value)
        if self.settings.signing_key is not None:
            mine["DHARMA_SIGNING_KEY"] = _plain(self.settings.signing_key)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("DHARMA_")}
        return (
            clean
            | mine
            | {
                "DHARMA_NAMESPACE": self.settings.namespace,
                "DHARMA_LEASE_SECONDS": str(self.settings.lease_seconds),
                "DHARMA_BATCH_SECONDS": str(self.settings.batch_seconds),
                "DHARMA_MIGRATIONS_DIR": str(self.folder),
            }
        )

    def url(self, database: str) -> str:
        """The URL of a database of the test's own, without any proxy."""
        found = self.settings.url(database)
        assert found is not None
        return found.get_secret_value()

    @property
    def runs(self) -> Runs:
        """The runs in this test's namespace."""
        return Runs(connect_redis(self.settings), self.settings.namespace)

    def write(self, database: str, stem: str, definition: dict[str, Any], sql: str = "") -> None:
        """Write a migration file, with what every one of them needs filled in."""
        folder = self.folder / database
        folder.mkdir(parents=True, exist_ok=True)
        common = {
            "name": stem.partition("_")[2],
            "description": "a test's",
            "database_type": database,
            "migration_type": "data",
        }
        (folder / f"{stem}.json").write_text(json.dumps(common | definition))
        if sql:
            (folder / f"{stem}.sql").write_text(sql)

    def start_worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start `celery -A dharma_tasks worker` in a process group of its own."""
        name = f"w{len(self.workers) + 1}"
        if self.injected:
            options = ("-I", ",".join(self.injected), *options)
            path = os.pathsep.join(filter(None, [str(INJECTED), os.environ.get("PYTHONPATH")]))
            mine = {
                module.rpartition(".")[2].upper(): value for module, value in self.injected.items()
            }
            environment = {"PYTHONPATH": path} | mine | environment
        with (self.logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "celery",
                    "-A",
                    "dharma_tasks",
                    "worker",
                    "-n",
                    f"{name}@%h",
                    "-c",
                    "3",
                    *options,
                ],
                env=self.environment | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.workers.append(process)
        wait_for(
            lambda: (
                any(w.name.startswith(f"{name}@") for w in self.alive())
                or process.poll() is not None
            ),
            f"the worker {name}",
        )
        assert process.poll() is None, self.log(len(self.workers) - 1)
        return process

    def alive(self) -> list[Any]:
        """The workers that announce themselves."""
        return Workers(connect_redis(self.settings), self.settings.namespace).alive()

    def log(self, number: int = 0) -> str:
        """What the `number`-th worker has logged."""
        return (self.logs / f"w{number + 1}.log").read_text()

    def submit(self, *options: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `python -m dharma_tasks.submit` to its end."""
        process = self.start_submit(*options)
        out, err = process.communicate(timeout=DEADLINE * 3)
        done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
        if check:
            assert done.returncode == 0, f"{out}\n{err}\n{self.logs_text()}"
        return done

    def start_submit(self, *options: str) -> subprocess.Popen[str]:
        """Start `python -m dharma_tasks.submit` and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "dharma_tasks.submit", "--target", "latest", *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def dharma(
        self, *arguments: str, status: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `dharma ARGUMENTS` to its end, which must have that exit status."""
        done = subprocess.run(
            [sys.executable, "-m", "dharma_tasks", *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=DEADLINE * 3,
            check=False,
        )
        assert done.returncode == status, f"{done.stdout}\n{done.stderr}\n{self.logs_text()}"
        return done

    def status(self) -> dict[str, Any]:
        """What `dharma status --json` says of the databases."""
        databases: dict[str, Any] = json.loads(self.dharma("status", "--json").stdout)["databases"]
        return databases

    def logs_text(self) -> str:
        """What every worker has logged."""
        return "\n".join(self.log(number) for number in range(len(self.workers)))
