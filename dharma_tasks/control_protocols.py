"""What the loop asks between batches, and whom it tells. The loop knows no lease and no Redis."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from dharma_tasks.errors import Stopped
from dharma_tasks.measures import Measure
from dharma_tasks.work import Amount, Taken

__all__ = ["Control", "RangesControl"]


class Control(Protocol):
    """What the loop asks between batches, and whom it tells."""

    def ending(self) -> Stopped | None:
        """Why this worker is to stop, if it is. Called from another thread too."""

    def check(self) -> None:
        """Raise `StepAside` when this worker must stop at this batch boundary; else renew."""

    def alive(self, seen: Amount | None = None) -> None:
        """Give a sign of life from within a long statement, and show how far the server is with it.

        Called from another thread.
        """

    def confirm(self) -> None:
        """Raise `LeaseLost` unless the lease is ours at this moment."""

    def report(self, taken: Taken, stuck_for: float) -> None:
        """Show progress, and for how many seconds there has been none."""

    def waiting(self, reason: str, stuck_for: float, *, handed_on: bool = False) -> None:
        """Show why there is no progress, and whether the work is left to another worker."""

    def warn(self, message: str) -> None:
        """Show what a person should know."""

    def measure(self, what: Measure, amount: float, detail: str = "") -> None:
        """Count for whoever watches all operations; called from this thread only."""

    def sharing(self, ranges: int) -> int:
        """How many of so many ranges are at work now, which share one rate."""


class RangesControl(Protocol):
    """How the worker that has an operation comes by its ranges."""

    def show(self, left: Sequence[int]) -> None:
        """Show the ranges that are left, so that other workers are sent to them."""

    def hold(
        self, number: int, between: Callable[[], None]
    ) -> AbstractContextManager[Control | None]:
        """Hold the lease on a range: None where another one has it.

        `between` is called between its batches, as `check` is.
        """
