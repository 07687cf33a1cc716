"""`dharma doctor`: whether all is there that migrations need."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.text import Text

from dharma_tasks.cli import common, options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import console
from dharma_tasks.doctor import Diagnosis, examine
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.findings import Examination, Finding, Grade
from dharma_tasks.settings import Settings

_STYLES = {
    Grade.OK: "green",
    Grade.WARNING: "yellow",
    Grade.PROBLEM: "bold red",
    Grade.UNREACHABLE: "bold red",
}
_STATUS = {Grade.PROBLEM: common.BROKEN, Grade.UNREACHABLE: common.UNREACHABLE}


@click.command(epilog=examples("dharma doctor", "DHARMA_REDIS_URL=redis://… dharma doctor --json"))
@options.migrations
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def doctor(*, migrations: Path | None, as_json: bool) -> None:
    """Look whether all is there that migrations need, and say what helps where it is not.

    Redis, the workers, the folder, and each database that is used: connection, version, what may
    be done there, replica set. A database is looked at by a worker that serves it, with its
    credentials; where there is none, by the URL in the settings. Nothing is changed.

    Exit status: 0 all is there (warnings too), 1 there is a problem, 2 a setting is wrong, 4
    something cannot be reached.
    """
    settings: Settings | None = None
    try:
        settings = common.settings()
        found = examine(settings, migrations, common.send)
    except Exception as error:  # noqa: BLE001 - told in one place
        problems = error.problems if isinstance(error, Refused) else []
        for said in filter(None, [*map(str, problems), common.message_of(error, settings)]):
            console(sys.stderr).print(Text(said, "bold red"))
        sys.exit(common.status_of(error))
    if as_json:
        click.echo(json.dumps({"grade": found.grade} | found.model_dump(mode="json"), indent=2))
    else:
        out = console(sys.stdout)
        for line in _lines(found):
            out.print(line)
    sys.exit(_STATUS.get(found.grade, 0))


def _lines(found: Diagnosis) -> Iterator[Text]:
    everything = [each for seen in found.subjects.values() for each in seen.findings]
    width = max(len(each.check) for each in everything)
    for name, seen in found.subjects.items():
        yield _heading(name, seen)
        for finding in seen.findings:
            yield _line(finding, width)
    counts = [(grade, found.count(grade)) for grade in reversed(Grade) if grade is not Grade.OK]
    said = [f"{grade}: {count}" for grade, count in counts if count]
    yield Text(", ".join(said) or "All is there.", _STYLES[found.grade])


def _heading(name: str, seen: Examination) -> Text:
    by = f"  by {seen.worker}" if seen.worker else ""
    return Text.assemble((name, "bold"), (by, "dim"))


def _line(finding: Finding, width: int) -> Text:
    told = Problem("", "", finding.what, finding.todo).text if finding.todo else finding.what
    said = " ".join(told.split())  # a driver's message may have several lines
    return Text.assemble(
        (f"  {finding.grade:<11}  ", _STYLES[finding.grade]), f"{finding.check:<{width}}  {said}"
    )
