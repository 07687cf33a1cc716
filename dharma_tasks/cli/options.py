"""Options that several commands have, in the same words."""

from __future__ import annotations

from pathlib import Path

import click

from dharma_tasks.planner import LATEST

target = click.option(
    "--target",
    metavar="latest|X.Y.Z",
    default=LATEST,
    show_default=True,
    help="The highest version to apply in each database.",
)
databases = click.option(
    "--databases",
    metavar="NAMES",
    multiple=True,
    help="Only these, by spaces or commas: mongodb, postgresql, elasticsearch.  [default: all "
    "that have migrations]",
)
more = click.argument("more", nargs=-1, metavar="")
"""The names after a space behind --databases."""
migrations = click.option(
    "--migrations",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="The folder of migrations.  [default: DHARMA_MIGRATIONS_DIR, or migrations]",
)
no_wait = click.option("--no-wait", is_flag=True, help="Print the run's id and leave it going.")
timeout = click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Stop waiting then, with exit status 3; the run goes on.  [default: wait]",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document at the end."
)
by = click.option(
    "--by", metavar="TEXT", help="Who asks, for the audit trail.  [default: USER@HOST]"
)


def one_way(rollback_to: str | None, *, target: str, **allowed: bool) -> None:
    """Refuse to go forward and back at once.

    Raises:
        click.UsageError: options of the way forward stand beside --rollback-to.
    """
    given = ["--target"] if target != LATEST else []
    given += [f"--{name.replace('_', '-')}" for name, is_set in allowed.items() if is_set]
    if rollback_to and given:
        msg = f"--rollback-to goes the other way: leave {' and '.join(given)} out"
        raise click.UsageError(msg)
