"""`dharma new`: the files of the next migration, to be filled in.

What it writes is refused by every check until somebody has filled it in, so that no empty
migration is ever applied by mistake.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import click

from dharma_tasks import schemas
from dharma_tasks.cli import common, options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import console
from dharma_tasks.cli.writing import write_new
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.folder import MigrationFile, find
from dharma_tasks.migration import JSON, Version, order_of
from dharma_tasks.operations import catalogue
from dharma_tasks.settings import Settings
from dharma_tasks.strict_json import parse

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ROLLBACK = "_rollback"
_FIRST = "1.0.0"
_WIDTH = 80
_BUMPS: dict[str, Callable[[Version], Version]] = {
    "major": lambda last: Version(last.major + 1),
    "minor": lambda last: Version(last.major, last.minor + 1),
    "patch": lambda last: last._replace(patch=last.patch + 1),
}
_SQL = "-- {version} {name}: replace the line below with {what}.\nTODO\n"


@click.command(
    epilog=examples(
        "dharma new mongodb add_email --minor",
        "dharma new postgresql drop_search --major --rollback",
    )
)
@click.argument("database", type=click.Choice(NAMES))
@click.argument("name")
@click.option("--major", is_flag=True, help="It breaks what reads or writes.")
@click.option("--minor", is_flag=True, help="It adds something.")
@click.option("--patch", is_flag=True, help="It corrects something.")
@click.option("--rollback", is_flag=True, help="Write the rollback's files too.")
@options.migrations
def new(  # noqa: PLR0913 - one for each option
    *,
    database: str,
    name: str,
    major: bool,
    minor: bool,
    patch: bool,
    rollback: bool,
    migrations: Path | None,
) -> None:
    """Write the files of the next migration of DATABASE, to be filled in.

    They get the next number and the next version; --major, --minor or --patch says which. The
    first migration of a database is 1.0.0. No file is ever overwritten. The paths are printed,
    and on stderr what there is to fill in.

    Exit status: 0, or 2 refused and nothing written.
    """
    chosen = [part for part, said in zip(_BUMPS, (major, minor, patch), strict=True) if said]
    if len(chosen) > 1:
        msg = f"--{' and --'.join(chosen)} exclude each other"
        raise click.UsageError(msg)
    settings: Settings | None = None
    try:
        settings = common.settings()
        folder = migrations or settings.migrations_dir
        made = _New(database, name, next(iter(chosen), None), folder)
        for path in made.write(rollback=rollback):
            click.echo(path)
        click.echo(made.todo(rollback=rollback), err=True)
    except Exception as error:  # noqa: BLE001 - told in one place
        err = console(sys.stderr)
        problems = error.problems if isinstance(error, Refused) else []
        for line in filter(None, [*map(str, problems), common.message_of(error, settings)]):
            err.print(line, style="bold red")
        sys.exit(common.status_of(error))


class _New:
    """One migration that does not exist yet."""

    def __init__(self, database: str, name: str, part: str | None, folder: Path) -> None:
        """Find its number and its version; nothing is written.

        Raises:
            Refused: a name that no file may have, or a version that cannot be told.
        """
        _check_name(name)
        present = _present(folder, database)
        self._database = database
        self._migrations = folder
        self._name = name
        self._companion = catalogue(database).companion
        self._version = _next_version(present, part)
        self._stem = f"{max((file.number for file in present), default=0) + 1:03d}_{name}"

    def write(self, *, rollback: bool) -> list[Path]:
        """Write all files, or none. Returns their paths.

        Raises:
            Refused: one of them is there already.
        """
        texts = self._texts("", "the SQL")
        if rollback:
            texts |= self._texts(_ROLLBACK, f"the SQL that undoes {self._stem}{self._companion}")
        return write_new(self._migrations, texts)

    def _texts(self, ending: str, what: str) -> dict[str, str]:
        content: JSON = {
            "$schema": schemas.reference(self._database),
            "version": self._version,
            "name": self._name,
            "description": "",
            "database_type": self._database,
            "migration_type": "schema",
        }
        if not ending:
            content["dependencies"] = []
        if not self._companion:
            content["operations"] = []
        stem = f"{self._database}/{self._stem}{ending}"
        texts = {f"{stem}.json": json.dumps(content, indent=2) + "\n"}
        if self._companion:
            sql = _SQL.format(version=self._version, name=self._name, what=what)
            texts[f"{stem}{self._companion}"] = sql
        return texts

    def todo(self, *, rollback: bool) -> str:
        """What has to be filled in before `load` accepts it."""
        fields = {
            "operations": f"at least one of {', '.join(catalogue(self._database).operations)}",
            "migration_type": "schema, or data",
            "dependencies": 'what must be applied before: ["mongodb:1.2.0"], or nothing',
            "description": "why; it may stay empty",
        }
        if self._companion:
            fields = {"TODO": f"in the {self._companion} file: the statements"} | fields
            fields["operations"] = (
                'there are none; "transactional": false and "batch" say how the file runs'
            )
        if rollback:
            fields["*_rollback"] = "the same, for how to undo it; it goes before what is automatic"
        lines = [
            textwrap.fill(
                text, _WIDTH, initial_indent=f"  {name:<14}  ", subsequent_indent=" " * 18
            )
            for name, text in fields.items()
        ]
        head = f"{self._database} {self._version} {self._name}. Fill in:"
        return "\n".join([head, *lines, "Until then `dharma check` and `dharma submit` refuse it."])


def _check_name(name: str) -> None:
    fitting = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-").removesuffix(_ROLLBACK)
    if _NAME.fullmatch(name) and not name.endswith(_ROLLBACK):
        return
    what = f"{name!r} cannot be in a file's name"
    if _NAME.fullmatch(name):
        what = f"{name!r} ends like a rollback's name (--rollback writes that file)"
    todo = f"Letters, digits, '_', '-' and '.' can: {fitting or 'add_email'}."
    raise Refused([Problem("", "", what, todo)])


def _present(folder: Path, database: str) -> list[MigrationFile]:
    """The files that are there; a folder that is not there yet has none."""
    if not folder.exists():
        return []
    files, _ = find(folder)
    return [file for file in files if file.database == database]


def _next_version(present: list[MigrationFile], part: str | None) -> str:
    versions = [_version(file) for file in present if file.undoes is None]
    if not versions:
        return _FIRST
    highest = max(versions)
    if part is None:
        choices = ", ".join(f"--{name} ({bump(highest)})" for name, bump in _BUMPS.items())
        raise Refused([Problem("", "", f"what comes after {highest}?", f"Say {choices}.")])
    return str(_BUMPS[part](highest))


def _version(file: MigrationFile) -> Version:
    try:
        content, _ = parse(Path(file.path).read_bytes())
        return order_of(content["version"])
    except (Refused, OSError, KeyError, TypeError, ValueError) as error:
        what = "its version cannot be read, so nobody can tell the next one"
        todo = "Correct it first: `dharma check` says what is wrong."
        raise Refused([Problem(file.file, "", what, todo)]) from error
