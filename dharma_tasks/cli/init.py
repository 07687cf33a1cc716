"""`dharma init`: a folder of migrations, with a first one that works for each database."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import click

from dharma_tasks.cli import common, options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import console
from dharma_tasks.cli.writing import write_new
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Refused
from dharma_tasks.explain import unknown_databases
from dharma_tasks.folder import find
from dharma_tasks.settings import Settings

_FIRST = resources.files("dharma_tasks") / "first"
"""Those that are written, in folders by database."""


@click.command(
    epilog=examples("dharma init", "dharma init --databases mongodb,postgresql db/migrations")
)
@click.argument("where", nargs=-1, metavar="[DIR]")
@click.option(
    "--databases",
    metavar="NAMES",
    multiple=True,
    help="Only these, by spaces or commas.  [default: those with a URL in the settings, or all]",
)
def init(*, where: tuple[str, ...], databases: tuple[str, ...]) -> None:
    """Make the folder of migrations DIR, with a first migration for each database.

    Without DIR it is DHARMA_MIGRATIONS_DIR, or migrations. What is written works as it is: it
    makes notes, and can be undone. A database that has migrations is left alone. No file is ever
    overwritten, but for the JSON Schemas in .dharma/, which are not for you to write.

    Exit status: 0, or 2 refused and nothing written.
    """
    more = tuple(each for each in where if databases and each in NAMES)
    named, given = (
        options.names(databases, more),
        _folder([each for each in where if each not in more]),
    )
    settings: Settings | None = None
    try:
        settings = common.settings()
        folder = given or settings.migrations_dir
        chosen = _chosen(named, settings)
        begun = _begun(folder)
        wanted = [name for name in chosen if name not in begun]
        texts = {name: text for database in wanted for name, text in _texts(database)}
        for path in write_new(folder, texts):
            click.echo(path)
        for line in _next(folder, wanted, [name for name in chosen if name in begun], settings):
            click.echo(line, err=True)
    except Exception as error:  # noqa: BLE001 - told in one place
        err = console(sys.stderr)
        problems = error.problems if isinstance(error, Refused) else []
        for said in filter(None, [*map(str, problems), common.message_of(error, settings)]):
            err.print(said, style="bold red")
        sys.exit(common.status_of(error))


def _folder(where: Sequence[str]) -> Path | None:
    if len(where) > 1 or (where and where[0] in NAMES):
        msg = f"{' '.join(where)!r} is not one folder; databases are named by --databases"
        raise click.UsageError(msg)
    return Path(where[0]) if where else None


def _chosen(named: tuple[str, ...] | None, settings: Settings) -> list[str]:
    """The databases that are meant, in their usual order.

    Raises:
        Refused: one is named that there is not.
    """
    problems = unknown_databases(named or (), NAMES)
    if problems:
        raise Refused(problems)
    known = [name for name in NAMES if settings.url(name)]
    return [name for name in NAMES if name in (named or known or NAMES)]


def _begun(folder: Path) -> set[str]:
    """The databases that have files there."""
    if not folder.exists():
        return set()
    files, _ = find(folder)
    return {file.database for file in files}


def _texts(database: str) -> Iterator[tuple[str, str]]:
    """The files of its first migration, by their names below the folder."""
    for file in sorted((_FIRST / database).iterdir(), key=lambda each: each.name):
        yield f"{database}/{file.name}", file.read_text(encoding="utf-8")


def _next(
    folder: Path, written: Sequence[str], left: Sequence[str], settings: Settings
) -> Iterator[str]:
    """What to do now."""
    for name in left:
        yield f"{name} has migrations already. The next one: dharma new {name} NAME --minor"
    if not written:
        return
    where = "" if folder == settings.migrations_dir else f" --migrations {folder}"
    yield "They work as they are, as an example: make them what you need. Then:"
    yield f"  {f'dharma check{where}':<42}  says what is wrong with the files"
    yield f"  {'dharma doctor':<42}  whether all is there that they need"
    yield f"  {'celery -A dharma_tasks worker':<42}  carries them out, and stays"
    yield f"  {f'dharma submit{where}':<42}  applies them"
