"""Makes its worker kill itself at a named point: `celery worker -I killing`.

The product has no hooks for this: its functions are wrapped from outside. `KILLING` names a
folder. A file in it arms the point that it is named after, in one of these spellings:

    moved    moved.mongodb    moved.mongodb.update_documents

It holds what happens there: `child` (SIGKILL of this child of the pool), `worker` (of the
whole process group), or `hold` (stand still until the file is gone). The point is disarmed
before it is acted on, so it kills once; with ` always` behind, each time; with ` later`, only
a process that has been there before. What happened is written to `KILLING.log`, with the pid.
`KILLING_NODE` is the name of the node that the worker believes to be on; `KILLING_TIMES` is how
often it sends each chain of messages.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from celery import signals
from elasticsearch import Elasticsearch

from dharma_tasks import dispatch
from dharma_tasks.databases.elasticsearch.journal import ElasticsearchJournal
from dharma_tasks.databases.mongodb.journal import MongodbJournal
from dharma_tasks.databases.mongodb.ranges import MongodbRanges
from dharma_tasks.databases.postgresql.journal import PostgresqlJournal
from dharma_tasks.databases.postgresql.ranges import PostgresqlRanges
from dharma_tasks.journal import Journal, Ledger
from dharma_tasks.lease import Leases
from dharma_tasks.records import OperationState
from dharma_tasks.runs_at_work import RunsAtWork
from dharma_tasks.work import Step, Taken

_ARMED = Path(os.environ["KILLING"])
_LOG = Path(f"{_ARMED}.log")
_times: Counter[str] = Counter()
"""How often this process has been at each point, armed or not."""

Point = tuple[str, ...]
"""The point's name, then where it is known the database and the kind of operation."""


def reached(*point: str) -> None:
    """Do what this point is armed with."""
    for length in range(1, len(point) + 1):
        armed = _ARMED / ".".join(point[:length])
        _times[armed.name] += 1
        try:
            what = armed.read_text().split()
            if "later" in what and _times[armed.name] == 1:
                continue
            if what == ["hold"]:
                _hold(armed)
                continue
            if "always" not in what:
                armed.unlink()  # one of several that are here at once gets it
        except FileNotFoundError:
            continue
        _note(armed.name)
        if what[0] == "worker":
            os.killpg(os.getsid(0), signal.SIGKILL)  # the test starts it as a session's leader
        os.kill(os.getpid(), signal.SIGKILL)


def _hold(armed: Path) -> None:
    _note(armed.name)
    while armed.exists():
        time.sleep(0.02)


def _note(what: str) -> None:
    with _LOG.open("a") as log:
        log.write(f"{time.time():.3f} {what} {os.getpid()}\n")


def _after(owner: type, name: str, point: Callable[..., Point]) -> None:
    """Let `owner.name` reach a point when it has returned; `point` gets result and arguments."""
    original = getattr(owner, name)

    @wraps(original)
    def wrapped(self: Any, *arguments: Any, **options: Any) -> Any:
        result = original(self, *arguments, **options)
        reached(*point(result, *arguments, **options))
        return result

    setattr(owner, name, wrapped)


def _stepped(after: Taken, *_: object, **__: object) -> Point:
    name = "done" if after.state is OperationState.DONE else "stepped"
    return (name, after.assignment.key.database, after.assignment.type)


def _of(name: str) -> Callable[..., Point]:
    def point(taken: Taken, *_: object, **__: object) -> Point:
        return (name, taken.assignment.key.database, taken.assignment.type)

    return point


def _in_batches(owner: type[Ledger[Any]], name: str = "batch") -> None:
    """Reach the point `name` inside each batch, after its effect and before its commit."""
    original = owner.step

    @wraps(original)
    def wrapped(self: Any, taken: Taken, batch: Callable[[Any], Step], **options: Any) -> Taken:
        def inside(handle: Any) -> Step:
            step = batch(handle)
            reached(name, taken.assignment.key.database, taken.assignment.type)
            return step

        return original(self, taken, inside, **options)

    owner.step = wrapped  # type: ignore[method-assign]


def _postrun(task: Any, **_: object) -> None:
    """The task is done, its next link is sent, and its message is not yet acknowledged."""
    reached("unacknowledged", *task.name.split(".")[1:])


def _wrap() -> None:
    journals: dict[str, type[Journal[Any]]] = {
        "mongodb": MongodbJournal,
        "postgresql": PostgresqlJournal,
        "elasticsearch": ElasticsearchJournal,
    }
    for database, journal in journals.items():
        _after(journal, "begin", lambda *_, name=database: ("opened", name))
        _after(journal, "take", _of("taken"))
        _after(journal, "prepare", _of("prepared"))
        _in_batches(journal)
        _after(journal, "step", _stepped)
        _after(journal, "fail", lambda _, taken, *__: _of("failed")(taken))
    for ranges in (MongodbRanges, PostgresqlRanges):
        _after(ranges, "take", _of("range_taken"))
        _in_batches(ranges, "range_batch")
        _after(ranges, "fail", lambda _, taken, *__: _of("range_failed")(taken))
    _after(Elasticsearch, "reindex", lambda *_, **__: ("sent", "elasticsearch"))
    _after(RunsAtWork, "put_survey", lambda _, __, survey: ("surveyed", survey.database))
    _after(RunsAtWork, "start", lambda *_: ("planned",))
    _after(RunsAtWork, "begun", lambda _, __, database, ___: ("begun", database))
    _after(Leases, "acquire", lambda _, key, *__: ("leased", key.database))
    _after(
        RunsAtWork,
        "moved",
        lambda _, __, at, following, *___, **____: (
            "moved" if following else "applied",
            at.database,
        ),
    )
    _after(RunsAtWork, "confirm", lambda *_: ("confirmed",))
    signals.task_postrun.connect(_postrun, weak=False)


def _send_often(times: int) -> None:
    """Let the worker send each chain so many times."""
    original = vars(dispatch)["chain"]

    def chain(*messages: Any) -> Any:
        def send() -> None:
            for _ in range(times):
                original(*messages).apply_async()

        return SimpleNamespace(apply_async=send)

    vars(dispatch)["chain"] = chain


if "KILLING_TIMES" in os.environ:
    _send_often(int(os.environ["KILLING_TIMES"]))
if "KILLING_NODE" in os.environ:
    socket.gethostname = lambda: os.environ["KILLING_NODE"]
_wrap()
