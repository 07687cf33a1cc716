"""`status` and `plan` where a thousand migrations are applied."""

from __future__ import annotations

import resource
import statistics
from collections.abc import Callable, Iterator

from benchmarks.place import Place, Project
from benchmarks.rounds import measure
from benchmarks.table import Check, Table, Times

DATABASE = "postgresql"
MIGRATIONS = 1_000

_START = "status --help is what it takes to start: Python and what is imported"
_REST = (
    "measured stage by stage, more than half of status is imports before it begins (pydantic, "
    "Redis' client and rich are half of them), an eighth that of psycopg, a fifth to read the "
    "files, and the rest the journal, the comparison and the table. What the files ask for is "
    "judged where it is yet to be carried out, so PostgreSQL's parser is not needed here"
)


def run(place: Place) -> Iterator[Table]:
    """Whole commands, as a person waits for them, and the processor's time of them."""
    size = place.size(MIGRATIONS)
    project = place.project("applied")
    for number in range(1, size + 1):
        project.add(number, sql=f"CREATE TABLE t{number} (id integer PRIMARY KEY, name text);\n")
    with project.worker():
        project.submit()
    commands = ("status", "plan")
    ways = [_way(project, name) for name in commands]
    times, loads = measure([*ways, _way(project, "status", "--help")], place.rounds)
    rows = [
        [name, f"{statistics.median(seconds):.2f} s", f"{min(seconds):.2f} to {max(seconds):.2f} s"]
        for name, seconds in times.items()
    ]
    yield Table(
        f"Commands with {size:,} applied migrations",
        ["command", "median", "lowest to highest"],
        rows,
        checks=[
            Check(name, statistics.median(times[name]), 1, at_most=True, unit=" s")
            for name in commands
        ],
        notes=[_START, _REST],
        loads=loads,
    )


def _way(project: Project, *arguments: str) -> Callable[[], Times]:
    command = " ".join(arguments)

    def way() -> Times:
        before = _processor()
        seconds = project.run(*arguments)
        return {command: [seconds], f"{command}, the processor's part": [_processor() - before]}

    return way


def _processor() -> float:
    """Of all commands until now; other work on the machine hardly counts in it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
