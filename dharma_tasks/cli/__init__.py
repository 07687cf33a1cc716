"""The command line. A command is imported when it is called, so that `--help` is quick."""

from __future__ import annotations

import atexit
import gc
from importlib import import_module, metadata

import click

from dharma_tasks.cli.examples import examples

__all__ = ["command", "main"]

_OBJECTS = 50_000
"""So many new ones before Python looks for garbage: what a command reads, it keeps to its end.

With Python's own 700, that is a sixth of the time of `status` with a thousand migrations.
"""

_COMMANDS = {
    "init": "Make a folder of migrations, with a first one each.",
    "doctor": "Look whether all is there that migrations need.",
    "new": "Write the files of the next migration.",
    "encrypt": "Encrypt a value for a migration.",
    "check": "Check the folder: everything that needs no database.",
    "plan": "Show what a submit would do, and do nothing.",
    "submit": "Bring the databases to a version, and show how it goes.",
    "status": "Show what is applied, what is pending and what runs.",
    "history": "Show what was done, when, in which run, and by whom.",
    "rollback": "Undo what is above a version.",
    "pause": "Let a run rest until it is resumed.",
    "resume": "Let a paused run go on.",
    "cancel": "End a run: what is open is rolled back, or left.",
    "baseline": "Take over databases that are there already.",
    "repair": "Say what is true of one migration, after an accident.",
    "unlock": "Break the lease of a worker that hangs.",
    "prune": "Remove what is kept for a way back, and is old.",
    "alive": "Say whether the worker of this container is alive.",
}


def command(name: str) -> click.Command:
    """The command `name`, for a process that does nothing else."""
    gc.set_threshold(_OBJECTS)
    atexit.register(gc.freeze)  # what there is at the end needs no last look through it
    found: click.Command = getattr(import_module(f"{__name__}.{name}"), name)
    return found


class _OnDemand(click.Group):
    """A group that knows its commands by name: one file each in this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does; where there is no such command, with the one that may be meant."""
        if args[0] not in _COMMANDS and not args[0].startswith("-"):
            from dharma_tasks.explain import suggestion  # noqa: PLC0415 - pydantic comes with it

            ctx.fail(f"No such command {args[0]!r}. {suggestion(args[0], _COMMANDS, 'commands')}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return command(cmd_name) if cmd_name in _COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


def _version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    if not wanted:
        return
    try:
        version = metadata.version("dharma-tasks")
    except metadata.PackageNotFoundError:
        version = "(not installed: run from its source)"
    click.echo(f"dharma {version}")
    ctx.exit()


@click.group(
    cls=_OnDemand,
    epilog=examples("dharma init", "dharma submit", "dharma submit --help"),
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_version,
    help="Show the version.",
)
def main() -> None:
    """Migrations for MongoDB, PostgreSQL and Elasticsearch, carried out by Celery workers.

    Settings come from DHARMA_… in the environment or a .env file. Migrations run where a
    worker runs: celery -A dharma_tasks worker
    """
