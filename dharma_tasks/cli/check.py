"""`dharma check`: everything that needs no database, for a pull request."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from dharma_tasks import words
from dharma_tasks.bounds import Bounds
from dharma_tasks.cli import common, options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import console
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.loader import Loaded, load
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue
from dharma_tasks.ordering import RULE
from dharma_tasks.settings import Settings
from dharma_tasks.values import Values

_PLACE = re.compile(
    r"(?:line (?P<line>\d+)(?:, column (?P<column>\d+))?)?(?:, )?(?P<path>.*)", re.DOTALL
)
_STYLES = {"error": "bold red", "warning": "yellow"}


@dataclass(frozen=True)
class _Finding:
    """One thing to say, and how grave it is: "error" or "warning", GitHub's words."""

    level: str
    problem: Problem

    @property
    def line(self) -> int | None:
        """The line, where it is known."""
        return self._number("line")

    @property
    def column(self) -> int | None:
        """The column, where it is known."""
        return self._number("column")

    @property
    def path(self) -> str:
        """The place without line and column: a JSON path, or nothing."""
        found = _PLACE.match(self.problem.place)
        return found["path"] if found else ""

    def _number(self, name: str) -> int | None:
        found = _PLACE.match(self.problem.place)
        return int(found[name]) if found and found[name] else None


@click.command(epilog=examples("dharma check", "dharma check --strict --format github"))
@options.migrations
@click.option("--strict", is_flag=True, help="Warnings end with status 2 too.")
@click.option(
    "--format",
    "as_format",
    type=click.Choice(["text", "github", "json"]),
    default="text",
    show_default=True,
    help="For people, GitHub Actions, or programs.",
)
@click.option("--json", "as_format", flag_value="json", help="The same as --format json.")
@options.values
@click.option(
    "--exclude",
    metavar="RULE",
    multiple=True,
    help=f"Leave out a rule, of squawk's or {RULE}; may be repeated.",
)
def check(
    *, migrations: Path | None, strict: bool, as_format: str, given: JSON, exclude: tuple[str, ...]
) -> None:
    """Check the migrations folder: everything that needs no database.

    What submit would refuse is an error. PostgreSQL's files are also read by squawk, where it is
    installed; what it finds are warnings. A comment `-- squawk-ignore RULE` before a statement,
    a .squawk.toml or --exclude leave out what does not fit.

    Exit status: 0 fine, 2 problems, or warnings with --strict.
    """
    settings: Settings | None = None
    folder = migrations or Path()
    loaded: Loaded | None = None
    try:
        settings = common.settings()
        folder = migrations or settings.migrations_dir
        loaded = load(folder, Values(given, settings.values, required=False), Bounds.of(settings))
        if loaded.missing:
            click.echo(f"note: not given with --set: {', '.join(loaded.missing)}", err=True)
        findings = [_Finding("warning", each) for each in loaded.warnings]
        findings += [_Finding("warning", each) for each in advice(loaded, folder, exclude)]
    except Refused as error:
        findings = [_Finding("error", each) for each in error.problems]
    except Exception as error:  # noqa: BLE001 - told in one place
        click.echo(common.message_of(error, settings), err=True)
        sys.exit(common.status_of(error))
    _FORMATS[as_format](findings, loaded, folder)
    refused = strict or any(found.level == "error" for found in findings)
    sys.exit(common.REFUSED if findings and refused else 0)


def advice(loaded: Loaded, folder: Path, exclude: Sequence[str] = ()) -> list[Problem]:
    """What we and programs beside ours advise of the files, but for the rules to `exclude`."""
    found = [] if RULE in exclude else list(loaded.advice)
    for database in dict.fromkeys(each.database for each in loaded.migrations):
        known = catalogue(database)
        files = dict(_companions(loaded, database, known.companion or ""))
        if known.advisor is None:
            continue
        if missing := known.advisor.missing():
            click.echo(f"note: {missing}", err=True)
        found += known.advisor.advise(files, folder, exclude)
    return found


def _companions(loaded: Loaded, database: str, suffix: str) -> Iterator[tuple[str, JSON]]:
    """The files beside the JSON, each with its operation."""
    for each in loaded.migrations:
        if each.database == database:
            stem = each.file.removesuffix(".json")
            yield f"{stem}{suffix}", each.operations[0]
            if each.rollback:
                yield f"{stem}_rollback{suffix}", each.rollback[0]


# -- the three formats ---------------------------------------------------------------------


def _as_text(findings: list[_Finding], loaded: Loaded | None, _folder: Path) -> None:
    out: Console = console(sys.stdout)
    for found in findings:
        level = (f"{found.level}: ", _STYLES[found.level])
        out.print(Text.assemble(level, str(found.problem)))
    counts = [
        words.several(sum(found.level == level for found in findings), one)
        for level, one in (("error", "problem"), ("warning", "warning"))
    ]
    said = ", ".join(text for text in counts if not text.startswith("0 ")) or "no problems"
    held = ""
    if loaded is not None:
        held = words.several(len(loaded.migrations), "migration")
        if rollbacks := sum(bool(each.rollback) for each in loaded.migrations):
            held += f" and {words.several(rollbacks, 'rollback file')}"
        held += ": "
    style = "bold red" if loaded is None else "yellow" if findings else "bold green"
    out.print(Text(f"{held}{said}", style))


def _as_json(findings: list[_Finding], _loaded: Loaded | None, _folder: Path) -> None:
    found = [
        {
            "level": each.level,
            "file": each.problem.file,
            "line": each.line,
            "place": each.problem.place,
            "what": each.problem.what,
            "todo": each.problem.todo,
        }
        for each in findings
    ]
    click.echo(json.dumps(found, indent=2))


def _as_github(findings: list[_Finding], _loaded: Loaded | None, folder: Path) -> None:
    """Workflow commands, one a line; see "Workflow commands" in GitHub's manual."""
    for found in findings:
        file = found.problem.file
        place = {
            "file": _from_root(folder, file) if file else None,
            "line": found.line,
            "col": found.column,
        }
        known = [f"{name}={_property(str(value))}" for name, value in place.items() if value]
        text = ": ".join(filter(None, (found.path, found.problem.text)))
        command = " ".join(filter(None, (found.level, ",".join(known))))
        click.echo(f"::{command}::{_data(text)}")


def _from_root(folder: Path, file: str) -> str:
    """The name that GitHub knows a file by: from the root of the repository."""
    root = Path(os.environ.get("GITHUB_WORKSPACE") or ".").resolve()
    found = folder.resolve() / file
    return (found.relative_to(root) if found.is_relative_to(root) else folder / file).as_posix()


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


_FORMATS: dict[str, Callable[[list[_Finding], Loaded | None, Path], None]] = {
    "text": _as_text,
    "github": _as_github,
    "json": _as_json,
}
