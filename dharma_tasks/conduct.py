"""What was asked for, from the folder to the end of the run, in steps: see `submit`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from redis import Redis

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.inline import InlineWorker
from dharma_tasks.loader import load
from dharma_tasks.migration import JSON, Migration, Reference
from dharma_tasks.planner import Request, required_databases
from dharma_tasks.reading import Send, whereabouts
from dharma_tasks.redis_client import require_redis
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.submit import Patience, Step, Submission, Warned, make_run, watch
from dharma_tasks.values import Values
from dharma_tasks.workers import Workers


@dataclass(frozen=True)
class Order:
    """What somebody asks for.

    `migrations` is the folder (None: the settings'), `given` are values by name, `by` is who asks,
    for the audit trail. Without `wait` the run is left alone once it is submitted; `timeout` is in
    seconds, None for ever. With `inline` it is carried out in this process. The databases `named`
    are those that the settings' URLs lead to: workers that are connected to others are refused.
    """

    request: Request
    migrations: Path | None
    given: JSON
    by: str
    wait: bool = True
    timeout: float | None = None
    inline: bool = False
    named: tuple[str, ...] = ()


@dataclass
class Conduct:
    """Sees to one order.

    `send` reaches the workers. `migrations` are the folder's, and `worker` is the one in this
    process, where there is to be one, once the steps have come to them. Whoever takes the steps
    calls `close` at the end, whatever comes.
    """

    order: Order
    settings: Settings
    send: Send
    migrations: dict[Reference, Migration] = field(default_factory=dict)
    worker: InlineWorker | None = None

    @cached_property
    def redis(self) -> Redis:
        """The connection to Redis, made on first use. Raises `Unreachable`."""
        return require_redis(self.settings)

    @property
    def runs(self) -> Runs:
        """The runs' records."""
        return Runs(self.redis, self.settings.namespace)

    @property
    def workers(self) -> Workers:
        """The workers that are alive."""
        return Workers(self.redis, self.settings.namespace)

    def steps(self) -> Iterator[Step]:
        """Load, submit and watch. There is no step where there are no migrations.

        Raises:
            Refused: something is wrong with the folder, or with what was asked for.
            Unreachable: Redis or a worker cannot be reached.
            TimedOut: the time is over.
        """
        settings, request = self.settings, self.order.request
        folder = self.order.migrations or settings.migrations_dir
        loaded = load(folder, Values(self.order.given, settings.values))
        for warning in loaded.warnings:
            yield Warned(str(warning))
        needed = required_databases(loaded.migrations, request)
        if not needed:
            return
        self.migrations.update({m.reference: m for m in loaded.migrations})
        runs, send = self.runs, self._sender(needed)
        patience = Patience(self.order.timeout if self.order.wait else 0)
        submission = Submission(runs, self.workers, send, patience)
        named = [name for name in self.order.named if name in needed]
        run = make_run(loaded, request, self.order.by, whereabouts(named, settings))
        if self.worker is None and not submission.is_active(run):
            yield from submission.require_workers(needed)
        submitted = yield from submission.submit(run, loaded)
        yield submitted
        if self.order.wait:
            yield from self._watch(watch(runs, submitted.run.id, patience))

    def _sender(self, needed: set[str]) -> Send:
        """To workers, or to one in this process."""
        if not self.order.inline:
            return self.send
        _require_urls(self.settings, needed)
        self.worker = InlineWorker(self.settings, self.redis, needed)
        self.worker.start()
        return self.worker.send

    def _watch(self, steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            if self.worker:
                self.worker.check()
            yield step

    def close(self) -> None:
        """Stop the worker in this process between two batches, and leave Redis."""
        if self.worker:
            self.worker.stop()
        if "redis" in self.__dict__:
            self.redis.close()


def _require_urls(settings: Settings, needed: Iterable[str]) -> None:
    """Inline there is no worker that could know a database's URL."""
    missing = sorted(name for name in needed if settings.url(name) is None)
    if missing:
        raise Refused(
            [
                Problem(
                    "",
                    "",
                    f"there are migrations for {name}, but no DHARMA_{name.upper()}_URL",
                    "Set it, or leave the database out with --databases.",
                )
                for name in missing
            ]
        )
