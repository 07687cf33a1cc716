"""`dharma repair`: say of one migration what is true."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import click

from dharma_tasks.cli import options
from dharma_tasks.cli.declaring import Declaring, Options
from dharma_tasks.cli.examples import examples
from dharma_tasks.databases import NAMES
from dharma_tasks.declaring.repair import Action, Repair
from dharma_tasks.submit import who_asks

_HELP = {
    Action.RETRY: "Forget its failure: it goes on from its checkpoint.",
    Action.MARK_APPLIED: "All of it is there.",
    Action.MARK_ROLLED_BACK: "Nothing of it is there.",
    Action.ACCEPT_CHECKSUM: "Its file was changed, and that is right.",
}


def _actions(command: Callable[..., None]) -> Callable[..., None]:
    for action in reversed(Action):
        command = click.option(_option(action), action, is_flag=True, help=_HELP[action])(command)
    return command


def _option(action: Action) -> str:
    return f"--{action.replace('_', '-')}"


@click.command(
    epilog=examples(
        "dharma repair mongodb 1.3.0 --retry",
        "dharma repair postgresql 2.0.0 --mark-applied --by ann",
    )
)
@click.argument("database", type=click.Choice(NAMES))
@click.argument("version")
@_actions
@options.migrations
@options.yes
@options.as_json
@options.by
def repair(  # noqa: PLR0913 - one for each option
    *,
    database: str,
    version: str,
    migrations: Path | None,
    yes: bool,
    as_json: bool,
    by: str | None,
    **chosen: bool,
) -> None:
    """Say of the migration VERSION what is true, after somebody has looked.

    Nothing is carried out in the database; its journal is written to, with who said it and when.
    Shows what it will write, and asks first.

    Exit status: 0 done; 2 refused, or the answer was no; 4 a service or a worker cannot be
    reached; 130 Ctrl-C at the question.
    """
    wanted = [action for action in Action if chosen[action]]
    if len(wanted) != 1:
        msg = f"name one of {', '.join(map(_option, Action))}"
        raise click.UsageError(msg)
    wish = Repair(database, version, wanted[0])
    sys.exit(Declaring(wish, Options(migrations, who_asks(by), yes, as_json)).run())
