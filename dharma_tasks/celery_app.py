"""The Celery application: its settings, each with its reason."""

from __future__ import annotations

from typing import Any

from celery import Celery, signals
from kombu import Queue

from dharma_tasks import transport
from dharma_tasks.databases import NAMES
from dharma_tasks.logs import configure_logs
from dharma_tasks.settings import settings

_settings = settings()
transport.install()

app = Celery("dharma_tasks", include=["dharma_tasks.tasks"])
app.conf.update(
    broker_url=_settings.redis_url.get_secret_value(),
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        # Two projects can share a Redis; the queues' keys are `dharma:mongodb` and so on.
        "global_keyprefix": f"{_settings.namespace}:",
        # The broker's own redelivery is only a second net (the rescue timer is the first): so
        # long that a healthy operation is rarely sent twice; a duplicate would step aside.
        "visibility_timeout": 6 * 3600,
        "socket_keepalive": True,
        "health_check_interval": 15,
    },
    # A worker serves what its settings have a URL for; `-Q mongodb` narrows that.
    task_queues=[Queue(name) for name in NAMES if _settings.url(name) is not None]
    or [Queue(name) for name in NAMES],
    # A message is acknowledged when the work is done: the message of a killed pool child comes
    # back at once (Law 6 makes the duplicate harmless).
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    # One message for each child: none waits behind an operation that takes hours.
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
    worker_cancel_long_running_tasks_on_connection_loss=False,
    enable_utc=True,
)


@signals.setup_logging.connect
def _setup_logging(**_: Any) -> None:
    configure_logs(_settings)
