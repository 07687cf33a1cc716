"""`dharma status`, and `python -m dharma_tasks status`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NoReturn

import click
from rich.text import Text

from dharma_tasks.cli import common
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import console
from dharma_tasks.cli.status_report import Report
from dharma_tasks.errors import Refused
from dharma_tasks.settings import Settings
from dharma_tasks.status import look

_INTERVAL = 2.0
"""Seconds from one look to the next."""


@click.command(epilog=examples("dharma status", "dharma status --watch", "dharma status --json"))
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document; with --watch one a line."
)
@click.option("--watch", is_flag=True, help="Show it anew again and again, until Ctrl-C.")
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(min=0.2),
    help=f"How often --watch looks.  [default: {_INTERVAL}]",
)
@click.option(
    "--migrations",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="What is pending is in it.  [default: DHARMA_MIGRATIONS_DIR]",
)
def status(*, as_json: bool, watch: bool, interval: float | None, migrations: Path | None) -> None:
    """Show what is applied, what is pending and what runs.

    A database is read directly where its URL is set, and through a worker where it is not. Where
    there is no terminal, --watch prints a line for each thing that is new.

    Exit status: 0, or 4 when a database cannot be reached; with --watch as of the last look.
    """
    if interval is not None and not watch:
        msg = "--interval says how often --watch looks"
        raise click.UsageError(msg)
    settings: Settings | None = None
    try:
        settings = common.settings()
        if watch:
            _watch(settings, migrations, interval, as_json=as_json)
        result = look(settings, migrations, common.send)
    except BrokenPipeError:  # whoever reads this has seen enough
        raise
    except Exception as error:  # noqa: BLE001 - told in one place
        problems = error.problems if isinstance(error, Refused) else []
        err = console(sys.stderr)
        for line in [*map(str, problems), common.message_of(error, settings)]:
            err.print(Text(line, "bold red"))
        sys.exit(common.status_of(error))
    if as_json:
        click.echo(json.dumps(result.model_dump(mode="json"), indent=2))
    else:
        Report(result).show(console(sys.stdout))
    sys.exit(common.UNREACHABLE if result.unreachable else 0)


def _watch(
    settings: Settings, migrations: Path | None, interval: float | None, *, as_json: bool
) -> NoReturn:
    """Look again and again; one look alone does not wait for the import of this."""
    from dharma_tasks.cli.watching import Watching, leave  # noqa: PLC0415
    from dharma_tasks.watching.statuses import Statuses  # noqa: PLC0415

    looks = Statuses(settings, migrations, common.send)
    leave(Watching(looks, interval or _INTERVAL, json=as_json).run())
