"""What a benchmark has found: a table of ways to do the same work, and what it has to reach."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

Times = dict[str, list[float]]
"""The seconds of each round, by way."""


@dataclass(frozen=True)
class Check:
    """One number that the project has set itself a limit for."""

    what: str
    value: float
    limit: float
    at_most: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        """One line of the report."""
        bound = "at most" if self.at_most else "at least"
        said = "met" if self.met else "**missed**"
        return (
            f"{self.what}: {self.value:.2f}{self.unit}, {bound} {self.limit:g}{self.unit}: {said}"
        )


@dataclass(frozen=True)
class Table:
    """One table of the report, with the checks and remarks that belong below it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()
    loads: Sequence[float] = field(default=())
    """The machine's load average of one minute before each round."""

    def __str__(self) -> str:
        """As Markdown."""
        lines = [f"## {self.title}", "", _row(self.head), _row(["---"] * len(self.head))]
        lines += [_row(row) for row in self.rows]
        said = [*map(str, self.checks), *self.notes]
        if self.loads:
            loads = ", ".join(f"{load:.1f}" for load in self.loads)
            said.append(f"load average (1 minute) before each round: {loads}")
        return "\n".join([*lines, "", *(f"- {line}" for line in said), ""])


def compared(times: Times, count: int, unit: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of ways to do the same work; their speeds are relative to the first."""
    reference = next(iter(times))
    head = ["way", "median", f"{unit} a second", "lowest to highest", f"speed, {reference} = 1"]
    rows = []
    for way, seconds in times.items():
        median = statistics.median(seconds)
        span = f"{min(seconds):.2f} to {max(seconds):.2f} s"
        speed = f"{ratio(times, way, reference):.2f}"
        rows.append([way, f"{median:.2f} s", f"{count / median:,.0f}", span, speed])
    return head, rows


def ratio(times: Times, one: str, other: str) -> float:
    """How many times as fast `one` is as `other`: the median over the rounds, each a pair."""
    return statistics.median(b / a for a, b in zip(times[one], times[other], strict=True))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
