"""`dharma rollback`: undo what is above a version."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from dharma_tasks.bounds import Bounds
from dharma_tasks.cli import common, options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.running import Running
from dharma_tasks.conduct import Order
from dharma_tasks.errors import Refused, Unreachable
from dharma_tasks.loader import load
from dharma_tasks.migration import JSON
from dharma_tasks.planner import Plan, Request, required_databases
from dharma_tasks.reading import surveys
from dharma_tasks.records import Direction, Survey
from dharma_tasks.reversal import plan_back
from dharma_tasks.submit import who_asks
from dharma_tasks.values import Values
from dharma_tasks.words import several


@click.command(
    options_metavar="[OPTIONS]",
    epilog=examples(
        "dharma rollback 1.3.0", "dharma rollback 0.0.0 --databases elasticsearch --yes"
    ),
)
@click.argument("version")
@options.databases
@options.more
@options.migrations
@options.yes
@click.option("--accept-data-loss", is_flag=True, help="Pass over what cannot be undone.")
@options.no_wait
@options.timeout
@options.as_json
@options.max_rate
@options.window
@options.timezone
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
    max_rate: float | None,
    window: str | None,
    timezone: str | None,
    given: JSON,
    by: str | None,
) -> None:
    """Undo everything above VERSION, newest first; VERSION stays, 0.0.0 undoes all.

    It goes as the way forward does: checked and planned as a whole before anything changes,
    carried out by workers, and resumed by itself. What cannot be undone is refused, by name,
    with what would help. On a terminal it shows what would be undone, and asks first.

    Exit status: as of `dharma submit`; 2 also where the answer was no, 130 Ctrl-C at the question.
    """
    chosen = options.names(databases, more)
    request = Request(
        target=version,
        databases=chosen,
        direction=Direction.BACK,
        accept_data_loss=accept_data_loss,
        limits=options.limits(max_rate, window, timezone),
    )
    who = who_asks(by)
    wanted = Order(request, migrations, given, who, not no_wait, timeout)
    running = Running(wanted, as_json)
    if not yes and common.on_terminal():
        try:
            made = _planned(wanted)
        except Refused as refused:
            sys.exit(running.refuse(refused))
        for line in _undone(*made) if made else ():
            click.echo(line, err=True)
        where = ", ".join(chosen) if chosen else "every database"
        nothing = made and not made[0].orders
        if not (nothing or common.agreed(f"Undo everything above {version} in {where}?")):
            click.echo("Nothing was changed.", err=True)
            sys.exit(common.REFUSED)
    sys.exit(running.run())


def _planned(wanted: Order) -> tuple[Plan, Mapping[str, Survey]] | None:
    """What would be undone, and what the journals say; None where they cannot be read from here.

    Raises:
        Refused: what the rollback would be refused for.
    """
    settings = common.settings()
    folder = wanted.migrations or settings.migrations_dir
    migrations = load(folder, Values(wanted.given, settings.values), Bounds.of(settings)).migrations
    try:
        needed = required_databases(migrations, wanted.request)
        journals = surveys(needed, settings, common.send)
    except Unreachable:
        return None
    return plan_back(migrations, journals, wanted.request), journals


def _undone(made: Plan, journals: Mapping[str, Survey]) -> Iterator[str]:
    """The versions with their names, and what cannot be undone."""
    for database, order in made.orders.items():
        records = journals[database].by_version()
        yield f"{database}: {several(len(order), 'migration')} to undo"
        yield from (f"  {version} {records[version].name}" for version in order)
    yield from (f"warning: {warning}" for warning in made.warnings)
