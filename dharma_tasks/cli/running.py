"""What `dharma submit` and `dharma rollback` share: set a run going, and watch it to its end."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field

import click
from rich.console import Console

from dharma_tasks.advice import again
from dharma_tasks.cli import common
from dharma_tasks.cli.outcome import Outcome
from dharma_tasks.cli.screen import Lines, console, screen, stdout
from dharma_tasks.conduct import Conduct, Order
from dharma_tasks.errors import Refused
from dharma_tasks.records import Direction
from dharma_tasks.report import View
from dharma_tasks.run import RunState, Snapshot
from dharma_tasks.settings import Settings
from dharma_tasks.submit import (
    EXIT_STATUS,
    STOPPED_WAITING,
    Checked,
    Said,
    Submitted,
    TimedOut,
    Warned,
    Watched,
    pause,
)

_LOOK_SECONDS = 2
"""How often it is looked whether workers are still alive."""


@dataclass
class Running:
    """One call of the command; `outcome` is filled in as it goes along."""

    order: Order
    json: bool
    outcome: Outcome = field(default_factory=Outcome)
    settings: Settings | None = None
    conduct: Conduct | None = None

    def run(self) -> int:
        """Do it, report, and return the exit status. Raises nothing."""
        began = time.monotonic()
        out = stdout(json=self.json)
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
                self._close(lines)
        self.outcome.seconds = time.monotonic() - began
        return self._report(out)

    def refuse(self, refused: Refused) -> int:
        """Report what was refused before this began, and return the exit status."""
        self._broken(refused)
        return self._report(stdout(json=self.json))

    def _report(self, out: Console) -> int:
        self.outcome.show(out, console(sys.stderr))
        if self.json:
            click.echo(json.dumps(self.outcome.document(), indent=2))
        return self.outcome.status

    # -- the way of a submit --------------------------------------------------------------

    def _submit(self, lines: Lines) -> None:
        settings = self.settings = common.settings()
        conduct = self.conduct = Conduct(self.order, settings, common.send)
        lookout: _Lookout | None = None
        for step in conduct.steps():
            if step is None:
                pause()
                continue
            self.outcome.take(step)
            if isinstance(step, Watched):
                lookout = lookout or _Lookout(conduct, self.outcome)
                self._watched(step, lines, lookout)
            else:
                self._told(step, lines)
        if self.outcome.run is None:
            self._end(0, "Nothing to do: there are no migrations.", RunState.DONE)

    def _told(self, step: Said | Warned | Checked | Submitted, lines: Lines) -> None:
        match step:
            case Checked(migrations):
                self.outcome.migrations = {m.reference: m for m in migrations}
            case Submitted():
                self._submitted(step, lines)
            case Warned(text):
                lines.say(f"warning: {text}", "yellow")
            case Said(text):
                lines.say(text, "yellow")

    def _submitted(self, submitted: Submitted, lines: Lines) -> None:
        run = submitted.run
        if not self.order.wait:
            if not self.json:
                click.echo(run.id)
            return
        how = f"Joined run {run.id} of {run.by}" if submitted.joined else f"Run {run.id}"
        back = " back" if run.direction is Direction.BACK else ""
        lines.say(f"{how}: {', '.join(run.databases)}{back} to {run.target}")

    def _watched(self, step: Watched, lines: Lines, lookout: _Lookout) -> None:
        view = lookout.view(step.snapshot)
        self.outcome.plan = view.plan
        lines.happened(step.events)
        if step.snapshot.state.over:
            self.outcome.status = EXIT_STATUS[step.snapshot.state]
        else:
            lines.update(view)

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
        if self.order.inline:
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

    def _close(self, lines: Lines) -> None:
        """Inline work stops with this process, between two batches. A second Ctrl-C won't wait."""
        if self.conduct is None:
            return
        if self.conduct.worker and self.outcome.status == STOPPED_WAITING:
            lines.say("stopping at the end of this batch …")
        try:
            self.conduct.close()
        except KeyboardInterrupt:
            lines.say("not waiting for it: the database rolls an open transaction back", "yellow")


class _Lookout:
    """Brings what a snapshot does not hold: the plan, and which workers are alive."""

    def __init__(self, conduct: Conduct, outcome: Outcome) -> None:
        self._outcome = outcome
        self._inline = conduct.worker is not None
        self._runs, self._workers = conduct.runs, conduct.workers
        self._looked = float("-inf")
        self._unserved: frozenset[str] = frozenset()

    def view(self, snapshot: Snapshot) -> View:
        planning = snapshot.state is RunState.PLANNING
        surveyed = self._runs.surveyed(snapshot.run) if planning else ()
        plan = self._outcome.plan
        if plan is None and not planning:
            plan = self._runs.plan(snapshot.run)
        return View(
            snapshot=snapshot,
            now=time.time(),
            plan=plan,
            migrations=self._outcome.migrations,
            surveyed=frozenset(surveyed),
            unserved=self._look(snapshot),
        )

    def _look(self, snapshot: Snapshot) -> frozenset[str]:
        now = time.monotonic()
        if not self._inline and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            self._unserved = frozenset(snapshot.run.surveyed) - self._workers.served()
        return self._unserved
