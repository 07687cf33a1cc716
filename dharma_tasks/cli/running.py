"""What `dharma submit` and `dharma rollback` share: set a run going, and watch it to its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console

from dharma_tasks.advice import again
from dharma_tasks.cli import common
from dharma_tasks.cli.inline import InlineWorker
from dharma_tasks.cli.outcome import Outcome
from dharma_tasks.cli.screen import Lines, console, screen, stdout
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.loader import load
from dharma_tasks.migration import JSON
from dharma_tasks.planner import Request, required_databases
from dharma_tasks.records import Direction
from dharma_tasks.redis_client import require_redis
from dharma_tasks.report import View
from dharma_tasks.run import Event, RunState, Snapshot
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.submit import (
    EXIT_STATUS,
    STOPPED_WAITING,
    Submission,
    Submitted,
    TimedOut,
)
from dharma_tasks.values import Values
from dharma_tasks.workers import Workers

_REDIS_SECONDS = 30
"""How long a watcher waits for a Redis that restarts: the run itself goes on (Law 2)."""
_LOOK_SECONDS = 2
"""How often it is looked whether workers are still alive."""


@dataclass(frozen=True)
class Options:
    """What the command line asks for; `given` are values by name, `timeout` is in seconds."""

    request: Request
    migrations: Path | None
    given: JSON
    by: str
    wait: bool
    timeout: float | None
    json: bool
    inline: bool


def names(values: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names after --databases: after a comma in `values`, after a space in `more`."""
    if not values and more:
        msg = f"Got unexpected extra argument{'s' * (len(more) > 1)} ({' '.join(more)})"
        raise click.UsageError(msg)
    found = [name for text in (*values, *more) for name in text.replace(",", " ").split()]
    if values and not found:
        msg = "--databases needs at least one name"
        raise click.UsageError(msg)
    return tuple(dict.fromkeys(found)) or None


@dataclass
class Running:
    """One call of the command; `outcome` is filled in as it goes along."""

    options: Options
    outcome: Outcome = field(default_factory=Outcome)
    settings: Settings | None = None
    worker: InlineWorker | None = None

    def run(self) -> int:
        """Do it, report, and return the exit status. Raises nothing."""
        began = time.monotonic()
        out = stdout(json=self.options.json)
        with screen(out) as lines:
            try:
                self._submit(lines)
            except KeyboardInterrupt:
                self._interrupted()
            except TimedOut as over:
                why = "the time is over" if self.outcome.run else str(over)
                self._end(STOPPED_WAITING, f"Stopped waiting: {why}. {self._how_to_watch()}")
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told in one place
                self._broken(error)
            finally:
                self._stop_worker(lines)
        self.outcome.seconds = time.monotonic() - began
        return self._report(out)

    def refuse(self, refused: Refused) -> int:
        """Report what was refused before this began, and return the exit status."""
        self._broken(refused)
        return self._report(stdout(json=self.options.json))

    def _report(self, out: Console) -> int:
        self.outcome.show(out, console(sys.stderr))
        if self.options.json:
            click.echo(json.dumps(self.outcome.document(), indent=2))
        return self.outcome.status

    # -- the way of a submit --------------------------------------------------------------

    def _submit(self, lines: Lines) -> None:
        settings = self.settings = common.settings()
        folder = self.options.migrations or settings.migrations_dir
        loaded = load(folder, Values(self.options.given, settings.values))
        for warning in loaded.warnings:
            self._warn(lines, str(warning))
        needed = required_databases(loaded.migrations, self.options.request)
        if not needed:
            self._end(0, "Nothing to do: there are no migrations.", RunState.DONE)
            return
        self.outcome.migrations = {m.reference: m for m in loaded.migrations}
        redis = require_redis(settings)
        submission = self._submission(settings, redis, needed)
        if self.worker is None and not submission.is_active(loaded, self.options.request):
            _require_workers(lines, submission, Workers(redis, settings.namespace), needed)
        submitted = submission.submit(
            loaded,
            self.options.request,
            by=self.options.by,
            waiting=lambda text: lines.say(text, "yellow"),
        )
        self._submitted(lines, submitted)
        if self.options.wait:
            self._watch(lines, redis, lambda: submission.watch(submitted.run.id))

    def _submission(self, settings: Settings, redis: Redis, needed: set[str]) -> Submission:
        """Ready to submit, to workers or to one in this process."""
        if self.options.inline:
            _require_urls(settings, needed)
            self.worker = InlineWorker(settings, redis, needed)
            self.worker.start()
            return Submission(settings, redis, self.worker.send, timeout=self.options.timeout)
        timeout = self.options.timeout if self.options.wait else 0
        return Submission(settings, redis, common.send, timeout=timeout)

    def _submitted(self, lines: Lines, submitted: Submitted) -> None:
        run = self.outcome.run = submitted.run
        if not self.options.wait:
            self.outcome.state = RunState.PLANNING
            if not self.options.json:
                click.echo(run.id)
            return
        how = f"Joined run {run.id} of {run.by}" if submitted.joined else f"Run {run.id}"
        back = " back" if run.direction is Direction.BACK else ""
        lines.say(f"{how}: {', '.join(run.databases)}{back} to {run.target}")

    def _watch(
        self,
        lines: Lines,
        redis: Redis,
        watch: Callable[[], Iterator[tuple[Snapshot, list[Event]]]],
    ) -> None:
        lookout = _Lookout(self, redis)
        for snapshot, events in _through_restarts(watch, lines):
            if self.worker:
                self.worker.check()
            self.outcome.snapshot = snapshot
            self.outcome.state = snapshot.state
            self.outcome.events += events
            self.outcome.warnings += [e.text for e in events if e.kind == "warning"]
            view = lookout.view(snapshot)
            self.outcome.plan = view.plan
            lines.happened(events)
            if not snapshot.state.over:
                lines.update(view)
        self.outcome.problems = snapshot.problems
        self.outcome.status = EXIT_STATUS[snapshot.state]

    # -- other ends -----------------------------------------------------------------------

    def _interrupted(self) -> None:
        if self.outcome.run is None:
            self._end(common.INTERRUPTED, "Interrupted; nothing was submitted.", "error")
            return
        self._end(STOPPED_WAITING, f"Interrupted. {self._how_to_watch()}")

    def _how_to_watch(self) -> str:
        run = self.outcome.run
        if run is None:
            return "Watch the other run with `dharma status`."
        same = again(run.direction)
        if self.options.inline:
            return f"Run {run.id} stays where it is; {same} again goes on with it."
        return f"Run {run.id} goes on. Watch it with `dharma status`, or join it again with {same}."

    def _broken(self, error: Exception) -> None:
        status = common.status_of(error)
        states = {2: RunState.REFUSED, 4: RunState.UNREACHABLE}
        if isinstance(error, Refused):
            self.outcome.problems = error.problems
        self._end(status, common.message_of(error, self.settings), states.get(status, "error"))

    def _end(self, status: int, message: str, state: str = "") -> None:
        self.outcome.status = status
        self.outcome.message = message
        self.outcome.state = state or self.outcome.state or "waiting"

    def _warn(self, lines: Lines, text: str) -> None:
        self.outcome.warnings.append(text)
        lines.say(f"warning: {text}", "yellow")

    def _stop_worker(self, lines: Lines) -> None:
        """Inline work stops with this process, between two batches. A second Ctrl-C won't wait."""
        if self.worker is None:
            return
        if self.outcome.status == STOPPED_WAITING:
            lines.say("stopping at the end of this batch …")
        try:
            self.worker.stop()
        except KeyboardInterrupt:
            lines.say("not waiting for it: the database rolls an open transaction back", "yellow")


class _Lookout:
    """Brings what a snapshot does not hold: the plan, and which workers are alive."""

    def __init__(self, of: Running, redis: Redis) -> None:
        namespace = of.settings.namespace if of.settings else ""
        self._of = of
        self._runs = Runs(redis, namespace)
        self._workers = Workers(redis, namespace)
        self._looked = float("-inf")
        self._unserved: frozenset[str] = frozenset()

    def view(self, snapshot: Snapshot) -> View:
        planning = snapshot.state is RunState.PLANNING
        surveyed = self._runs.surveyed(snapshot.run) if planning else ()
        plan = self._of.outcome.plan
        if plan is None and not planning:
            plan = self._runs.plan(snapshot.run)
        return View(
            snapshot=snapshot,
            now=time.time(),
            plan=plan,
            migrations=self._of.outcome.migrations,
            surveyed=frozenset(surveyed),
            unserved=self._look(snapshot),
        )

    def _look(self, snapshot: Snapshot) -> frozenset[str]:
        now = time.monotonic()
        if self._of.worker is None and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._unserved = frozenset(snapshot.run.surveyed) - self._workers.served()
        return self._unserved


def _through_restarts(
    watch: Callable[[], Iterator[tuple[Snapshot, list[Event]]]], lines: Lines
) -> Iterator[tuple[Snapshot, list[Event]]]:
    """Watch on when Redis was away for a moment; what was seen before is not shown again."""
    seen = 0
    lost: float | None = None
    while True:
        read = 0
        try:
            for snapshot, events in watch():
                lost = None
                fresh = events[max(seen - read, 0) :]
                read += len(events)
                seen = max(seen, read)
                yield snapshot, fresh
        except RedisError as error:
            now = time.monotonic()
            if lost is None:
                lost = now
                lines.say(f"Redis does not answer ({error}); the run goes on, waiting …", "yellow")
            if now - lost > _REDIS_SECONDS:
                raise
            time.sleep(_LOOK_SECONDS / 4)
        else:
            return


def _require_workers(
    lines: Lines, submission: Submission, workers: Workers, needed: set[str]
) -> None:
    """Somebody must be there who will do the work."""
    if missing := needed - workers.served():
        lines.say(f"waiting for a worker that serves {', '.join(sorted(missing))} …", "yellow")
    submission.require_workers(needed)


def _require_urls(settings: Settings, needed: Iterable[str]) -> None:
    """Inline there is no worker that could know a database's URL."""
    missing = sorted(name for name in needed if settings.url(name) is None)
    if missing:
        raise Refused(
            [
                Problem(
                    "",
                    "",
                    f"there are migrations for {name}, but no DHARMA_{name.upper()}_URL",
                    "Set it, or leave the database out with --databases.",
                )
                for name in missing
            ]
        )
