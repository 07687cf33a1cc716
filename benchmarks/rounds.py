"""Side by side: every way once a round, so that what else the machine does meets all of them."""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence

from benchmarks.table import Times

Way = Callable[[], Times]
"""Does the work once, and returns what it took by the names of what was measured."""


def measure(
    ways: Sequence[Way], rounds: int, before: Callable[[], object] = lambda: None
) -> tuple[Times, list[float]]:
    """Run all ways `rounds` times; each round begins with another of them, after `before`.

    Returns the seconds by name, the first way's first, and the load before each round.
    """
    found: Times = defaultdict(list)
    loads = []
    for number in range(rounds):
        before()
        loads.append(os.getloadavg()[0])
        turn = number % len(ways)
        for way in (*ways[turn:], *ways[:turn]):
            for name, seconds in way().items():
                found[name] += seconds
                say(f"  {number + 1}/{rounds} {name}: {seconds[-1]:.2f} s")
    return found, loads


def timed(work: Callable[[], object]) -> float:
    """How many seconds it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def say(line: str) -> None:
    """Tell whoever waits how far it is; the table itself comes at the end."""
    print(line, file=sys.stderr, flush=True)
