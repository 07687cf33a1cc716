"""Submitting: load and check the folder, claim the databases, store the run, ask for surveys.

`python -m dharma_tasks.submit` is the deployment hook's command; its options are in
`dharma_tasks/cli/submit.py`. The submitter needs Redis only (Law 7).
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from redis import Redis

from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.limits import Limits
from dharma_tasks.loader import Loaded
from dharma_tasks.messages import Chain, survey_message
from dharma_tasks.planner import Request, required_databases
from dharma_tasks.run import Event, Run, RunState, Snapshot, new_run_id
from dharma_tasks.runs import Busy, Runs
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Workers

POLL_SECONDS = 0.2
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


@dataclass(frozen=True)
class Submitted:
    """The run that does what was asked; `joined` when it was there already."""

    run: Run
    joined: bool


class TimedOut(Exception):
    """`--timeout` is over; `run` is the run that still goes on."""

    def __init__(self, run: str, text: str) -> None:
        self.run = run
        super().__init__(text)


class Submission:
    """One submit, from the loaded folder to the run's end."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        send: Callable[[Iterable[Chain]], None],
        *,
        timeout: float | None,
    ) -> None:
        """`timeout` is in seconds and counts from now; None waits for ever."""
        self._runs = Runs(redis, settings.namespace)
        self._workers = Workers(redis, settings.namespace)
        self._send = send
        self._until = None if timeout is None else time.monotonic() + timeout

    def require_workers(self, databases: Iterable[str]) -> None:
        """Make sure that somebody serves every database, waiting a moment for a first worker.

        Raises:
            Unreachable: no worker is alive at all.
            Refused: workers are alive, but none serves one of the databases.
        """
        deadline = time.monotonic() + WORKER_SECONDS
        while missing := set(databases) - self._workers.served():
            if time.monotonic() > deadline:
                raise self._not_served(sorted(missing))
            time.sleep(POLL_SECONDS)

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

    def is_active(self, loaded: Loaded, request: Request) -> bool:
        """Whether an active run has these databases: there is nothing to do but to wait."""
        try:
            return self._runs.occupant(make_run(loaded, request, "")) is not None
        except Busy:
            return True

    def submit(
        self, loaded: Loaded, request: Request, *, by: str, waiting: Callable[[str], None]
    ) -> Submitted:
        """Store the run and set it going, or join the equal one that is active.

        `by` is who asked, for the audit trail; `waiting` is told whom this submit waits for.

        Raises:
            TimedOut: another run had one of the databases until the time was over.
        """
        run = make_run(loaded, request, by)
        told: str | None = None
        while True:
            try:
                found = self._runs.submit(run, loaded.migrations)
            except Busy as busy:
                if told != busy.other:
                    told = busy.other
                    waiting(f"{busy}; waiting for it to end")
                self._pause(busy.other, f"{busy}, and nothing was submitted")
                continue
            if found.id == run.id:
                self._send([survey_message(run.id, db)] for db in run.surveyed)
            return Submitted(found, joined=found.id != run.id)

    def watch(self, run: str) -> Iterator[tuple[Snapshot, list[Event]]]:
        """Yield how the run stands and what is new, several times a second, until it is over.

        Raises:
            TimedOut: the time is over and the run is not.
            Unreachable: Redis has lost the run.
        """
        seen = 0
        while True:
            snapshot = self._runs.snapshot(run)
            if snapshot is None:
                msg = (
                    f"Redis does not know run {run} any more. Give the same command again: the "
                    "journals in the databases say where to go on"
                )
                raise Unreachable(msg)
            events = self._runs.events(run, seen)
            seen += len(events)
            yield snapshot, events
            if snapshot.state.over:
                return
            self._pause(run, f"run {run} goes on")

    def _pause(self, run: str, text: str) -> None:
        if self._until is not None and time.monotonic() + POLL_SECONDS > self._until:
            raise TimedOut(run, text)
        time.sleep(POLL_SECONDS)


def make_run(loaded: Loaded, request: Request, by: str) -> Run:
    """Make the run's record. Two with the same fingerprint want the same."""
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

    import_module("dharma_tasks.cli.submit").submit(prog_name="python -m dharma_tasks.submit")
