"""What is measured while operations are carried out, and who is told.

Whoever measures does not know what becomes of it (`metrics`), and loses no time by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

__all__ = ["Measure", "Measured", "Meter", "Outcome", "Unmetered", "Wait"]


class Measure(StrEnum):
    """What was measured, each with what its amount and its detail are."""

    BATCH = "batch"
    """Seconds that a batch took, with its checkpoint."""
    DOCUMENTS = "documents"
    """Documents, rows or statements that a batch has worked through."""
    WAITED = "waited"
    """Seconds that a worker has waited with the operation in hand, and a `Wait`."""
    RETRY = "retry"
    """Once for each passing error, and the `Fault`."""
    END = "end"
    """Once when a worker is through with an operation, and the `Outcome`."""


class Wait(StrEnum):
    """Why a worker waits with an operation in hand."""

    RATE = "rate"
    """The operation, or the run, may go no faster."""
    STRAIN = "strain"
    """Its database is not well: see `Health`."""
    RETRY = "retry"
    """A pause after a passing error."""
    RANGES = "ranges"
    """Other workers are at work on all that is left of it."""


class Outcome(StrEnum):
    """What came of an operation in the hands of one worker."""

    DONE = "done"
    FAILED = "failed"
    LEFT = "left"
    """It goes on elsewhere, later, or in another direction: see `StepAside`."""


@dataclass(frozen=True)
class Measured:
    """One thing that was measured, with the operation's database, type and direction."""

    measure: Measure
    database: str
    operation: str
    direction: str
    amount: float
    detail: str = ""


class Meter(Protocol):
    """Who is told."""

    def take(self, measured: Measured) -> None:
        """Take it; never raises, and never waits. Called from any thread, and any process."""


class Unmetered:
    """Nobody wants to know."""

    def take(self, measured: Measured) -> None:
        """Forget it."""
