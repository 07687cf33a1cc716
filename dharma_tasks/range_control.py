"""The one question between the batches of a range, which is answered for its operation too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from dharma_tasks.control import ASK_SECONDS, OperationControl
from dharma_tasks.errors import LeaseHeld, RangeLeft, Stopped
from dharma_tasks.lease import Lease
from dharma_tasks.records import Owner
from dharma_tasks.run import Progress
from dharma_tasks.work import Amount, Taken


@dataclass
class RangeLeases:
    """How the worker that has an operation, with the lease in `control`, comes by its ranges."""

    control: OperationControl
    holder: Owner
    _left: tuple[int, ...] = ()

    def show(self, left: Sequence[int]) -> None:
        """Let rescuers send for what is left and nobody has; without Redis nobody is sent."""
        if (now := tuple(left)) == self._left:
            return
        try:
            self.control.runs.ranges(self.control.run, self.control.key, now)
            self._left = now
        except RedisError:
            return

    @contextmanager
    def hold(self, number: int, between: Callable[[], None]) -> Iterator[OwnRange | None]:
        """Hold the lease on a range, beside that on the operation; None where another has it.

        `between` is called between two batches of the range.
        """
        try:
            key = self.control.key.of_range(number)
            lease = self.control.leases.acquire(key, self.holder, self.control.run)
        except (LeaseHeld, RedisError):
            yield None
            return
        try:
            yield OwnRange(self.control, lease, between)
        finally:
            lease.release()


@dataclass
class OwnRange:
    """Watches over a range in the hands of the worker that has the operation too.

    What is asked and shown is the operation's; only the lease is its own.
    """

    operation: OperationControl
    lease: Lease
    between: Callable[[], None]
    _asked: float = field(default_factory=time.monotonic)

    def ending(self) -> Stopped | None:
        """As of the operation."""
        return self.operation.ending()

    def check(self) -> None:
        """Keep both leases, and look after the operation.

        Raises:
            StepAside: one of them is lost, or `between` wants the range to be left.
        """
        self.operation.check()
        if time.monotonic() - self._asked >= ASK_SECONDS:
            self._asked = time.monotonic()
            self.lease.renew()
        self.between()

    def alive(self, seen: Amount | None = None) -> None:  # noqa: ARG002 - it is of the range only
        """Keep both leases."""
        self.lease.renew()
        self.operation.alive()

    def confirm(self) -> None:
        """Raise `LeaseLost` unless the range is ours at this moment."""
        self.lease.confirm()

    def report(self, taken: Taken, stuck_for: float) -> None:
        """What is shown is how far the operation is."""

    def waiting(self, reason: str, stuck_for: float, *, handed_on: bool = False) -> None:
        """Show it as the operation's: whoever has that waits."""
        self.operation.waiting(reason, stuck_for, handed_on=handed_on)

    def warn(self, message: str) -> None:
        """As of the operation."""
        self.operation.warn(message)

    def sharing(self, ranges: int) -> int:
        """How many ranges are at work."""
        return self.operation.sharing(ranges)


@dataclass
class HelperControl(OperationControl):
    """Watches over a range in the hands of a worker that has nothing else to do.

    `crowded` says whether something else waits for this worker: a range can wait for another one.
    """

    crowded: Callable[[], bool] = lambda: False
    _moves: bool = False

    def check(self) -> None:
        """As of an operation; and make room.

        Raises:
            StepAside: see `OperationControl.check`.
        """
        asked = self._asked
        super().check()
        if self._asked != asked and self._is_crowded():
            msg = "other work waits for this worker"
            raise RangeLeft(msg)

    def _is_crowded(self) -> bool:
        try:
            return self.crowded()
        except RedisError:  # without it nothing else can be taken either
            return False

    def report(self, taken: Taken, stuck_for: float) -> None:  # noqa: ARG002
        """What is shown is how far the operation is; this one is only not to be sent for rarely."""
        if self._moves:
            return
        try:
            self.runs.moves(self.run, self.key)
            self._moves = True
        except RedisError:
            return

    def _show(self, progress: Progress) -> None:
        """Whoever has the operation shows how far that is."""
