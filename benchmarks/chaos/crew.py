"""Two workers and the submit, kept running as a supervisor would."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, RLock, Thread

import psutil
from redis.exceptions import RedisError

from benchmarks.chaos.ground import Ground, wait_for
from dharma_tasks.workers import Workers

_LONGEST_PAUSE = 3.0
"""Seconds until the supervisor starts a worker again."""
_RANGE = "4000"
"""Documents in a range of a reindex: several in each copy, though it is small."""
_END_SECONDS = 30
"""A worker that is told to end must have ended by then."""


@dataclass
class Worker:
    """One place for a worker: the process that is there now, and what is expected of it."""

    name: str
    process: subprocess.Popen[bytes]
    starts: int = 1
    killed: bool = False
    """Whether its end was a fault of ours."""
    ended_at: float | None = None
    pause: float = 0.0
    sessions: set[int] = field(default_factory=set)
    """Of all processes that were ever here: to see that none is left."""


class Crew:
    """Workers and submit. A thread looks after them; what dies by itself is a finding."""

    def __init__(self, ground: Ground, seed: int, names: tuple[str, ...] = ("a", "b")) -> None:
        """Start the workers and wait until they announce themselves."""
        self._ground = ground
        self._random = random.Random(seed)  # noqa: S311 - the same faults each time is the point
        self._lock = RLock()
        self._over = Event()
        self._logs: dict[int, str] = {}
        self.wanted: tuple[str, ...] = ("--target", "latest")
        """What the submits ask for."""
        self.workers = [Worker(name, self._start(name, 1)) for name in names]
        for worker in self.workers:
            worker.sessions.add(worker.process.pid)
        if not wait_for(lambda: self.announced() == len(names), 60):
            ground.found("the workers do not start")
        self._thread = Thread(target=self._supervise, name="supervisor", daemon=True)
        self._thread.start()

    # --- workers ---

    def announced(self) -> int:
        """How many workers say that they are alive."""
        try:
            return len(Workers(self._ground.redis, self._ground.namespace).alive())
        except RedisError:
            return 0

    def running(self) -> list[Worker]:
        """The workers whose process runs and was not told to end."""
        with self._lock:
            return [w for w in self.workers if w.process.poll() is None and not w.killed]

    def kill(self, worker: Worker, *, group: bool) -> None:
        """SIGKILL the whole process group, or the main process alone."""
        with self._lock:
            worker.killed = True
            if group:
                os.killpg(worker.process.pid, signal.SIGKILL)
            else:
                worker.process.kill()

    def terminate(self, worker: Worker) -> None:
        """SIGTERM, as a deployment does: it ends by itself, with status 0 if it was ready."""
        with self._lock:
            ready = "ready." in self._log(f"worker-{worker.name}-{worker.starts}").read_text()
            worker.killed = True
            process = worker.process
            process.terminate()
        if not wait_for(lambda: process.poll() is not None, _END_SECONDS):
            self._ground.found(f"worker {worker.name} did not end within {_END_SECONDS} s")
            os.killpg(process.pid, signal.SIGKILL)
        elif ready and process.poll() != 0:
            self._ground.found(f"worker {worker.name} ended with {process.poll()}")

    def family(self, worker: Worker) -> list[psutil.Process]:
        """The worker's processes, its main one first."""
        with suppress(psutil.NoSuchProcess):
            main = psutil.Process(worker.process.pid)
            return [main, *main.children(recursive=True)]
        return []

    def close(self) -> None:
        """End the workers; none of their processes may be left."""
        self._over.set()
        self._thread.join(10)
        with self._lock:
            for worker in self.workers:
                if worker.process.poll() is None:
                    self.terminate(worker)
        if not wait_for(lambda: not self._left(), _END_SECONDS):
            self._ground.found(f"processes are left: {self._left()}")
            for pid in self._left():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _left(self) -> list[int]:
        """Processes of the workers' sessions that still run."""
        sessions = {session for worker in self.workers for session in worker.sessions}
        left = []
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                ended = process.status() == psutil.STATUS_ZOMBIE
                if not ended and os.getsid(process.pid) in sessions:
                    left.append(process.pid)
        return left

    def _supervise(self) -> None:
        while not self._over.wait(0.1):
            with self._lock:
                for worker in self.workers:
                    self._look_after(worker)

    def _look_after(self, worker: Worker) -> None:
        status = worker.process.poll()
        if status is None:
            return
        now = time.monotonic()
        if worker.ended_at is None:
            if not worker.killed:
                self._ground.found(f"worker {worker.name} died by itself, with {status}")
            worker.ended_at, worker.pause = now, self._random.uniform(0, _LONGEST_PAUSE)
        if now - worker.ended_at >= worker.pause:
            worker.starts += 1
            worker.process = self._start(worker.name, worker.starts)
            worker.sessions.add(worker.process.pid)
            worker.killed, worker.ended_at = False, None

    def _start(self, name: str, number: int) -> subprocess.Popen[bytes]:
        with self._log(f"worker-{name}-{number}").open("wb") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "celery", "-A", "dharma_tasks", "worker"),
                    *("-n", f"{name}@%h", "-c", "3", "-I", "benchmarks.chaos.batches"),
                ],
                env=self._ground.environment
                | {"BATCHES": str(self._ground.batches), "BATCHES_RANGE": _RANGE},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    # --- submits ---

    def submit(self) -> subprocess.Popen[bytes]:
        """Start `python -m dharma_tasks.submit`."""
        name = f"submit-{len(self._logs) + 1}"
        with self._log(name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dharma_tasks.submit", *self.wanted],
                env=self._ground.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._logs[process.pid] = name
        return process

    def told(self, submit: subprocess.Popen[bytes], text: str) -> bool:
        """Whether `text` is in what this submit has said, wherever its lines break."""
        said = self._log(self._logs[submit.pid]).read_text().split()
        return text in " ".join(said)

    def _log(self, name: str) -> Path:
        return self._ground.logs / f"{name}.log"
