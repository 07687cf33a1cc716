"""What a Celery worker does besides tasks.

It rescues, announces itself, ends at a batch boundary, and tells Prometheus.
"""

from __future__ import annotations

import mmap
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from celery import bootsteps, signals
from click import ClickException
from redis.exceptions import RedisError

from dharma_tasks.celery_app import app
from dharma_tasks.databases import NAMES
from dharma_tasks.dispatch import queue, send, spare_queue
from dharma_tasks.encryption import cipher
from dharma_tasks.errors import DharmaError, Refused
from dharma_tasks.logs import get_logger, stack_of
from dharma_tasks.measures import Meter, Unmetered
from dharma_tasks.metrics.pipe import Pipe
from dharma_tasks.metrics.standing import Lookout
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.rescue import Rescuer
from dharma_tasks.settings import settings
from dharma_tasks.signing import MAKE_ONE, advice
from dharma_tasks.workers import Worker, Workers

if TYPE_CHECKING:
    from dharma_tasks.metrics.page import Page

log = get_logger()

# One byte that the main process shares with the children it forks: a child gets no signal of
# its own when the worker is told to end, and must see it between two batches (Law 8).
_shutdown = mmap.mmap(-1, 1)

# Children have it too, and so tell the main process what they measure.
_pipe = Pipe() if settings().metrics_port is not None else None
meter: Meter = _pipe or Unmetered()

_POOLS = ("prefork", "thread")
"""The pools, by their modules' names, in which the timer fires while tasks run; `solo` stands
still, and the drivers were not made for greenlets."""
_CHILDREN_SECONDS = 0.25
"""How often it is looked for children that are dead."""


def _silent_seconds() -> float:
    """After so long without a word from its loop a worker counts as gone."""
    return 3 * settings().rescue_seconds + 4


def shutting_down() -> bool:
    """Whether this worker was told to end."""
    return _shutdown[0] != 0


@signals.worker_shutting_down.connect
def _told_to_end(**_: Any) -> None:
    _shutdown[0] = 1


@signals.worker_init.connect
def _without_mingle(sender: Any, **_: Any) -> None:
    """Start a second sooner: nothing here uses what mingle asks the other workers for."""
    sender.options["without_mingle"] = True


def served() -> list[str]:
    """The databases whose queues this worker takes messages from, in a child too."""
    return [name for name in NAMES if name in app.amqp.queues.consume_from]


class _Timed(bootsteps.StartStopStep):
    """A step with a timer, which ends with the consumer."""

    _timer: Any = None

    def stop(self, consumer: Any) -> None:  # noqa: ARG002
        """End the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Rescue(_Timed):
    """The timer of Law 5. It lives with the consumer, so it begins anew when Redis is back."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """Refuse a pool in which the timer could not fire, and a queue that cannot be served."""
        super().__init__(consumer, **options)
        pool = consumer.controller.pool_cls.__module__.rpartition(".")[2]
        if pool not in _POOLS:
            msg = f"the pool {pool!r} stops the rescue timer: start the worker with --pool=prefork"
            raise ClickException(msg)
        if not any(settings().url(name) for name in NAMES):
            names = ", ".join(f"DHARMA_{name.upper()}_URL" for name in NAMES)
            msg = f"no database to serve: set at least one of {names}"
            raise ClickException(msg)
        for name in served():
            if settings().url(name) is None:
                msg = f"-Q {name}: this worker has no DHARMA_{name.upper()}_URL"
                raise ClickException(msg)
        try:
            cipher(settings())
        except Refused as refused:  # not in the middle of a run
            raise ClickException(str(refused)) from None
        if (unsigned := advice(settings())) is not None:
            log.warning("unsigned", reason=unsigned, todo=MAKE_ONE)
        # Said goodbye to also by a worker that never reached Redis.
        self._redis = connect_redis(settings())
        self._workers = Workers(self._redis, settings().namespace)
        self._me = Worker(name=consumer.hostname, databases=tuple(served()))

    def start(self, consumer: Any) -> None:
        """Announce this worker, and look around from now on."""
        config = settings()

        def queued(database: str) -> int:
            queues = queue(database), spare_queue(database)
            return sum(self._workers.waiting(each) for each in queues)

        self._rescuer = Rescuer(config, self._redis, self._me.databases, queued)
        self._seconds = config.rescue_seconds
        self._tick()
        self._timer = consumer.timer.call_repeatedly(self._seconds, self._tick)

    def shutdown(self, consumer: Any) -> None:
        """Say goodbye, so that no submit counts on this worker."""
        self.stop(consumer)
        try:
            self._workers.leave(self._me.name)
        except RedisError as error:
            log.warning("not_announced", error=str(error))

    def _tick(self) -> None:
        if shutting_down():
            return
        try:
            self._workers.announce(self._me, seconds=_silent_seconds())
            send(self._rescuer.look())
        except (RedisError, OSError, DharmaError) as error:
            log.warning("rescue_waits", error=str(error))


class Metrics(_Timed):
    """Answers Prometheus, where a port is set. How the runs stand is read in this loop."""

    requires = (Rescue,)
    _page: Page

    def include_if(self, consumer: Any) -> bool:  # noqa: ARG002
        """Only where a port is set; else nothing of it is even imported."""
        return _pipe is not None

    def create(self, consumer: Any) -> None:  # noqa: ARG002
        """Refuse to start without what it takes."""
        if _pipe is None or find_spec("prometheus_client") is None:
            msg = "DHARMA_METRICS_PORT needs the extra `metrics`: pip install prometheus_client"
            raise ClickException(msg)
        from dharma_tasks.metrics.page import Page  # noqa: PLC0415 - it may not be there

        self._page = Page(_pipe, keep_seconds=_silent_seconds())

    def start(self, consumer: Any) -> None:
        """Look around from now on."""
        config = settings()
        self._lookout = Lookout(config, connect_redis(config))
        self._tick()
        self._timer = consumer.timer.call_repeatedly(config.rescue_seconds, self._tick)

    def _tick(self) -> None:
        config = settings()
        if config.metrics_port is not None:
            self._page.open(config.metrics_host, config.metrics_port)
        try:
            self._page.show(self._lookout.look())
        except RedisError:  # the rescue timer has said so, and the page does
            return
        except (LookupError, ValueError) as error:  # a run's record, which must not stop a worker
            log.error("not_shown", **stack_of(error))


class LookAfterChildren(_Timed):
    """Finds a dead child of the pool at once, so that its message comes back at once (Law 6).

    Celery looks when the child's pipe closes, which may be a moment before the kernel says that
    the child is dead; then it looks again only after five seconds (celery/celery#9588).
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Look several times a second; it costs one system call for each child."""
        look = consumer.pool.maintain_pool
        self._timer = consumer.timer.call_repeatedly(_CHILDREN_SECONDS, look)


app.steps["consumer"].add(Rescue)
app.steps["consumer"].add(Metrics)
app.steps["consumer"].add(LookAfterChildren)
