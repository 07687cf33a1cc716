"""RESULTS.md: what was measured at full size, table by table."""

from __future__ import annotations

from pathlib import Path

from benchmarks import machine
from benchmarks.table import Table

RESULTS = Path(__file__).with_name("RESULTS.md")
ROUNDS = 7


def write(table: Table) -> Path:
    """Put a table in the place of what was there of it before; returns where that is.

    What was measured on another machine, or with other programs, is left out from then on.
    """
    head = _head()
    before, *sections = RESULTS.read_text().split("\n## ") if RESULTS.exists() else [""]
    tables = {each.partition("\n")[0]: each for each in sections} if before == head else {}
    tables[table.title] = str(table).removeprefix("## ")
    RESULTS.write_text("\n## ".join([head, *tables.values()]))
    return RESULTS


def _head() -> str:
    how = "In a round each way does the work once; a ratio is the median of the rounds' ratios."
    lines = [
        f"By `make bench`, {ROUNDS} rounds. {how}",
        "",
        *(f"- {x}" for x in machine.described()),
    ]
    return "\n".join(["# What was measured", "", *lines, ""])
