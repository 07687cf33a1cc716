"""The ranges of one operation, worked through by several workers in threads of this process."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dharma_tasks.errors import MigrationFailed, StepAside, Stopped
from dharma_tasks.measures import Measure
from dharma_tasks.runner import Runner
from dharma_tasks.work import Amount, Taken


@dataclass
class ThreadControl:
    """Lets a worker go on until `stops` says otherwise."""

    between: Callable[[], None] = lambda: None
    warnings: list[str] = field(default_factory=list)

    def ending(self) -> Stopped | None:
        return None

    def check(self) -> None:
        self.between()

    def alive(self, seen: Amount | None = None) -> None:
        pass

    def confirm(self) -> None:
        pass

    def report(self, taken: Taken, stuck_for: float) -> None:
        pass

    def waiting(self, reason: str, stuck_for: float, *, handed_on: bool = False) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def measure(self, what: Measure, amount: float, detail: str = "") -> None:
        pass

    def sharing(self, ranges: int) -> int:
        return ranges


class Lot:
    """Who has which range: what leases in Redis are for. `done` says how many each has ended."""

    def __init__(self) -> None:
        self._locks: dict[int, threading.Lock] = defaultdict(threading.Lock)
        self.left: list[int] = []
        self.shown = threading.Event()
        self.over = threading.Event()

    def show(self, left: Sequence[int]) -> None:
        self.left = [*left]
        self.shown.set()

    @contextmanager
    def hold(self, number: int, between: Callable[[], None]) -> Iterator[ThreadControl | None]:
        lock = self._locks[number]
        if not lock.acquire(blocking=False):
            yield None
            return
        try:
            yield ThreadControl(between)
        finally:
            lock.release()


def side_by_side(make: Callable[[], Runner], workers: int) -> tuple[Taken, list[set[int]]]:
    """Let one worker have the operation, and others help; each comes with a database of its own.

    Returns the operation at its end, and which ranges each of the others has ended.
    """
    lot = Lot()

    def help_out(_: int) -> set[int]:
        whole, ended = make(), set[int]()
        lot.shown.wait(30)
        while not lot.over.is_set():
            for number in lot.left:
                if _done_by(whole, lot, number):
                    ended.add(number)
            lot.over.wait(0.05)
        whole.database.close()
        return ended

    with ThreadPoolExecutor(workers) as pool:
        others = [pool.submit(help_out, n) for n in range(workers - 1)]
        whole = make()
        whole.ranges = lot
        try:
            taken = whole.run()
        finally:
            lot.over.set()
            lot.shown.set()
        return taken, [other.result() for other in others]


def _done_by(whole: Runner, lot: Lot, number: int) -> bool:
    """Whether this worker has ended the range."""
    with lot.hold(number, lambda: None) as control:
        if control is None:
            return False
        runner = Runner(
            operation=whole.operation,
            assignment=whole.assignment.of_range(number),
            database=whole.database,
            control=control,
            settings=whole.settings,
            worker="helper",
        )
        try:
            before: Any = None
            taken = runner.run()
            before = runner.first
        except (StepAside, MigrationFailed):
            return False
        return before is not None and not before.over and taken.over
