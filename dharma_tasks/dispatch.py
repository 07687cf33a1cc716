"""Sending chains of messages through Celery: as a worker or a command, or out of any program."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from celery import Celery, chain
from kombu.exceptions import OperationalError

from dharma_tasks.messages import Chain, Message
from dharma_tasks.redis_client import lost, redis_url
from dharma_tasks.settings import Settings

_SPARE = 9
"""The priority of what waits for a worker that has nothing else to do."""


def queue(database: str) -> str:
    """Where the messages of a database wait in Redis, below the namespace."""
    return database


def spare_queue(database: str) -> str:
    """Where those wait that are spare; the name is kombu's."""
    return f"{database}\x06\x16{_SPARE}"


def send(chains: Iterable[Chain]) -> None:
    """Send each chain: every message after the first goes when the one before it is done.

    Through the application of this process, which is a worker's or a command's.

    Raises:
        Unreachable: the broker does not take them; what was claimed or noted before stays.
    """
    from dharma_tasks.celery_app import app  # noqa: PLC0415 - it becomes the process's own

    _send(app, chains)


def sender(settings: Settings) -> Callable[[Iterable[Chain]], None]:
    """Make a `send` for a program that may have a Celery application of its own, left alone."""

    def send(chains: Iterable[Chain]) -> None:
        app = Celery("dharma_tasks", set_as_current=False)
        app.conf.update(
            broker_url=redis_url(settings),
            # As the workers' (see `celery_app`), whose queues these are.
            broker_transport_options={"global_keyprefix": f"{settings.namespace}:"},
        )
        with app.connection_for_write() as connection:
            _send(app, chains, connection=connection)

    return send


def _send(app: Celery, chains: Iterable[Chain], **options: Any) -> None:
    try:
        for messages in chains:
            signatures = (_signature(app, message) for message in messages)
            chain(*signatures).apply_async(**options)
    except OperationalError as error:
        raise lost(error, "messages cannot be sent through Redis") from error


def shown(message: Message) -> str:
    """The arguments as people read them in Flower."""
    return ", ".join(
        f"{name} {message.said.get(name, value)}" for name, value in message.arguments.items()
    )


def identity(message: Message) -> str:
    """The task's id: what is sent again is the same task, so that Flower has one row for it."""
    named = [v for name, v in message.arguments.items() if name not in {"at", "signature"}]
    return ".".join(str(value) for value in (*named, message.task))


def _signature(app: Celery, message: Message) -> Any:
    return app.signature(
        f"dharma_tasks.{message.task}",
        kwargs=message.arguments,
        immutable=True,
        queue=queue(message.database),
        task_id=identity(message),
        priority=_SPARE if message.spare else 0,
        # Flower's lists have a column for these, and none for the keyword arguments.
        argsrepr=shown(message),
        kwargsrepr="{}",
    )
