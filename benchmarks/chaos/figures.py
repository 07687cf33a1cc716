"""What a campaign has shown, as a table and as an exit status."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from benchmarks.chaos.batches import OPEN_IN_CAMPAIGN
from benchmarks.chaos.faults import Fault
from benchmarks.chaos.generations import Difference


@dataclass
class Figures:
    """Filled in as the campaign goes on."""

    seed: int
    faults: list[Fault] = field(default_factory=list)
    generations: int = 0
    migrations: int = 0
    operations: int = 0
    take_overs: int = 0
    """Of operations that went forward for the first time."""
    ways: Counter[str] = field(default_factory=Counter)
    """How often a generation was brought "forward", and "back"."""
    faults_on: Counter[str] = field(default_factory=Counter)
    """How many of the faults came on each of these ways."""
    batches: Counter[str] = field(default_factory=Counter)
    """By database: how many were begun."""
    batches_again: Counter[str] = field(default_factory=Counter)
    """By database: how many of these were begun in vain, and had to be begun again."""
    difference: Difference = field(default_factory=Difference)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0

    @property
    def recovered(self) -> list[Fault]:
        """The faults after which an operation that was hit moved on."""
        return [fault for fault in self.faults if fault.progress is not None]

    @property
    def well(self) -> bool:
        """Whether nothing was lost, nothing done twice, and nothing else went wrong."""
        return self.difference.empty and not self.findings

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield (
            f"{len(self.faults)} faults in {self.seconds:.0f} s, seed {self.seed}: "
            f"{self.generations} generations, {self.migrations} migrations, "
            f"{self.operations} operations on three databases"
        )
        yield ""
        yield "                                        seconds to progress, and without another"
        yield "                                        fault meanwhile; after what was away is back"
        yield "  fault                         times   median largest   median largest   largest"
        for kind in sorted({fault.kind for fault in self.faults}):
            yield self._line(kind, [fault for fault in self.faults if fault.kind == kind])
        yield self._line("all", self.faults)
        yield ""
        yield f"  recoveries          {len(self.recovered)} of {len(self.faults)}"
        for way, times in sorted(self.ways.items()):
            name = f"brought {way}"
            yield f"  {name:20}{times} times, with {self.faults_on[way]} faults"
        yield f"  operations taken over again   {self.take_overs}"
        for name, begun in sorted(self.batches.items()):
            most = len(self.faults) * OPEN_IN_CAMPAIGN[name]
            again = f"{self.batches_again[name]} of {begun}, may be {most}"
            yield f"  batches replayed    {again:24} {name}"
        yield f"  effects lost        {self.difference.lost}"
        yield f"  effects doubled     {self.difference.doubled}"
        for text in [*self.difference.other, *self.findings]:
            yield f"  FOUND: {text}"

    def _line(self, kind: str, faults: list[Fault]) -> str:
        """Both from the fault itself; the last figure from when what was away had come back."""
        alone = [fault for fault in faults if self._alone(fault)]
        after = [f.progress - f.repaired for f in alone if f.progress and f.repaired]
        back = f"{max(0.0, *after, 0.0):10.1f}" if after else ""
        return f"  {kind:28} {len(faults):6}   {_times(faults)}   {_times(alone)}{back}"

    def _alone(self, fault: Fault) -> bool:
        """Whether no other fault was made, or lasted, until this one was recovered from."""
        end = fault.progress or fault.at
        others = (other for other in self.faults if other is not fault)
        return all(other.at > end or (other.over or other.at) < fault.at for other in others)


def _times(faults: list[Fault]) -> str:
    times = [f.progress - f.at for f in faults if f.progress is not None]
    return f"{statistics.median(times):6.1f} {max(times):7.1f}" if times else " " * 14
