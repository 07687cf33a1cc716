"""What was asked for, from the folder to the end of the run, in steps: see `submit`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from redis import Redis
from redis.exceptions import RedisError

from dharma_tasks.bounds import Bounds
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.loader import Loaded, Read, read_folder
from dharma_tasks.migration import JSON, Migration, Reference
from dharma_tasks.planner import Plan, Request, required_databases
from dharma_tasks.reading import Send, surveys, whereabouts
from dharma_tasks.records import Direction, applied
from dharma_tasks.redis_client import lost, require_redis
from dharma_tasks.run import Run
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.signing import signer
from dharma_tasks.submit import Checked, Patience, Step, Submission, Warned, make_run, watch
from dharma_tasks.values import Values
from dharma_tasks.workers import Workers

if TYPE_CHECKING:
    from dharma_tasks.inline import InlineWorker


@dataclass(frozen=True)
class Order:
    """What somebody asks for.

    `migrations` is the folder (None: the settings'), `given` are values by name, `by` is who asks,
    for the audit trail. Without `wait` the run is left alone once it is submitted; `timeout` is in
    seconds, None for ever. With `inline` it is carried out in this process. The databases `named`
    are those that the settings' URLs lead to: workers that are connected to others are refused, and
    where the request has no databases, it is about these.
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

    `send` reaches the workers. `worker` is the one in this process, where there is to be one, once
    the steps have come to it. Whoever takes the steps calls `close` at the end, whatever comes.
    """

    order: Order
    settings: Settings
    send: Send
    worker: InlineWorker | None = None

    @cached_property
    def redis(self) -> Redis:
        """The connection to Redis, made on first use. Raises `Unreachable`."""
        return require_redis(self.settings)

    @property
    def runs(self) -> Runs:
        """The runs' records."""
        return Runs(self.redis, self.settings.namespace, signer(self.settings))

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
        try:
            yield from self._steps()
        except RedisError as error:
            raise lost(error) from error

    def _steps(self) -> Iterator[Step]:
        settings = self.settings
        folder = self.order.migrations or settings.migrations_dir
        read = read_folder(folder, Values(self.order.given, settings.values), Bounds.of(settings))
        loaded = self._judged(read)
        for warning in loaded.warnings:
            yield Warned(str(warning))
        request = self._request(loaded.migrations)
        needed = required_databases(loaded.migrations, request)
        if not needed:
            return
        runs, send = self.runs, self._sender(needed)
        patience = Patience(self.order.timeout if self.order.wait else 0)
        submission = Submission(runs, self.workers, send, patience)
        named = [name for name in self.order.named if name in needed]
        run = make_run(loaded, request, self.order.by, whereabouts(named, settings))
        if self.worker is None and not submission.is_active(run):
            yield from submission.require_workers(needed)
        yield Checked(loaded.migrations)
        submitted = yield from submission.submit(run, loaded)
        yield submitted
        if self.order.wait:
            yield from self._watch(watch(runs, submitted.run.id, patience))

    def _judged(self, read: Read) -> Loaded:
        """What is wrong in what is applied as it is, no run would do: only the journals know.

        Raises:
            Refused: something is wrong with what may be done.
        """
        try:
            return read.judged()
        except Refused:
            return read.judged(self._applied(read.migrations))

    def _applied(self, migrations: Sequence[Migration]) -> Mapping[Reference, str]:
        """What is applied, with its checksums, as far as anybody can say."""
        request = self._request(migrations)
        if request.direction is Direction.BACK:
            return {}
        try:
            needed = required_databases(migrations, request)
            return applied(surveys(needed, self.settings, self.send).values())
        except (Refused, Unreachable):
            return {}

    def _request(self, migrations: Iterable[Migration]) -> Request:
        """What was asked for: of what was named, all that has migrations."""
        request, named = self.order.request, self.order.named
        if request.databases is not None or not named:
            return request
        present = {migration.database for migration in migrations}
        wanted = tuple(name for name in named if name in present)
        return request.model_copy(update={"databases": wanted})

    def _sender(self, needed: set[str]) -> Send:
        """To workers, or to one in this process."""
        if not self.order.inline:
            return self.send
        from dharma_tasks.inline import InlineWorker  # noqa: PLC0415 - with all that a worker needs

        _require_urls(self.settings, needed)
        self.worker = InlineWorker(self.settings, self.redis, needed)
        self.worker.start()
        return self.worker.send

    def plan(self, run: Run) -> Plan | None:
        """What the run does, once that is known. Raises `Unreachable`."""
        try:
            return self.runs.plan(run)
        except RedisError as error:
            raise lost(error) from error

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
