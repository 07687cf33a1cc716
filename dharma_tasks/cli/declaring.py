"""What `dharma baseline` and `dharma repair` share: decide, show, ask, let workers write it.

It is decided here, from the folder and the journals as they are; a worker writes it only where
the journal is still as it was.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click
from rich.text import Text

from dharma_tasks.bounds import Bounds
from dharma_tasks.cli import common
from dharma_tasks.cli.asking import GOES_ON, Asking
from dharma_tasks.cli.screen import Indented, console, stdout
from dharma_tasks.declaring.proposal import Change, Proposal, Wish
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.loader import load
from dharma_tasks.messages import DECLARED, ERROR, REFUSED, Message, declare_message
from dharma_tasks.migration import JSON
from dharma_tasks.reading import surveys
from dharma_tasks.redis_client import require_redis
from dharma_tasks.run import new_run_id
from dharma_tasks.settings import Settings
from dharma_tasks.values import Values

_STATES = {
    0: "done",
    common.REFUSED: "refused",
    common.UNREACHABLE: "unreachable",
    common.INTERRUPTED: "interrupted",
}


@dataclass(frozen=True)
class Options:
    """How it is asked for."""

    migrations: Path | None
    by: str
    yes: bool
    json: bool


class Declaring:
    """One call of one of the commands."""

    def __init__(self, wish: Wish, options: Options) -> None:
        """Nothing is read yet."""
        self._wish = wish
        self._options = options
        self._out = stdout(json=options.json)
        self._settings: Settings | None = None
        self._document: JSON = {"databases": {}, "warnings": [], "problems": [], "message": ""}

    def run(self) -> int:
        """Do it, report, and return the exit status."""
        try:
            status = self._declare()
        except KeyboardInterrupt:
            status = common.INTERRUPTED
            self._say(GOES_ON)
        except Exception as error:  # noqa: BLE001 - told in one place
            status = common.status_of(error)
            self._broken(error)
        if self._options.json:
            state = {"state": _STATES.get(status, "error")}
            click.echo(json.dumps(state | self._document, indent=2))
        return status

    def _declare(self) -> int:
        settings = self._settings = common.settings()
        folder = self._options.migrations or settings.migrations_dir
        values = Values(settings=settings.values, required=False)
        migrations = load(folder, values, Bounds.of(settings)).migrations
        asking = Asking(settings, require_redis(settings))
        needed = self._wish.surveyed(migrations)
        asking.require_quiet(self._wish.databases(migrations))
        proposal = self._wish.decide(migrations, surveys(needed, settings, common.send))
        self._show(proposal)
        if not proposal.changes:
            self._say("Nothing to do: all of that is applied.")
            return 0
        asking.require_served(proposal.changes)
        if not (self._options.yes or common.answered(self._wish.question)):
            way_out = (
                "" if common.on_terminal() else " Where nobody is there to answer, give --yes."
            )
            self._say(f"Nothing was changed.{way_out}")
            return common.REFUSED
        self._write(asking, proposal)
        return 0

    def _write(self, asking: Asking, proposal: Proposal) -> None:
        run = self._document["run"] = new_run_id(datetime.now(UTC))

        def message(name: str, reply: str) -> Message:
            declaration = proposal.declaration(name, run=run, by=self._options.by)
            return declare_message(name, declaration, proposal.heads[name], reply)

        answers = asking.answers(proposal.changes, message)
        written = [name for name, answer in answers.items() if answer == DECLARED]
        if written:
            where = " and ".join(written)
            self._say(f"Written to {where}, and to the history, as done by {self._options.by}.")
        self._raise_for(answers)
        self._say(f"Next: {proposal.todo}")

    def _raise_for(self, answers: Mapping[str, str]) -> None:
        """What has kept a worker from it, if anything has."""
        refused = [a.removeprefix(REFUSED) for a in answers.values() if a.startswith(REFUSED)]
        errors = [a.removeprefix(ERROR) for a in answers.values() if a.startswith(ERROR)]
        if errors:
            raise Unreachable("\n".join([*errors, *refused]))
        if refused:
            raise Refused([Problem("", "", why, "") for why in refused])

    # -- told ----------------------------------------------------------------------------

    def _say(self, text: str, style: str = "") -> None:
        self._document["message"] = text
        self._out.print(Text(text, style))

    def _show(self, proposal: Proposal) -> None:
        for name, changes in proposal.changes.items():
            self._out.print(Text(f"{name}:", "bold"))
            for change in changes:
                self._out.print(Text(f"  {_line(change)}"))
                for note in change.notes:
                    self._out.print(Indented(note, 4, "dim"))
            self._document["databases"][name] = [_fields(change) for change in changes]
        for warning in proposal.warnings:
            self._out.print(Text(f"warning: {warning}", "yellow"))
        self._document["warnings"] = list(proposal.warnings)

    def _broken(self, error: Exception) -> None:
        err = console(sys.stderr)
        if isinstance(error, Refused):
            err.print(Text("Refused:", "bold red"))
            for problem in error.problems:
                err.print(Indented(str(problem), 2))
            self._document["problems"] = [str(problem) for problem in error.problems]
            return
        self._document["message"] = common.message_of(error, self._settings) or str(error)
        err.print(Text(self._document["message"], "bold red"))


def _line(change: Change) -> str:
    amendment = change.amendment
    arrow = "stays" if change.then is change.now else f"{change.now} →"
    return f"{amendment.version} {amendment.name}: {arrow} {change.then}"


def _fields(change: Change) -> JSON:
    return {
        "version": change.amendment.version,
        "name": change.amendment.name,
        "now": change.now,
        "then": change.then,
        "notes": list(change.notes),
    }
