"""A worker and Flower beside the local engines, as a team would start them."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

from pydantic import BaseModel
from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from dharma_tasks.local import processes
from dharma_tasks.local.account import CALLER
from dharma_tasks.local.base import HOST
from dharma_tasks.local.processes import Identity

_PATIENCE = 60
"""Seconds until worker and Flower must answer, and until they must have ended."""
_LOG_LINES = 40
_FLOWER = Path("workers", "flowerconfig.py")
"""As the project's own Flower is started; found where make runs."""


class CrewError(Exception):
    """A process does not run or does not answer; the message holds the end of its log."""


class Door(NamedTuple):
    """Flower's address, and how to log in."""

    url: str
    user: str
    password: str

    def __str__(self) -> str:
        return f"{self.url}/migrations (user {self.user}, password {self.password})"


class _Records(BaseModel):
    """What runs, for the command that ends it: DIR/crew.json."""

    player: Identity | None = None
    worker: Identity | None = None
    flower: Identity | None = None
    flower_port: int | None = None
    flower_login: str | None = None


class Crew:
    """Worker and Flower of one folder. They go on running when this process ends.

    They work in that folder, so that a `.env` in the project says nothing to them.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._environment = {**os.environ, **(variables or {})}
        self._file = folder / "crew.json"

    def claim(self) -> None:
        """Note that this process plays here.

        Raises:
            CrewError: another one does, and lives.
        """
        other, own = self._records().player, processes.identify(os.getpid())
        if other is not None and other != own and processes.alive(other):
            message = f"A demo runs in {self.folder} already, as process {other.pid}."
            raise CrewError(message)
        self._write(player=own)

    def up(self) -> Door:
        """Start what does not run, wait until both answer, and say where Flower is.

        Raises:
            CrewError: one of them ended, or does not answer.
        """
        if not processes.alive(self._records().worker):
            self._write(worker=self._launch("worker", "--task-events", "--loglevel", "INFO"))
        if not processes.alive(self._records().flower):
            port = processes.free_port(set())
            conf = [f"--conf={_FLOWER.resolve()}"] if _FLOWER.exists() else []
            # Other people's programs on this machine reach the port too.
            login = f"demo:{secrets.token_hex(4)}"
            self._environment["FLOWER_BASIC_AUTH"] = login
            flower = self._launch("flower", *conf, f"--address={HOST}", f"--port={port}")
            self._write(flower=flower, flower_port=port, flower_login=login)
        self._await("worker", self._worker_answers)
        return self.flower()

    def flower(self) -> Door:
        """Where Flower is, once it answers there."""
        self._await("flower", self._flower_answers)
        records = self._records()
        user, _, password = (records.flower_login or "").partition(":")
        return Door(f"http://{HOST}:{records.flower_port}", user, password)

    def run(self, *arguments: str) -> int:
        """Run `python -m ARGUMENTS` with the terminal its own, and return its exit status."""
        return self._run(arguments, None)

    def down(self) -> list[str]:
        """End what runs, the worker after its batch, and return the names."""
        records = self._records()
        running = {
            name: process
            for name, process in (("flower", records.flower), ("worker", records.worker))
            if process is not None and processes.alive(process)
        }
        for process in running.values():
            processes.end(process, signal.SIGTERM, _PATIENCE)
        self._file.unlink(missing_ok=True)
        return list(running)

    def log_tail(self, name: str) -> str:
        """Return the end of a log, to show beside an error."""
        log = self._log(name)
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return "\n".join([f"The end of {log}:", *(f"    {line}" for line in lines[-_LOG_LINES:])])

    def _launch(self, name: str, *options: str) -> Identity:
        process = processes.launch(
            [sys.executable, "-m", "celery", "-A", "dharma_tasks", name, *options],
            folder=self.folder,
            log=self._log(name),
            account=CALLER,
            variables=self._environment,
        )
        if process is None:
            raise CrewError(f"{name} ended at once. {self.log_tail(name)}")
        return process

    def _await(self, name: str, answers: Callable[[], bool]) -> None:
        def give_up(_: object) -> NoReturn:
            raise CrewError(f"No answer after {_PATIENCE} s. {self.log_tail(name)}")

        Retrying(
            stop=stop_after_delay(_PATIENCE),
            wait=wait_fixed(0.1),
            retry=retry_if_result(lambda yes: not yes),
            retry_error_callback=give_up,
        )(answers)

    def _worker_answers(self) -> bool:
        if not processes.alive(self._records().worker):
            raise CrewError(f"The worker does not run. {self.log_tail('worker')}")
        ping = ("celery", "-A", "dharma_tasks", "inspect", "ping", "--timeout", "1")
        return self._run(ping, subprocess.DEVNULL) == 0

    def _flower_answers(self) -> bool:
        records = self._records()
        if records.flower_port is None or not processes.alive(records.flower):
            raise CrewError(f"Flower does not run. {self.log_tail('flower')}")
        connection = http.client.HTTPConnection(HOST, records.flower_port, timeout=5)
        try:
            connection.request("GET", "/healthcheck")
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _run(self, arguments: tuple[str, ...], output: int | None) -> int:
        return subprocess.run(  # noqa: S603 - our own command line, no shell
            [sys.executable, "-m", *arguments],
            check=False,
            cwd=self.folder,
            env=self._environment,
            stdout=output,
            stderr=output,
        ).returncode

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    def _records(self) -> _Records:
        with suppress(FileNotFoundError):
            return _Records.model_validate_json(self._file.read_bytes())
        return _Records()

    def _write(self, **changes: object) -> None:
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        draft = self._file.with_suffix(".new")
        draft.write_text(self._records().model_copy(update=changes).model_dump_json() + "\n")
        draft.replace(self._file)
