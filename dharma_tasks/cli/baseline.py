"""`dharma baseline`: take over databases that are there already."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dharma_tasks.cli import options
from dharma_tasks.cli.declaring import Declaring, Options
from dharma_tasks.cli.examples import examples
from dharma_tasks.declaring.baseline import Baseline
from dharma_tasks.submit import who_asks


@click.command(
    epilog=examples("dharma baseline 1.2.0", "dharma baseline 1.2.0 --databases mongodb --by ann")
)
@click.argument("version")
@options.databases
@options.more
@options.migrations
@options.yes
@options.as_json
@options.by
def baseline(  # noqa: PLR0913 - one for each option
    *,
    version: str,
    databases: tuple[str, ...],
    more: tuple[str, ...],
    migrations: Path | None,
    yes: bool,
    as_json: bool,
    by: str | None,
) -> None:
    """Take over databases that are there already: everything up to VERSION counts as applied.

    Nothing is run and nothing is compared: that the databases are as these migrations would have
    made them is your word. They cannot be undone, but by a rollback file. What is applied already
    stays as it is. Shows what it will write, and asks first, unless --yes is given.

    Exit status: 0 done, or nothing to do; 2 refused, or the answer was no; 4 a service or a
    worker cannot be reached; 130 Ctrl-C at the question.
    """
    wish = Baseline(version, options.names(databases, more))
    sys.exit(Declaring(wish, Options(migrations, who_asks(by), yes, as_json)).run())
