"""`dharma rollback`: undo what is above a version."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dharma_tasks.cli import options
from dharma_tasks.cli.running import Options, Running, names
from dharma_tasks.journal import Direction
from dharma_tasks.migration import JSON
from dharma_tasks.planner import Request
from dharma_tasks.submit import default_by


@click.command(options_metavar="[OPTIONS]")
@click.argument("version")
@options.databases
@options.more
@options.migrations
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--accept-data-loss", is_flag=True, help="Pass over what cannot be undone.")
@options.no_wait
@options.timeout
@options.as_json
@options.values
@options.by
def rollback(  # noqa: PLR0913 - one for each option
    *,
    version: str,
    databases: tuple[str, ...],
    more: tuple[str, ...],
    migrations: Path | None,
    yes: bool,
    accept_data_loss: bool,
    no_wait: bool,
    timeout: float | None,
    as_json: bool,
    given: JSON,
    by: str | None,
) -> None:
    """Undo everything above VERSION, newest first; VERSION stays, 0.0.0 undoes all.

    It goes as the way forward does: checked and planned as a whole before anything changes,
    carried out by workers, and resumed by itself. What cannot be undone is refused, by name,
    with what would help. Asks first on a terminal.

    Exit status: as of `dharma submit`; 2 also where the answer was no.
    """
    chosen = names(databases, more)
    if not yes and sys.stdin.isatty():
        where = ", ".join(chosen) if chosen else "every database"
        if not click.confirm(f"Undo everything above {version} in {where}?", err=True):
            sys.exit(2)
    request = Request(
        target=version,
        databases=chosen,
        direction=Direction.BACK,
        accept_data_loss=accept_data_loss,
    )
    who = by or default_by()
    wanted = Options(request, migrations, given, who, not no_wait, timeout, as_json, inline=False)
    sys.exit(Running(wanted).run())
