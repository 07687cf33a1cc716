"""The Celery application: its settings, each with its reason."""

from __future__ import annotations

from typing import Any

import click
from celery import Celery, signals
from kombu import Queue

from dharma_tasks import transport
from dharma_tasks.databases import NAMES
from dharma_tasks.logs import configure_logs, get_logger
from dharma_tasks.redis_client import redis_url
from dharma_tasks.settings import settings

log = get_logger()
_settings = settings()
# A worker serves what its settings have a URL for; `-Q mongodb` narrows that.
_served = [name for name in NAMES if _settings.url(name) is not None] or list(NAMES)
transport.install()

app = Celery("dharma_tasks", include=["dharma_tasks.tasks"])
app.conf.update(
    broker_url=redis_url(_settings),
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        # Two projects can share a Redis; the queues' keys are `dharma:mongodb` and so on.
        "global_keyprefix": f"{_settings.namespace}:",
        # The broker's own redelivery is a second net, below the rescue timer, which finds lost
        # work within seconds. Kombu counts from the delivery and never again: what works for
        # longer than this is sent a second time while it is healthy (celery/celery#5935). That
        # is never double work, for the duplicate meets a live lease, or a finished operation,
        # and steps aside (Law 6); but it is idle work, so the time is longer than nearly every
        # operation. What stays of a dead worker in Redis is gone after it too.
        "visibility_timeout": 6 * 3600,
        # Each worker looks once a minute for messages that are over that time (Kombu looks at
        # every "throttle"-th interval), which is one small read; and it puts so many back at
        # most, so that what a long outage has left does not come all at once.
        "unacked_restore_interval": 60,
        "unacked_restore_throttle": 1,
        "unacked_restore_limit": 100,
        "socket_keepalive": True,
        "health_check_interval": 15,
    },
    task_queues=[Queue(name) for name in _served],
    # Operations of one database run one after the other, so one child for each is all that work
    # can use, however many processors there are, and no fewer will do; one more answers what
    # `dharma status` and its like ask meanwhile. `--concurrency` wins.
    worker_concurrency=len(_served) + 1,
    # A message is acknowledged when the work is done, so that one whose worker dies is not lost.
    task_acks_late=True,
    # The message of a killed pool child comes back at once (0.1 s), and is the quickest way to go
    # on. An operation that kills its worker each time does not go round for ever: its attempts
    # are counted in the journal (Law 10).
    task_reject_on_worker_lost=True,
    # An operation that failed for good is over, and so is its message.
    task_acks_on_failure_or_timeout=True,
    # One message for each child: none waits, unseen by other workers, behind an operation that
    # takes hours.
    worker_prefetch_multiplier=1,
    # The journal and the run's record hold every result.
    task_ignore_result=True,
    task_store_errors_even_if_ignored=False,
    task_serializer="json",
    accept_content=["json"],
    # Flower shows what runs without being asked to turn events on.
    worker_send_task_events=True,
    task_send_sent_event=False,
    task_track_started=True,
    worker_redirect_stdouts=False,
    worker_hijack_root_logger=False,
    # An operation may take days; what is stuck loses its lease instead (Law 8).
    task_time_limit=None,
    # Without Redis a worker goes on as long as its lease lasts (`Lease.renew`). Its message comes
    # back meanwhile, and steps aside. To kill the task would throw a batch away.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    enable_utc=True,
)


@signals.import_modules.connect
def _join_flower(**_: Any) -> None:
    """Flower asks for the tasks before it starts its server: then the Migrations page joins it."""
    context = click.get_current_context(silent=True)
    if context is None or context.command.name != "flower":
        return
    from dharma_tasks.dispatch import send  # noqa: PLC0415 - it needs the application

    try:
        from dharma_tasks.page.joining import join  # noqa: PLC0415 - what it needs comes with Flower
    except ImportError as error:
        log.warning("no_migrations_page", why=f"this Flower is not known here: {error}")
    else:
        join(_settings, send)


@signals.setup_logging.connect
def _setup_logging(**_: Any) -> None:
    configure_logs(_settings)
