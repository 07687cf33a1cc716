"""How large a batch is and how long to wait: the runner's two numbers that adapt."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass, replace

START = 2_000
LARGEST = 50_000
_FAST_GROWTH = 2.0
_SLOW_GROWTH = 1.1
_FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
"""In seconds, as a pause may be at most after a first failure, and after many."""
_DOUBLINGS = 10
"""No more are counted: the longest is reached by then."""


@dataclass(frozen=True)
class Bounds:
    """What an operation asks of its batches: `least` to `most` documents or rows in each.

    One should take `seconds` (None: as the settings have it), and they should work through no
    more than `rate` documents or rows a second.
    """

    least: int = 1
    most: int = LARGEST
    seconds: float | None = None
    rate: float | None = None

    def slowed(self, rate: float | None) -> Bounds:
        """The same, at no more than `rate` too."""
        rates = [each for each in (self.rate, rate) if each is not None]
        return replace(self, rate=min(rates, default=None))


class Pace:
    """The size of batches, so that one takes about `seconds`; and the pauses between them.

    A conflict halves the size at once, down to one document whatever the bounds say, and from
    then on it grows slowly: somebody else writes the same documents (FAULTS 9).

    Where there is a rate, a batch holds no more than it allows in `seconds`, and the next one
    waits until the time of this one's documents is over. Time that slow batches have lost is
    made good by no more than `seconds`.
    """

    def __init__(
        self, seconds: float, stuck_before: float = 0.0, bounds: Bounds | None = None
    ) -> None:
        """Begin with a middling size.

        `stuck_before` is for how many seconds workers before this one have been stuck.
        """
        bounds = bounds or Bounds()
        self._seconds = bounds.seconds or seconds
        self._stuck_before = stuck_before
        self._growth = _FAST_GROWTH
        self._failures = 0
        self._stuck_since: float | None = None
        self._bounds = bounds
        self._sharing = 1
        self._due = time.monotonic()
        self._least = bounds.least
        self.size = self._within(START)

    @property
    def _rate(self) -> float | None:
        """Documents or rows a second, here."""
        whole = self._bounds.rate
        return None if whole is None else whole / self._sharing

    def share(self, sharing: int) -> None:
        """So many ranges are at work at once, and keep the rate together."""
        self._sharing = sharing
        self.size = self._within(self.size)

    def _within(self, size: int) -> int:
        most = self._bounds.most
        if self._rate is not None:
            most = max(1, min(most, int(self._rate * self._seconds)))
        return max(min(self._least, most), min(most, size))

    @property
    def stuck_for(self) -> float:
        """Seconds since the first failure here after which nothing has moved; 0 without one."""
        return time.monotonic() - self._stuck_since if self._stuck_since is not None else 0.0

    @property
    def stuck_in_all(self) -> float:
        """The same, with the time of the workers before this one."""
        return self._stuck_before + self.stuck_for

    @property
    def owed(self) -> float:
        """Seconds until the rate allows the next batch; 0 without one."""
        return max(0.0, self._due - time.monotonic()) if self._rate else 0.0

    def resumed(self) -> None:
        """Another worker may have done a batch just now: wait as long as one is worth."""
        if self._rate:
            self._due = time.monotonic() + self.size / self._rate

    def held(self, seconds: float) -> None:
        """Nothing was tried for `seconds`, on purpose: that is not being stuck."""
        if self._stuck_since is not None:
            self._stuck_since += seconds

    def went_well(self, seconds: float, *, done: int = 0, moved: bool = True) -> None:
        """A batch of `done` documents took `seconds`: bring the size towards the wanted time.

        `moved` says whether it brought the operation any further; one that only asks a server
        how far it is may go on doing so for ever.
        """
        if moved:
            self._stuck_since, self._stuck_before = None, 0.0
        factor = min(self._growth, max(0.5, self._seconds / max(seconds, 0.001)))
        self.size = self._within(math.ceil(self.size * factor))
        self._failures = 0
        if self._rate:
            begun = time.monotonic() - seconds
            self._due = max(self._due, begun - self._seconds) + done / self._rate

    def conflicted(self) -> None:
        """Others write the same documents: halve."""
        self._least = 1
        self.size = max(1, self.size // 2)
        self._growth = _SLOW_GROWTH

    def begun(self, attempts: int) -> None:
        """Begin with less where earlier attempts ended without a word, before any checkpoint.

        The batch may have been too much for its worker, or longer than workers live there.
        """
        if attempts > 1:
            self._least = 1
            self.size = min(self.size, max(1, START // 4 ** (attempts - 1)))

    def pause(self) -> float:
        """How many seconds to wait after this failure: longer each time, with jitter."""
        self._failures += 1
        if self._stuck_since is None:
            self._stuck_since = time.monotonic()
        most = _FIRST_PAUSE * 2 ** min(self._failures - 1, _DOUBLINGS)
        return random.uniform(0, min(most, LONGEST_PAUSE))  # noqa: S311 - spreads, hides nothing
