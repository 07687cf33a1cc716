"""`dharma rollback`: undo what is above a version."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dharma_tasks.cli.running import Options, Running, names
from dharma_tasks.journal import Direction
from dharma_tasks.planner import Request
from dharma_tasks.submit import default_by


@click.command(options_metavar="[OPTIONS]")
@click.argument("version")
@click.option(
    "--databases",
    metavar="NAMES",
    multiple=True,
    help="Only these, by spaces or commas: mongodb, postgresql, elasticsearch.  [default: all "
    "that have migrations]",
)
@click.argument("more", nargs=-1, metavar="")
@click.option(
    "--migrations",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder of migrations.  [default: DHARMA_MIGRATIONS_DIR, or migrations]",
)
@click.option("--yes", is_flag=True, help="Do not ask first.")
@click.option("--accept-data-loss", is_flag=True, help="Pass over what cannot be undone.")
@click.option("--no-wait", is_flag=True, help="Print the run's id and leave it going.")
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Stop waiting then, with exit status 3; the run goes on.  [default: wait]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end.")
@click.option("--by", metavar="TEXT", help="Who asks, for the audit trail.  [default: USER@HOST]")
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
    options = Options(request, migrations, who, not no_wait, timeout, as_json, inline=False)
    sys.exit(Running(options).run())
