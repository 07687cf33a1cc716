"""The faults: each is done for real, to processes and servers, at the instant it is asked for."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import psutil
import psycopg
from pymongo.errors import PyMongoError
from redis import Redis
from redis.exceptions import RedisError

from benchmarks.chaos.crew import Crew, Worker
from benchmarks.chaos.ground import DATABASES, Ground
from dharma_tasks.local.state import State

_LONGEST_OUTAGE = 2.0
"""Seconds that a killed server stays away; how long it then takes to start comes on top."""


class NotNow(Exception):
    """There is nothing that this fault could hit at this moment."""


class Done(NamedTuple):
    """What was hit, and how it comes back: at once (None), or by `repair` after `pause`."""

    databases: tuple[str, ...]
    """Those where an operation was hit in the middle; empty: whatever goes on."""
    what: str
    pause: float = 0.0
    repair: Callable[[], None] | None = None


@dataclass
class Fault:
    """One fault that was made."""

    kind: str
    at: float
    done: Done
    repaired: float | None = None
    progress: float | None = None
    """When an operation that was hit first moved on after it."""

    @property
    def over(self) -> float | None:
        """When it was back and recovered from; None while it is not."""
        back = self.repaired if self.done.repair else self.at
        return max(back, self.progress) if back and self.progress else None


@dataclass
class Faults:
    """Makes faults. Which, where and for how long follows from the seed alone."""

    ground: Ground
    crew: Crew
    chance: random.Random
    submits: list[subprocess.Popen[bytes]]
    """The submits that run; a fault may add one."""
    frozen: set[int] = field(default_factory=set)
    down: set[str] = field(default_factory=set)

    @property
    def kinds(self) -> dict[str, Callable[[], Done]]:
        """All of them by name."""
        return {
            "pool child killed": self._child,
            "worker killed": self._group,
            "worker's main process killed": self._main,
            "both workers killed": self._both,
            "worker frozen": self._freeze_worker,
            "pool child frozen": self._freeze_child,
            "worker told to end": self._terminate,
            "redis killed": lambda: self._server("redis"),
            "redis away for long": self._redis_away,
            "mongodb killed": lambda: self._server("mongodb"),
            "postgresql killed": lambda: self._server("postgresql"),
            "elasticsearch killed": lambda: self._server("elasticsearch"),
            "redis frozen": lambda: self._stall("redis"),
            "mongodb frozen": lambda: self._stall("mongodb"),
            "postgresql frozen": lambda: self._stall("postgresql"),
            "elasticsearch frozen": lambda: self._stall("elasticsearch"),
            "redis flushed": self._flush,
            "redis set back": self._set_back,
            "messages delivered again": self._again,
            "postgresql backend ended": self._backend,
            "mongodb stepped down": self._step_down,
            "submitted twice": self._submit,
        }

    def make(self, kind: str) -> Fault:
        """Make one fault. Raises `NotNow`."""
        at = time.monotonic()
        try:
            return Fault(kind, at, self.kinds[kind]())
        except (RedisError, psutil.NoSuchProcess, ProcessLookupError) as error:
            raise NotNow(str(error)) from error

    # --- workers ---

    def _working(self) -> dict[str, int]:
        """The pids of the processes that work, by database."""
        found = {}
        for operation, held in self.ground.held().items():
            if psutil.pid_exists(held.holder.pid) and held.holder.pid not in self.frozen:
                found[operation.partition(":")[0]] = held.holder.pid
        return found

    def _one_child(self) -> tuple[str, int]:
        working = self._working()
        if not working:
            raise NotNow
        database = self.chance.choice(sorted(working))
        return database, working[database]

    def _one_worker(self) -> Worker:
        running = [w for w in self.crew.running() if w.process.pid not in self.frozen]
        if not running:
            raise NotNow
        return self.chance.choice(running)

    def _hit(self, *workers: Worker) -> tuple[str, ...]:
        pids = {each.pid for worker in workers for each in self.crew.family(worker)}
        return tuple(name for name, pid in self._working().items() if pid in pids)

    def _child(self) -> Done:
        database, pid = self._one_child()
        os.kill(pid, signal.SIGKILL)
        return Done((database,), f"pid {pid} in {database}")

    def _group(self) -> Done:
        worker = self._one_worker()
        hit = self._hit(worker)
        self.crew.kill(worker, group=True)
        return Done(hit, f"worker {worker.name} in {hit}")

    def _main(self) -> Done:
        worker = self._one_worker()
        self.crew.kill(worker, group=False)
        return Done((), f"worker {worker.name}")

    def _both(self) -> Done:
        workers = self.crew.running()
        hit = self._hit(*workers)
        for worker in workers:
            self.crew.kill(worker, group=True)
        return Done(hit, f"in {hit}")

    def _terminate(self) -> Done:
        worker = self._one_worker()
        hit = self._hit(worker)
        self.crew.terminate(worker)
        return Done(hit, f"worker {worker.name} in {hit}")

    def _freeze_worker(self) -> Done:
        worker = self._one_worker()
        return self._freeze(self._hit(worker), [p.pid for p in self.crew.family(worker)])

    def _freeze_child(self) -> Done:
        database, pid = self._one_child()
        return self._freeze((database,), [pid])

    def _freeze(self, hit: tuple[str, ...], pids: list[int]) -> Done:
        """For longer than the lease."""
        lease = self.ground.settings.lease_seconds
        seconds = self.chance.uniform(1.1 * lease, 1.5 * lease)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        self.frozen.update(pids)

        def wake() -> None:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.frozen.difference_update(pids)

        return Done(hit, f"pids {pids} in {hit} for {seconds:.1f} s", seconds, wake)

    # --- servers ---

    def _server(self, name: str, pause: float | None = None) -> Done:
        """SIGKILL, and started again with its data a little later."""
        pause = self.chance.uniform(0, _LONGEST_OUTAGE) if pause is None else pause
        with self._taken(name):
            hit = self._hit_server(name)
            self.ground.engines.kill(name)

        def start() -> None:
            self.ground.engines.start(name)
            self.down.discard(name)

        return Done(hit, f"for {pause:.1f} s", pause, start)

    def _redis_away(self) -> Done:
        lease = self.ground.settings.lease_seconds
        return self._server("redis", self.chance.uniform(1.1 * lease, 1.3 * lease))

    def _stall(self, name: str) -> Done:
        """SIGSTOP: connections stay open and nothing answers, as with a network that is gone."""
        lease = self.ground.settings.lease_seconds
        seconds = self.chance.uniform(0.3 * lease, 1.3 * lease)
        with self._taken(name):
            hit = self._hit_server(name)
            pids = self._server_pids(name)
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)

        def wake() -> None:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.down.discard(name)

        return Done(hit, f"for {seconds:.1f} s", seconds, wake)

    def _server_pids(self, name: str) -> list[int]:
        pid = State(self.ground.engines.folder / "state.json").read()[name].pid
        if pid is None:
            raise NotNow
        main = psutil.Process(pid)
        return [pid, *(each.pid for each in main.children(recursive=True))]

    @contextmanager
    def _taken(self, name: str) -> Iterator[None]:
        """One fault at a time on each server."""
        if name in self.down:
            raise NotNow
        self.down.add(name)
        try:
            yield
        except BaseException:
            self.down.discard(name)
            raise

    def _hit_server(self, name: str) -> tuple[str, ...]:
        """Redis is everybody's."""
        if "redis" in self.down - {name}:
            raise NotNow
        working = self._working()
        return tuple(each for each in working if each == name) if name in DATABASES else ()

    def _flush(self) -> Done:
        """Redis forgets everything; the submits see it and are sent again."""
        if "redis" in self.down:
            raise NotNow
        self.ground.redis.flushall()
        return Done((), "")

    def _set_back(self) -> Done:
        """Redis is as it was some seconds ago: a replica that lagged behind has taken over."""
        with self._taken("redis"):
            client = Redis.from_url(self.ground.environment["DHARMA_REDIS_URL"], socket_timeout=5)
            kept = {key: (client.dump(key), client.pttl(key)) for key in client.scan_iter()}
        seconds = self.chance.uniform(1, 6)

        def set_back() -> None:
            with client.pipeline() as pipe:
                pipe.flushall()
                for key, (value, left) in kept.items():
                    if value is not None:  # that is: it was still there
                        pipe.restore(key, max(left, 0), value)
                pipe.execute()
            client.close()
            self.down.discard("redis")

        return Done((), f"by {seconds:.1f} s", seconds, set_back)

    def _again(self) -> Done:
        """Every message that a worker has is delivered three more times, as by a broker's timeout.

        Kombu keeps such a message as [message, exchange, queue].
        """
        if "redis" in self.down:
            raise NotNow
        prefix = f"{self.ground.namespace}:"
        taken: Any = self.ground.redis.hvals(f"{prefix}unacked")
        if not taken:
            raise NotNow
        for text in taken:
            message, _, queue = json.loads(text)
            for _ in range(3):
                self.ground.redis.lpush(prefix + queue, json.dumps(message))
        return Done((), f"{len(taken)} of them")

    def _backend(self) -> Done:
        """`pg_terminate_backend` of one of the workers' connections."""
        query = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'dharma:%'"
        try:
            with self.ground.postgresql() as connection:
                pids = sorted(row[0] for row in connection.execute(query).fetchall())
                if not pids:
                    raise NotNow
                pid = self.chance.choice(pids)
                connection.execute("SELECT pg_terminate_backend(%s)", [pid])
        except psycopg.Error as error:
            raise NotNow from error
        return Done((), f"pid {pid}")

    def _step_down(self) -> Done:
        """The primary steps down, and is elected again as there is no other one."""
        if "mongodb" in self.down:
            raise NotNow
        command: dict[str, Any] = {"replSetStepDown": 2, "force": True}
        hit = self._hit_server("mongodb")
        try:
            self.ground.mongodb.admin.command(command)
        except PyMongoError as error:
            raise NotNow from error
        return Done(hit, "")

    def _submit(self) -> Done:
        """The same submit again, at the same time: it joins the run, or waits for its turn."""
        self.submits.append(self.crew.submit())
        return Done((), "")
