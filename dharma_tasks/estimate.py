"""How much an operation has to go through, and how long that will take, as far as is known.

How much there is, the database says; how fast such operations go, its journal has seen. Where
either is not known, no figure is made up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from pydantic import BaseModel

from dharma_tasks.operations.base import Burden
from dharma_tasks.records import (
    MigrationRecord,
    MigrationState,
    OperationRecord,
    OperationState,
    Survey,
)

__all__ = ["Counts", "Estimate", "Estimates", "Time", "rates", "total"]

Counts = Mapping[str, int | None]
"""How much there is in each collection, index or table: see `Database.count`."""

_ENOUGH = 1000
"""Documents or rows of an operation whose rate says something: few are over before they begin."""


class Estimate(BaseModel):
    """What an operation has still to go through: `count` documents or rows, None if not known.

    With `at_most` it may be fewer. `missing` are the targets that are not there yet.
    """

    count: int | None = None
    at_most: bool = False
    missing: list[str] = []
    seconds: float | None = None


class Time(BaseModel):
    """How long the heavy operations of a database take: those that are known, if not `complete`."""

    seconds: float
    complete: bool


@dataclass(frozen=True)
class Estimates:
    """What is known of one database: what there is, and documents or rows a second by type.

    `counts` is None where the database could not say it.
    """

    counts: Counts | None
    rates: Mapping[str, float]

    def of(self, type_: str, burden: Burden, known: OperationRecord | None) -> Estimate | None:
        """For an operation to carry out, which may have begun before. None if it is not heavy."""
        if not burden.heavy:
            return None
        begun = known if known and burden.counted else None
        found = self._whole(burden)
        if begun and begun.total is not None:
            found = Estimate(count=begun.total, at_most=burden.partly)
        if begun and found.count is not None:
            found.count = max(found.count - begun.done, 0)
        rate = self.rates.get(type_) if burden.counted else None
        if rate and found.count is not None:
            found.seconds = found.count / rate
        return found

    def back(self, burden: Burden, known: OperationRecord | None) -> Estimate | None:
        """For one to undo. How fast that goes, no journal has kept."""
        if not burden.heavy:
            return None
        if burden.targets or known is None:
            return self._whole(burden)
        if known.state is not OperationState.UNDOING:
            return Estimate(count=known.done, at_most=burden.partly)
        left = None if known.total is None else max(known.total - known.done, 0)
        return Estimate(count=left, at_most=burden.partly)

    def _whole(self, burden: Burden) -> Estimate:
        if self.counts is None:
            return Estimate(at_most=burden.partly)
        there = [self.counts[each] for each in burden.targets if each in self.counts]
        known = [each for each in there if each is not None]
        return Estimate(
            count=sum(known) if known and len(known) == len(there) else None,
            at_most=burden.partly,
            missing=[each for each in burden.targets if each not in self.counts],
        )


def rates(survey: Survey) -> dict[str, float]:
    """Documents or rows a second, by type of operation: the median of what the journal has seen.

    Of an operation it knows when it ended, and when the one before it did. One that was paused, or
    had to wait for its database, took that much longer; so of few, a time is rather too long.
    """
    seen: dict[str, list[float]] = {}
    for migration in survey.migrations:
        if migration.state is MigrationState.APPLIED:
            for operation, seconds in _timed(migration):
                if operation.done >= _ENOUGH and seconds > 0:
                    seen.setdefault(operation.type, []).append(operation.done / seconds)
    return {type_: median(each) for type_, each in seen.items()}


def _timed(migration: MigrationRecord) -> Iterator[tuple[OperationRecord, float]]:
    """The operations of an applied migration, and the seconds from the end of the one before."""
    begun = migration.started
    for operation in migration.operations:
        if operation.updated is None:
            return
        yield operation, (operation.updated - begun).total_seconds()
        begun = operation.updated


def total(estimates: list[Estimate]) -> Time | None:
    """How long the heavy operations of one database take; None where there are none."""
    if not estimates:
        return None
    known = [each.seconds for each in estimates if each.seconds is not None]
    return Time(seconds=sum(known), complete=len(known) == len(estimates))
