"""`make bench`: every benchmark, side by side with what else does the same work."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType

import click

from benchmarks import (
    machine,
    many_applied,
    reindex,
    report,
    small_migrations,
    sql_batch,
    update_documents,
    worker_memory,
)
from benchmarks.place import Place
from benchmarks.report import ROUNDS
from benchmarks.rounds import say
from benchmarks.table import Table
from dharma_tasks.local import LocalEngines

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

    At full size they are written to benchmarks/RESULTS.md, each in the place of what was there of
    it before. Exit status: 0, or 1 where a limit that the project has set itself is missed.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # engines end too
    met = True
    for name in names or BENCHMARKS:
        say(name)
        with _place(BENCHMARKS[name], factor, rounds) as place:
            for table in _tables(name, place):
                print(table, flush=True)
                met = met and all(check.met for check in table.checks)
                if (factor, rounds) == (1.0, ROUNDS):
                    say(f"written: {report.write(table)}")
    sys.exit(not met)


def _tables(name: str, place: Place) -> Iterator[Table]:
    """What a benchmark finds, with when and on which servers it was found."""
    begun = datetime.now(UTC)
    servers = ", ".join(f"{n} {version}" for n, version in machine.versions(place.engines).items())
    for table in BENCHMARKS[name].run(place):
        note = f"begun {begun:%Y-%m-%d %H:%M} UTC, on {servers}"
        yield replace(table, notes=[*table.notes, note])


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


if __name__ == "__main__":
    main()
