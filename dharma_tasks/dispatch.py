"""Sending chains of messages through Celery."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from celery import chain
from kombu.exceptions import OperationalError

from dharma_tasks.celery_app import app
from dharma_tasks.errors import Unreachable
from dharma_tasks.messages import Chain, Message


def send(chains: Iterable[Chain]) -> None:
    """Send each chain: every message after the first goes when the one before it is done.

    Raises:
        Unreachable: the broker does not take them; what was claimed or noted before stays.
    """
    try:
        for messages in chains:
            chain(*(_signature(message) for message in messages)).apply_async()
    except OperationalError as error:
        msg = f"messages cannot be sent through Redis: {error}. Try again when it is back"
        raise Unreachable(msg) from error


def shown(message: Message) -> str:
    """The arguments as people read them in Flower."""
    return ", ".join(
        f"{name} {message.said.get(name, value)}" for name, value in message.arguments.items()
    )


def identity(message: Message) -> str:
    """The task's id: what is sent again is the same task, so that Flower has one row for it."""
    return ".".join(str(value) for value in (*message.arguments.values(), message.task))


def _signature(message: Message) -> Any:
    return app.signature(
        f"dharma_tasks.{message.task}",
        kwargs=message.arguments,
        immutable=True,
        queue=message.database,
        task_id=identity(message),
        # Flower's lists have a column for these, and none for the keyword arguments.
        argsrepr=shown(message),
        kwargsrepr="{}",
    )
