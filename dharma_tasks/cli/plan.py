"""`dharma plan`, and `dharma submit --dry-run`: what would be done, and nothing is."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from dharma_tasks import words
from dharma_tasks.cli import common, options
from dharma_tasks.cli.check import advice
from dharma_tasks.cli.running import names
from dharma_tasks.cli.screen import Indented, console
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.journal import Direction
from dharma_tasks.loader import Loaded, load
from dharma_tasks.planner import Request, required_databases
from dharma_tasks.preview import MigrationPreview, OperationPreview, Preview, make
from dharma_tasks.reading import surveys
from dharma_tasks.settings import Settings

_LINES = 12
"""Of a file's SQL so many are shown; `--json` has all of it."""


@click.command()
@options.target
@options.databases
@options.more
@options.migrations
@click.option("--rollback-to", metavar="X.Y.Z", help="Show the way back to this version instead.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan(  # noqa: PLR0913 - one for each option
    *,
    target: str,
    databases: tuple[str, ...],
    more: tuple[str, ...],
    migrations: Path | None,
    rollback_to: str | None,
    as_json: bool,
) -> None:
    """Show what a submit would do: the order, what waits for what, what cannot be undone, the SQL.

    The journals are read as they are, and nothing is written anywhere. What a submit would be
    refused for is shown as it would show it.

    Exit status: 0, 2 when a submit would be refused, 4 when a database cannot be reached.
    """
    request = Request(
        target=rollback_to or target,
        databases=names(databases, more),
        direction=Direction.BACK if rollback_to else Direction.FORWARD,
    )
    sys.exit(show(Asked(request, migrations, as_json)))


@dataclass(frozen=True)
class Asked:
    """What is to be shown, and how."""

    request: Request
    migrations: Path | None
    json: bool


def show(asked: Asked) -> int:
    """Print the preview, or why there is none. Returns the exit status."""
    settings: Settings | None = None
    err = console(sys.stderr)
    try:
        settings = common.settings()
        folder = asked.migrations or settings.migrations_dir
        loaded = load(folder)
        needed = required_databases(loaded.migrations, asked.request)
        journals = surveys(needed, settings, common.send)
        found = make(loaded.migrations, journals, asked.request)
    except Refused as refused:
        err.print(Text("A submit would be refused; nothing was changed:", "bold red"))
        for problem in refused.problems:
            err.print(Indented(str(problem), 2))
        return common.REFUSED
    except Exception as error:  # noqa: BLE001 - told in one place
        err.print(Text(common.message_of(error, settings) or str(error), "bold red"))
        return common.status_of(error)
    if asked.json:
        click.echo(found.model_dump_json(indent=2))
    else:
        _Report(found, _advice(loaded, found, folder)).show(console(sys.stdout))
    return 0


def _advice(loaded: Loaded, found: Preview, folder: Path) -> list[Problem]:
    """What is said of the files that would run."""
    end = "_rollback" if found.direction is Direction.BACK else ""
    planned = (migration for order in found.databases.values() for migration in order)
    files = {migration.file.removesuffix(".json") + end for migration in planned}
    return [p for p in advice(loaded, folder) if p.file.rpartition(".")[0] in files]


class _Report:
    """A preview for a person."""

    def __init__(self, found: Preview, advice: Sequence[Problem]) -> None:
        self._found = found
        self._advice = advice

    def show(self, out: Console) -> None:
        """Print it."""
        back = self._found.direction is Direction.BACK
        for name, order in self._found.databases.items():
            what = "to undo" if back else "to apply"
            out.print(Text(f"{name}: {words.several(len(order), 'migration')} {what}", "bold"))
            for migration in order:
                self._migration(out, migration)
        for problem in self._advice:
            out.print(Indented(f"advice: {problem}", 2, "yellow"))
        for warning in self._found.warnings:
            out.print(Text(f"warning: {warning}", "yellow"))
        if not self._found.databases:
            out.print(Text("Nothing to do.", "bold green"))

    def _migration(self, out: Console, migration: MigrationPreview) -> None:
        out.print(Text(f"  {migration.version} {migration.name}", "cyan"))
        if migration.waits:
            out.print(Indented(f"waits for {', '.join(migration.waits)}", 4, "dim"))
        for operation in migration.operations:
            out.print(Indented(_line(operation), 4))
            if operation.irreversible:
                out.print(Indented(operation.irreversible, 6, "yellow"))
            for line in _sql(operation):
                out.print(Text(f"      {line}", "dim"))


def _line(operation: OperationPreview) -> str:
    undo = "undo " if operation.undo else ""
    return f"{operation.number} {undo}{operation.type} {operation.summary}"


def _sql(operation: OperationPreview) -> Iterator[str]:
    lines = (operation.sql or "").rstrip().splitlines()
    yield from lines[:_LINES]
    if len(lines) > _LINES:
        yield f"… {words.several(len(lines) - _LINES, 'more line')}"
