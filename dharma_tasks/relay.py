"""The next small migration in the same process, without the way through the queue.

From one task to the next a message travels for several milliseconds (to Redis, to the worker's
main process, to a child): longer than a small migration runs. So a task that has ended its
migration carries the next one of its database out itself, for up to `BURST_SECONDS`; after
that the queue has its turn. Each is a Celery task of its own all the same, with its own id, and
Flower is told of it as of any other.

A burst rests on nothing but the run's record, as every task does: when it is killed, the
message that began it comes back, finds its own work done, and sends what is next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import Any

from celery import Task
from celery.events.dispatcher import EventDispatcher
from celery.states import FAILURE, REJECTED, SUCCESS

from dharma_tasks.celery_app import app
from dharma_tasks.dispatch import identity, send, shown
from dharma_tasks.messages import Chain, Message

BURST_SECONDS = 1.0
"""Short enough that a child is soon free for what else waits in its queue."""
_TOLD_SECONDS = 0.2
"""How late Flower may hear of a task."""


def go_on(
    done: Task[..., Any],
    seconds: float,
    database: str,
    chains: Iterable[Chain],
    stop: Callable[[], bool],
) -> None:
    """Send `chains`, but carry a single message for `database` out here, and what follows it.

    `done` is the task whose own work is over, after `seconds`; `stop` says that this worker is
    to end.
    """
    ours, others = _split(database, chains)
    send(others)
    if ours is None:
        return
    until = time.monotonic() + BURST_SECONDS
    with _events(done) as events:
        events.send("task-succeeded", uuid=done.request.id, result="None", runtime=seconds)
        while ours is not None:
            if time.monotonic() > until or stop():
                send([[ours]])
                return
            ours, others = _split(database, _carry_out(ours, events))
            send(others)


def _split(database: str, chains: Iterable[Chain]) -> tuple[Message | None, list[Chain]]:
    ours: Message | None = None
    others = []
    for chain in chains:
        if ours is None and len(chain) == 1 and chain[0].database == database:
            ours = chain[0]
        else:
            others.append(chain)
    return ours, others


def _carry_out(message: Message, events: EventDispatcher) -> list[Chain]:
    """Run one task here. Returns what it would send; nothing where it failed or stepped aside."""
    name, uuid = f"dharma_tasks.{message.task}", identity(message)
    begun = time.monotonic()
    events.send("task-received", uuid=uuid, name=name, args=shown(message), kwargs="{}")
    events.send("task-started", uuid=uuid)
    result: Any = app.tasks[name].apply(kwargs=message.arguments, task_id=uuid)
    if result.state == SUCCESS:
        seconds = time.monotonic() - begun
        events.send("task-succeeded", uuid=uuid, result="None", runtime=seconds)
        return list(result.result)
    if result.state == REJECTED:
        send([[message]])
        events.send("task-rejected", uuid=uuid, requeue=True)
    if result.state == FAILURE:
        events.send("task-failed", uuid=uuid, exception=repr(result.result), traceback="")
    return []  # Celery says nothing of one that stepped aside


@contextmanager
def _events(of: Task[..., Any]) -> Iterator[EventDispatcher]:
    """Tell Flower several things in one message."""
    with (
        app.connection_for_write() as connection,
        app.events.Dispatcher(
            connection, hostname=of.request.hostname, buffer_group={"task"}
        ) as events,
        _told(events),
    ):
        yield events


@contextmanager
def _told(events: EventDispatcher) -> Iterator[None]:
    """Send what is to be told soon, for a task may run for hours; and the rest at the end.

    A message for each task would be a tenth of what a small migration takes.
    """
    over = Event()

    def tell() -> None:
        while not over.wait(_TOLD_SECONDS):
            events.flush()

    teller = Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()
        events.flush()
