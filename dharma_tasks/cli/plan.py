"""`dharma plan`, and `dharma submit --dry-run`: what would be done, and nothing is."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from dharma_tasks import words
from dharma_tasks.bounds import Bounds
from dharma_tasks.cli import common, options
from dharma_tasks.cli.check import advice
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import Indented, console
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.estimate import Counts, Estimate, Time
from dharma_tasks.loader import Loaded, Read, read_folder
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue
from dharma_tasks.planner import Request, required_databases
from dharma_tasks.preview import MigrationPreview, OperationPreview, Preview, make
from dharma_tasks.reading import ask, counting, surveys, workers
from dharma_tasks.records import Direction, Survey, applied
from dharma_tasks.settings import Settings
from dharma_tasks.values import Value, Values

_LINES = 12
"""Of a file's SQL so many are shown; `--json` has all of it."""
_BY_FILE = "its rollback file undoes it"


@click.command(
    epilog=examples(
        "dharma plan",
        "dharma plan --databases postgresql --json",
        "dharma plan --rollback-to 1.3.0",
    )
)
@options.target
@options.databases
@options.more
@options.migrations
@click.option("--rollback-to", metavar="X.Y.Z", help="Show the way back to this version instead.")
@options.values
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def plan(  # noqa: PLR0913 - one for each option
    *,
    target: str,
    databases: tuple[str, ...],
    more: tuple[str, ...],
    migrations: Path | None,
    rollback_to: str | None,
    given: JSON,
    as_json: bool,
) -> None:
    """Show what a submit would do: what waits for what, what cannot be undone, the SQL.

    Also what is heavy (about how many documents or rows, and how long that takes at the rates
    seen here before) and what others wait for. The journals are read as they are, and nothing is
    written anywhere. What a submit would be refused for is shown as it would show it: what is
    wrong in a migration that is applied and has not been changed is no reason.

    Exit status: 0, 2 when a submit would be refused, 4 when a database cannot be reached.
    """
    options.one_way(rollback_to, target=target)
    request = Request(
        target=rollback_to or target,
        databases=options.names(databases, more),
        direction=Direction.BACK if rollback_to else Direction.FORWARD,
    )
    sys.exit(show(Asked(request, migrations, as_json, given)))


@dataclass(frozen=True)
class Asked:
    """What is to be shown, and how; `given` are values by name."""

    request: Request
    migrations: Path | None
    json: bool
    given: JSON


def show(asked: Asked) -> int:
    """Print the preview, or why there is none. Returns the exit status."""
    settings: Settings | None = None
    err = console(sys.stderr)
    try:
        settings = common.settings()
        folder = asked.migrations or settings.migrations_dir
        read = read_folder(folder, Values(asked.given, settings.values), Bounds.of(settings))
        journals = _journals(read, asked.request, settings)
        forward = asked.request.direction is Direction.FORWARD
        loaded = read.judged(applied(journals.values()) if forward else {})
        counter = _Counter(settings)
        found = make(loaded.migrations, journals, asked.request, counter.counts)
        found.warnings += counter.warnings
    except Refused as refused:
        what = "submit" if asked.request.direction is Direction.FORWARD else "rollback"
        err.print(Text(f"A {what} would be refused; nothing was changed:", "bold red"))
        for problem in refused.problems:
            err.print(Indented(str(problem), 2))
        if asked.json:
            click.echo(json.dumps({"problems": list(map(asdict, refused.problems))}, indent=2))
        return common.REFUSED
    except Exception as error:  # noqa: BLE001 - told in one place
        err.print(Text(common.message_of(error, settings) or str(error), "bold red"))
        return common.status_of(error)
    values, said = list(_values(loaded, found)), _advice(loaded, found, folder)
    if asked.json:
        more = {"values": list(map(asdict, values)), "advice": list(map(asdict, said))}
        click.echo(json.dumps(found.model_dump(mode="json") | more, indent=2))
    else:
        _Report(found, said, values).show(console(sys.stdout))
    return 0


def _journals(read: Read, request: Request, settings: Settings) -> Mapping[str, Survey]:
    """What the journals say; where they cannot be read, what is wrong with the files comes first.

    Raises:
        Refused: something is wrong with the files, or with the request.
        Unreachable: nothing is, as far as is known without them.
    """
    needed = required_databases(read.migrations, request)
    try:
        return surveys(needed, settings, common.send)
    except Unreachable:
        read.judged()
        raise


def _values(loaded: Loaded, found: Preview) -> Iterator[Value]:
    """The values in the files that would run."""
    planned = [migration.file for order in found.databases.values() for migration in order]
    if found.direction is Direction.BACK:
        planned += [f"{file.removesuffix('.json')}_rollback.json" for file in planned]
    for value in loaded.values:
        if files := tuple(file for file in value.files if file in planned):
            yield replace(value, files=files)


class _Counter:
    """Asks the databases how much there is, directly or through workers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.warnings: list[str] = []

    def counts(self, names: Mapping[str, Sequence[str]]) -> Mapping[str, Counts]:
        """How much there is in what is named; a database that cannot say it is warned of."""
        relayed = workers(self._settings, common.send)
        answers = ask(counting(names), sorted(names), self._settings, relayed)
        self.warnings += [
            f"there are no estimates for {name}: {why}" for name, why in answers.errors.items()
        ]
        return answers.found


def _advice(loaded: Loaded, found: Preview, folder: Path) -> list[Problem]:
    """What is said of the files that would run, and of nothing else in the folder."""
    end = "_rollback" if found.direction is Direction.BACK else ""
    planned = {migration.file for order in found.databases.values() for migration in order}
    files = {file.removesuffix(".json") + end for file in planned}
    looked_at = tuple(m for m in loaded.migrations if m.file in planned)
    said = advice(replace(loaded, migrations=looked_at), folder)
    return [problem for problem in said if problem.file.rpartition(".")[0] in files]


class _Report:
    """A preview for a person."""

    def __init__(self, found: Preview, advice: Sequence[Problem], values: Sequence[Value]) -> None:
        self._found = found
        self._advice = advice
        self._values = values

    def show(self, out: Console) -> None:
        """Print it."""
        back = self._found.direction is Direction.BACK
        for name, order in self._found.databases.items():
            what = "to undo" if back else "to apply"
            count = words.several(len(order), "migration")
            out.print(Text(f"{name}: {count} {what}{_time(self._found.times.get(name))}", "bold"))
            for migration in order:
                self._migration(out, migration)
        for value in self._values:
            out.print(Indented(f"value: {value}", 2))
        for problem in self._advice:
            out.print(Indented(f"advice: {problem}", 2, "yellow"))
        for warning in self._found.warnings:
            out.print(Text(f"warning: {warning}", "yellow"))
        if not self._found.databases:
            out.print(Text("Nothing to do.", "bold green"))

    def _migration(self, out: Console, migration: MigrationPreview) -> None:
        out.print(Text(f"  {migration.version} {migration.name}", "cyan"))
        if migration.waits:
            out.print(Indented(f"waits for {', '.join(migration.waits)}", 4, "dim"))
        if migration.rollback_file and not any(each.undo for each in migration.operations):
            back = self._found.direction is Direction.BACK
            out.print(Indented("by its rollback file" if back else _BY_FILE, 4, "dim"))
        for operation in migration.operations:
            out.print(Indented(_line(migration.database, operation), 4))
            for why in operation.blocking:
                out.print(Indented(why, 6, "yellow"))
            if operation.irreversible:
                out.print(Indented(operation.irreversible, 6, "yellow"))
            for line in _sql(operation):
                out.print(Text(f"      {line}", "dim"))


def _time(time: Time | None) -> str:
    """How long what is heavy takes; what is not is over at once."""
    if time is None:
        return ""
    if not time.seconds and not time.complete:
        return ", time not known"
    more = "" if time.complete else " and more"
    return f", about {words.duration(time.seconds)}{more}"


def _line(database: str, operation: OperationPreview) -> str:
    left = operation.undo and operation.irreversible
    undo = "undo " if operation.undo and not left else ""
    burden = ["left as it is" if left else "irreversible"] if operation.irreversible else []
    burden += ["heavy"] if operation.heavy else []
    burden += ["blocking"] if operation.blocking else []
    if operation.estimate:
        burden += _amount(operation.estimate, catalogue(database).unit)
    line = f"{operation.number} {undo}{operation.type} {operation.summary}"
    return f"{line}  {', '.join(burden)}" if burden else line


def _amount(estimate: Estimate, unit: str) -> Iterator[str]:
    if estimate.count is not None:
        at_most = "at most " if estimate.at_most else ""
        yield at_most + words.several(estimate.count, unit)
    if estimate.missing:
        yield f"{' and '.join(estimate.missing)} not there yet"
    if estimate.seconds is not None:
        yield f"about {words.duration(estimate.seconds)}"


def _sql(operation: OperationPreview) -> Iterator[str]:
    lines = (operation.sql or "").rstrip().splitlines()
    yield from lines[:_LINES]
    if len(lines) > _LINES:
        yield f"… {words.several(len(lines) - _LINES, 'more line')}"
