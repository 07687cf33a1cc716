"""The Celery tasks: one for each kind of operation, and those that lead from submit to there.

Only this file, `celery_app`, `dispatch`, `relay` and `bootsteps` know Celery. A task calls the
flow and sends on what it returns; it decides nothing itself.
"""

from __future__ import annotations

import os
import time
from threading import Lock
from typing import Any

from celery import Task
from celery.exceptions import Ignore, InvalidTaskError, Reject
from celery.worker.request import Request

from dharma_tasks.bootsteps import meter, served, shutting_down
from dharma_tasks.celery_app import app
from dharma_tasks.databases import NAMES
from dharma_tasks.dispatch import queue, send
from dharma_tasks.errors import CutOff, MigrationFailed, StepAside, Stopped
from dharma_tasks.flow import asked, planning
from dharma_tasks.flow.context import Context, Overtaken
from dharma_tasks.flow.operation import (
    FailedForGood,
    carry_out,
    carry_out_range,
    confirm_dependency,
)
from dharma_tasks.logs import get_logger
from dharma_tasks.messages import Chain
from dharma_tasks.operations import catalogue
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.relay import go_on
from dharma_tasks.run import Next
from dharma_tasks.settings import settings
from dharma_tasks.strict_json import MAX_DEPTH
from dharma_tasks.workers import Workers

log = get_logger()

_LEVELS = 2 * MAX_DEPTH
"""How deeply a message may be nested; ours have at most a migration in them."""

_contexts: dict[int, Context] = {}
_lock = Lock()


def _context(worker: str) -> Context:
    """This process's: a child of the pool must not use its parent's connections."""
    with _lock:
        pid = os.getpid()
        if pid not in _contexts:
            _contexts.clear()
            redis = connect_redis(settings())
            workers = Workers(redis, settings().namespace)

            def crowded() -> bool:
                return any(workers.waiting(queue(database)) for database in served())

            _contexts[pid] = Context(
                settings(),
                redis,
                worker=worker,
                shutting_down=shutting_down,
                crowded=crowded,
                meter=meter,
            )
        return _contexts[pid]


class Received(Request):
    """A message as the worker's main process has it, to be handed to a child of its pool.

    What fails on that way ends the worker, or keeps a child from other work: what is nested too
    deeply, and a time limit that is no number, so none that a message brings counts.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Refuse with `InvalidTaskError` what cannot be handed on: Celery throws it away."""
        super().__init__(*arguments, **options)
        self.time_limits = (None, None)
        if _is_deeper([self.request_dict, self.body], _LEVELS):
            msg = f"nested deeper than {_LEVELS} levels"
            raise InvalidTaskError(msg)


def _is_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list | tuple):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


class FlowTask(Task):  # type: ignore[type-arg]  # not generic when it runs
    """A task that sends on what the flow returns, or steps aside with the rest of its chain."""

    abstract = True
    Request = f"{__name__}:Received"
    # The runner has logged it already, with the database's message and the stack.
    throws = (MigrationFailed,)

    def on_flow(self, step: Any, *arguments: object, **named: object) -> list[Chain]:
        """Run one step of the flow; a duplicate must not fire the chain's next link (Law 6)."""
        context = _context(self.request.hostname or "worker")
        try:
            chains: list[Chain] = step(context, *arguments, **named)
        except Overtaken as reason:
            log.info("stepped_aside", task=self.name, reason=str(reason))
            send(reason.instead)
            raise Ignore from reason
        except Stopped as reason:
            log.info("stopped", task=self.name, reason=str(reason))
            raise (_hand_on(reason) if shutting_down() else Ignore()) from reason
        except FailedForGood as failure:
            send(failure.instead)
            raise
        except CutOff as reason:
            log.warning("stepped_aside", task=self.name, reason=str(reason))
            raise _hand_on(reason) from reason
        except StepAside as reason:
            log.info("stepped_aside", task=self.name, reason=str(reason))
            raise Ignore from reason
        return chains


def _hand_on(reason: StepAside) -> Reject:
    """Hand work on at once: the message, with the rest of its chain, goes back to the queue."""
    return Reject(reason, requeue=True)


@app.task(bind=True, base=FlowTask, name="dharma_tasks.survey")
def survey(self: FlowTask, run: str, database: str) -> None:
    """Read the journal of `database` for planning."""
    send(self.on_flow(planning.survey, run, database))


@app.task(bind=True, base=FlowTask, name="dharma_tasks.begin")
def begin(self: FlowTask, run: str, database: str) -> None:
    """Open the run in the journal of `database`."""
    send(self.on_flow(planning.begin, run, database))


@app.task(bind=True, base=FlowTask, name="dharma_tasks.confirm")
def confirm(self: FlowTask, run: str, database: str, version: str) -> None:
    """Confirm that a dependency is applied."""
    self.on_flow(confirm_dependency, run, database, version)


# Who looks asks again and again: that is no work, and Flower's lists are to show work.
@app.task(bind=True, base=FlowTask, name="dharma_tasks.read", send_events=False)
def read(  # noqa: PLR0913 - what may be asked for
    self: FlowTask,
    *,
    database: str,
    reply: str,
    history: int | None = None,
    count: list[str] | None = None,
    examine: bool = False,
) -> None:
    """Read the journal of `database` for a command that has no URL for it, or look around there."""
    self.on_flow(asked.read, database, reply, asked.Wanted(history, count, examine))


@app.task(bind=True, base=FlowTask, name="dharma_tasks.unlock")
def unlock(self: FlowTask, /, **asked_for: Any) -> None:
    """Break a lease on purpose, and write it to the audit trail of its database."""
    send(self.on_flow(asked.unlock, **asked_for))


@app.task(bind=True, base=FlowTask, name="dharma_tasks.audit")
def audit(self: FlowTask, /, **asked_for: Any) -> None:
    """Write what a person did to a run into the history of a database."""
    self.on_flow(asked.audit, **asked_for)


@app.task(bind=True, base=FlowTask, name="dharma_tasks.declare")
def declare(self: FlowTask, /, **asked_for: Any) -> None:
    """Write what a person declares to be true into the journal of a database."""
    self.on_flow(asked.declare, **asked_for)


@app.task(bind=True, base=FlowTask, name="dharma_tasks.prune")
def prune(self: FlowTask, /, **asked_for: Any) -> None:
    """Remove what was kept for the way back in a database and is old."""
    self.on_flow(asked.prune, **asked_for)


def _register(database: str, kind: str) -> None:
    @app.task(bind=True, base=FlowTask, name=f"dharma_tasks.{database}.{kind}")
    def operation(  # noqa: PLR0913, PLR0917 - named in the message
        self: FlowTask,
        run: str,
        version: str,
        operation: int,
        undo_until: int | None = None,
        range: int | None = None,  # noqa: A002 - as in the message
    ) -> list[Chain] | None:
        begun = time.monotonic()
        at = Next(database, version, operation, undo_until)
        if range is not None:
            self.on_flow(carry_out_range, run, at, range)
            return None
        chains = self.on_flow(carry_out, run, at)
        if self.request.is_eager:  # part of a burst, which goes on with them
            return chains
        go_on(self, time.monotonic() - begun, database, chains, shutting_down)
        return None


for _database in NAMES:
    for _kind in catalogue(_database).operations:
        _register(_database, _kind)
