"""How large a batch is and how long to wait: the runner's two numbers that adapt."""

from __future__ import annotations

import math
import time

from tenacity import wait_random_exponential
from tenacity.wait import wait_base

START = 2_000
LARGEST = 50_000
_FAST_GROWTH = 2.0
_SLOW_GROWTH = 1.1


class Pace:
    """The size of batches, so that one takes about `seconds`; and the pauses after errors.

    A conflict halves the size at once, down to one document, and from then on it grows
    slowly: somebody else writes the same documents (FAULTS 9).
    """

    _pause: wait_base = wait_random_exponential(multiplier=0.2, max=10)

    def __init__(self, seconds: float, stuck_before: float = 0.0) -> None:
        """Begin with a middling size.

        `stuck_before` is for how many seconds workers before this one have been stuck.
        """
        self._seconds = seconds
        self._stuck_before = stuck_before
        self._growth = _FAST_GROWTH
        self._failures = 0
        self._stuck_since: float | None = None
        self.size = START

    @property
    def stuck_for(self) -> float:
        """Seconds since the first failure here after which nothing has moved; 0 without one."""
        return time.monotonic() - self._stuck_since if self._stuck_since is not None else 0.0

    @property
    def stuck_in_all(self) -> float:
        """The same, with the time of the workers before this one."""
        return self._stuck_before + self.stuck_for

    def went_well(self, seconds: float, *, moved: bool = True) -> None:
        """A batch took `seconds`: bring the size towards the wanted time.

        `moved` says whether it brought the operation any further; one that only asks a server
        how far it is may go on doing so for ever.
        """
        if moved:
            self._stuck_since, self._stuck_before = None, 0.0
        factor = min(self._growth, max(0.5, self._seconds / max(seconds, 0.001)))
        self.size = min(LARGEST, math.ceil(self.size * factor))
        self._failures = 0

    def conflicted(self) -> None:
        """Others write the same documents: halve."""
        self.size = max(1, self.size // 2)
        self._growth = _SLOW_GROWTH

    def begun(self, attempts: int) -> None:
        """Begin with less where earlier attempts ended without a word, before any checkpoint.

        The batch may have been too much for its worker, or longer than workers live there.
        """
        if attempts > 1:
            self.size = min(self.size, max(1, START // 4 ** (attempts - 1)))

    def pause(self) -> float:
        """How many seconds to wait after this failure: longer each time, with jitter."""
        self._failures += 1
        if self._stuck_since is None:
            self._stuck_since = time.monotonic()
        state = _Attempt(self._failures)
        return float(self._pause(state))  # type: ignore[arg-type]


class _Attempt:
    """The one thing that tenacity's waits read of a retry's state."""

    def __init__(self, number: int) -> None:
        self.attempt_number = number
