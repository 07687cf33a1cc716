"""`make bench`: every benchmark, side by side with what else does the same work."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import click

from benchmarks import (
    machine,
    many_applied,
    reindex,
    small_migrations,
    sql_batch,
    update_documents,
    worker_memory,
)
from benchmarks.place import Place
from benchmarks.rounds import say
from benchmarks.table import Table
from dharma_tasks.local import LocalEngines

RESULTS = Path(__file__).with_name("RESULTS.md")
ROUNDS = 7
_MODULES = (
    update_documents, reindex, sql_batch, worker_memory, small_migrations, many_applied,
)  # fmt: skip
BENCHMARKS = {module.__name__.rpartition(".")[2]: module for module in _MODULES}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHMARKS)))
@click.option("--factor", default=1.0, show_default=True, help="Of the sizes, to try it.")
@click.option("--rounds", default=ROUNDS, show_default=True, help="How often each way is gone.")
def main(names: tuple[str, ...], factor: float, rounds: int) -> None:
    """Run the benchmarks NAMES, or all of them, and print their tables.

    A run of all, at their full size, is written to benchmarks/RESULTS.md. Exit status: 0, or 1
    where a limit that the project has set itself is missed.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # engines end too
    servers: dict[str, str] = {}
    tables: list[Table] = []
    begun = datetime.now(UTC)
    for name in names or BENCHMARKS:
        say(name)
        with _place(BENCHMARKS[name], factor, rounds) as place:
            servers |= machine.versions(place.engines)
            for table in BENCHMARKS[name].run(place):
                tables.append(table)
                print(table, flush=True)
    if not names and (factor, rounds) == (1.0, ROUNDS):
        RESULTS.write_text(_document(begun, servers, tables))
        say(f"written: {RESULTS}")
    sys.exit(not all(check.met for table in tables for check in table.checks))


@contextmanager
def _place(module: ModuleType, factor: float, rounds: int) -> Iterator[Place]:
    """New engines, only those that are needed; all of it is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="dharma-bench-") as name:
        engines = LocalEngines(Path(name) / "engines")
        try:
            engines.up(["redis", module.DATABASE])
            folder = Path(name) / "work"
            folder.mkdir()
            yield Place(module.DATABASE, engines, folder, factor, rounds)
        finally:
            engines.delete()


def _document(begun: datetime, servers: dict[str, str], tables: list[Table]) -> str:
    """The whole report."""
    how = "In a round each way does the work once; a ratio is the median of the rounds' ratios."
    lines = [
        "# What was measured",
        "",
        f"By `make bench`, begun {begun:%Y-%m-%d %H:%M} UTC, {ROUNDS} rounds. {how}",
        "",
        *(f"- {line}" for line in machine.described()),
        f"- {', '.join(f'{name} {version}' for name, version in servers.items())}",
        "",
    ]
    return "\n".join([*lines, *map(str, tables)])


if __name__ == "__main__":
    main()
