"""Submitting: load and check the folder, claim the databases, store the run, ask for surveys.

`python -m dharma_tasks.submit` is the deployment hook's command; its options are in
`dharma_tasks/cli/submit.py`. The submitter needs Redis only (Law 7).

What takes its time is a generator of steps. None of them waits: where there is something to wait
for, a step brings None, and whoever takes the steps pauses before the next one. A command sleeps
(`pause`), and a program lets its event loop go on.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from redis.exceptions import RedisError

from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.limits import Limits
from dharma_tasks.loader import Loaded
from dharma_tasks.messages import Chain, survey_message
from dharma_tasks.migration import Migration
from dharma_tasks.planner import Request, required_databases
from dharma_tasks.redis_client import lost
from dharma_tasks.run import Event, Run, RunState, Snapshot, new_run_id
from dharma_tasks.runs import Busy, Runs
from dharma_tasks.workers import Workers

POLL_SECONDS = 0.2
"""How long a pause is."""
REDIS_SECONDS = 30
"""How long a watcher waits for a Redis that restarts: the run itself goes on (Law 2)."""
WORKER_SECONDS = 6
"""How long a submit waits for a first worker: a deployment starts both at once."""

EXIT_STATUS = {
    RunState.DONE: 0,
    RunState.FAILED: 1,
    RunState.REFUSED: 2,
    RunState.UNREACHABLE: 4,
    RunState.CANCELLED: 5,
}
STOPPED_WAITING = 3
_ANYWHERE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Checked:
    """Nothing is wrong with what was asked for. Who takes no further step has changed nothing."""

    migrations: tuple[Migration, ...]


@dataclass(frozen=True)
class Submitted:
    """The run that does what was asked; `joined` when it was there already."""

    run: Run
    joined: bool


@dataclass(frozen=True)
class Said:
    """For people: what is waited for."""

    text: str


@dataclass(frozen=True)
class Warned:
    """For people: what does not keep it from running."""

    text: str


@dataclass(frozen=True)
class Watched:
    """How the run stands, and what has happened since the last look."""

    snapshot: Snapshot
    events: list[Event]


Seen = Said | Warned | Checked | Submitted | Watched
Step = Seen | None
"""What a step brings; None asks for a pause."""


def pause() -> None:
    """Wait between two steps."""
    time.sleep(POLL_SECONDS)


class TimedOut(Exception):
    """`--timeout` is over; `run` is the run that still goes on."""

    def __init__(self, run: str, text: str) -> None:
        self.run = run
        super().__init__(text)


class Patience:
    """How long somebody waits."""

    def __init__(self, seconds: float | None) -> None:
        """`seconds` count from now; None is for ever."""
        self._until = None if seconds is None else time.monotonic() + seconds

    def pause(self, run: str, text: str) -> Iterator[None]:
        """Ask for a pause.

        Raises:
            TimedOut: the time would be over after it; with `run` and `text`.
        """
        if self._until is not None and time.monotonic() + POLL_SECONDS > self._until:
            raise TimedOut(run, text)
        yield None


class Submission:
    """One submit, from the loaded folder to the run that does it."""

    def __init__(
        self,
        runs: Runs,
        workers: Workers,
        send: Callable[[Iterable[Chain]], None],
        patience: Patience,
    ) -> None:
        """`send` reaches whoever is to do the work."""
        self._runs = runs
        self._workers = workers
        self._send = send
        self._patience = patience

    def require_workers(self, databases: Iterable[str]) -> Iterator[Step]:
        """Make sure that somebody serves every database, waiting a moment for a first worker.

        Raises:
            Unreachable: no worker is alive at all.
            Refused: workers are alive, but none serves one of the databases.
        """
        deadline = time.monotonic() + WORKER_SECONDS
        if missing := set(databases) - self._workers.served():
            yield Said(f"waiting for a worker that serves {', '.join(sorted(missing))} …")
        while missing:
            if time.monotonic() > deadline:
                raise self._not_served(sorted(missing))
            yield None
            missing = set(databases) - self._workers.served()

    def _not_served(self, missing: list[str]) -> Exception:
        start = "Start one: celery -A dharma_tasks worker"
        if not self._workers.alive():
            return Unreachable(f"no worker is alive. {start}")
        return Refused(
            [
                Problem(
                    "",
                    "",
                    f"there are migrations for {database}, but no live worker serves it",
                    f"Set DHARMA_{database.upper()}_URL for a worker (and -Q, where it is used, "
                    f"to include {database}), or leave the database out with --databases",
                )
                for database in missing
            ]
        )

    def is_active(self, run: Run) -> bool:
        """Whether an active run has these databases: there is nothing to do but to wait."""
        try:
            return self._runs.occupant(run) is not None
        except Busy:
            return True

    def submit(self, run: Run, loaded: Loaded) -> Generator[Step, None, Submitted]:
        """Store the run and set it going, or join the equal one that is active; in one step.

        Raises:
            TimedOut: another run had one of the databases until the time was over.
        """
        told: str | None = None
        while True:
            try:
                found = self._runs.submit(run, loaded.migrations)
            except Busy as busy:
                if told != busy.other:
                    told = busy.other
                    yield Said(f"{busy}; waiting for it to end")
                yield from self._patience.pause(busy.other, f"{busy}, and nothing was submitted")
                continue
            if found.id == run.id:
                self._send([survey_message(run.id, db)] for db in run.surveyed)
            return Submitted(found, joined=found.id != run.id)


def watch(runs: Runs, run: str, patience: Patience) -> Iterator[Step]:
    """Look at the run several times a second, until it is over.

    Raises:
        TimedOut: the time is over and the run is not.
        Unreachable: Redis has lost the run, or has not answered for `REDIS_SECONDS`.
    """
    seen = 0
    since: float | None = None
    while True:
        try:
            snapshot, events = _look(runs, run, seen)
        except RedisError as error:
            if since is None:
                since = time.monotonic()
                yield Said(f"Redis does not answer ({error}); the run goes on, waiting …")
            if time.monotonic() - since > REDIS_SECONDS:
                raise lost(error) from error
        else:
            since = None
            seen += len(events)
            yield Watched(snapshot, events)
            if snapshot.state.over:
                return
        yield from patience.pause(run, f"run {run} goes on")


def _look(runs: Runs, run: str, seen: int) -> tuple[Snapshot, list[Event]]:
    snapshot = runs.snapshot(run)
    if snapshot is None:
        msg = (
            f"Redis does not know run {run} any more. Give the same command again: the "
            "journals in the databases say where to go on"
        )
        raise Unreachable(msg)
    return snapshot, runs.events(run, seen)


def make_run(
    loaded: Loaded, request: Request, by: str, whereabouts: Mapping[str, str] = _ANYWHERE
) -> Run:
    """Make the run's record. Two with the same fingerprint want the same.

    `whereabouts` says which databases the workers must be connected to.
    """
    required = required_databases(loaded.migrations, request)
    selected = tuple(sorted(request.databases or {m.database for m in loaded.migrations}))
    wanted = [
        request.target,
        str(request.allow_out_of_order),
        str(request.allow_major),
        request.direction,
        str(request.accept_data_loss),
        *selected,
        *sorted(f"{m.reference} {m.stamp} {json.dumps(m.rollback)}" for m in loaded.migrations),
    ]
    if request.limits != Limits():
        wanted.append(request.limits.model_dump_json())
    if whereabouts:
        wanted.append(json.dumps(whereabouts, sort_keys=True))
    now = datetime.now(UTC)
    return Run(
        id=new_run_id(now),
        created=now,
        by=by,
        target=request.target,
        databases=selected,
        surveyed=tuple(sorted(required)),
        allow_out_of_order=request.allow_out_of_order,
        allow_major=request.allow_major,
        direction=request.direction,
        accept_data_loss=request.accept_data_loss,
        limits=request.limits,
        whereabouts=dict(whereabouts),
        fingerprint=hashlib.sha256("\n".join(wanted).encode()).hexdigest(),
    )


def who_asks(by: str | None) -> str:
    """Who asks, for the audit trail: USER@HOST, behind what `--by` says where it says something.

    In a container the user may have a number and no name.
    """
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    here = f"{user}@{socket.gethostname()}"
    return f"{by} ({here})" if by else here


if __name__ == "__main__":
    from importlib import import_module

    import_module("dharma_tasks.cli").command("submit")(prog_name="python -m dharma_tasks.submit")
