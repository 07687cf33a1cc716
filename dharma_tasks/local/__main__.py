"""`python -m dharma_tasks.local`: four real engines in the background, without Docker."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.table import Table

from dharma_tasks.local.base import EngineError
from dharma_tasks.local.engines import ENGINES, LocalEngines

Command = TypeVar("Command", bound=Callable[..., object])

_folder = click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".local"),
    show_default=True,
    help="Where data, logs and ports are kept.",
)
_only = click.argument("names", nargs=-1, type=click.Choice(list(ENGINES)))


class _Problems(click.Group):
    """Shows what a person can mend as a message, not as a traceback."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (EngineError, OSError) as error:  # OSError: a folder that is someone else's
            raise click.ClickException(str(error)) from error


@click.group(cls=_Problems)
def main() -> None:
    """Redis, MongoDB, PostgreSQL and Elasticsearch on this machine, without Docker."""


@main.command()
@_folder
@_only
def up(folder: Path, names: tuple[str, ...]) -> None:
    """Start the engines (or only NAMES); those that run are left alone."""
    LocalEngines(folder).up(names or None, report=_say)
    option = "" if folder == Path(".local") else f" --dir {shlex.quote(str(folder))}"
    click.echo(f'Use them: eval "$(python -m dharma_tasks.local env{option})"')


@main.command()
@_folder
@_only
@click.option("--delete", is_flag=True, help="Delete all of their data as well.")
def down(folder: Path, names: tuple[str, ...], *, delete: bool) -> None:
    """End the engines (or only NAMES) cleanly; their data stays."""
    if delete and names:
        message = "--delete is for all engines together; leave the names out."
        raise click.UsageError(message)
    engines = LocalEngines(folder)
    engines.down(names or None, report=_say)
    if delete:
        engines.delete()


@main.command()
@_folder
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(folder: Path, *, as_json: bool) -> None:
    """Show what runs where."""
    found = LocalEngines(folder).status()
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
        return
    table = Table("engine", "state", "address", "pid", "version")
    for each in found:
        pid = str(each.pid) if each.pid else "-"
        table.add_row(each.name, each.state, each.address or "-", pid, each.version or "-")
    Console().print(table)


@main.command()
@_folder
def env(folder: Path) -> None:
    """Print the variables for a shell, and nothing else: eval "$(... env)"."""
    engines = LocalEngines(folder)
    variables = engines.environment()
    if not variables:
        message = f"No engine was ever started in {folder}. Run `up` first."
        raise EngineError(message)
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    for each in engines.status():
        if each.address is not None and each.pid is None:
            click.echo(f"Note: {each.name} is not running; `up` starts it.", err=True)


def _say(name: str, what: str) -> None:
    click.echo(f"{name:<14} {what}")


if __name__ == "__main__":
    main(prog_name="python -m dharma_tasks.local")
