"""The one question between batches, "go on?", and the one place that answers it (Law 8)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from redis.exceptions import RedisError

from dharma_tasks.errors import Cancelled, Halted, Stopped
from dharma_tasks.lease import Lease, Leases
from dharma_tasks.limits import Window
from dharma_tasks.measures import Measure, Measured, Meter, Unmetered
from dharma_tasks.migration import Key
from dharma_tasks.records import Direction
from dharma_tasks.run import Event, Progress, RunState
from dharma_tasks.runs_at_work import RunsAtWork
from dharma_tasks.work import Amount, Taken

ASK_SECONDS = 0.5
"""Redis is asked no more often than this; short batches need not pay for it."""
_WARNINGS = 10
"""How many warnings of one operation are shown to whoever watches the run."""


@dataclass
class OperationControl:
    """Watches over one operation: its lease, its run, and this worker's own shutdown.

    `lease` is that on `key`. `progress` is what is shown at the start; `shutting_down` says whether
    this worker was told to end; `forward` whether it is undone when the run is cancelled (see
    `Job`). Outside of the `window` it rests. `meter` hears what is measured.
    """

    lease: Lease
    leases: Leases
    runs: RunsAtWork
    run: str
    key: Key
    progress: Progress
    shutting_down: Callable[[], bool]
    forward: bool = True
    window: Window | None = None
    meter: Meter = field(default_factory=Unmetered)
    _asked: float = field(default_factory=time.monotonic)
    # What is over sooner needs no progress bar.
    _reported: float = field(default_factory=time.time)
    _began: bool = False
    _warned: int = 0
    _seen: Amount | None = None
    _phase: dict[str, float] = field(default_factory=dict)

    def ending(self) -> Stopped | None:
        """Why this worker is to stop, if it is. May be called from any thread."""
        if self.shutting_down():
            return Stopped("this worker is shutting down")
        try:
            state = self.runs.state(self.run)
        except RedisError:
            return None
        if state is None:
            return Stopped(f"run {self.run} is not known to Redis any more")
        if state.rests:
            return Halted(f"run {self.run} is {state}")
        if state is RunState.CANCELLING and self.forward:
            return Cancelled(f"run {self.run} is cancelled")
        return None

    def check(self) -> None:
        """Renew the lease, and stop where the run or this worker is to end.

        Raises:
            Stopped: the run is over, paused, cancelled or lost, or this worker is shutting down.
            Halted: this is bulk work, and the run's window is closed.
            LeaseLost: another worker has the lease.
        """
        now = time.monotonic()
        if self.window and not self.window.is_open(datetime.now(UTC)):
            raise self.ending() or self._rest(self.window)
        if not self.shutting_down():
            if now - self._asked < ASK_SECONDS:
                return
            self._asked = now
            self.lease.renew()
        why = self.ending()
        if why is not None:
            raise why

    def _rest(self, window: Window) -> Halted:
        """Let nobody go on with it until the window opens; whoever does is told the same."""
        opens = window.opens(datetime.now(UTC))
        why = f"outside the window {window}; bulk work goes on at {opens:%Y-%m-%d %H:%M %Z}"
        self.progress = self.progress.model_copy(update={"opens": opens.timestamp()})
        self.waiting(why, self.progress.stuck_for, handed_on=self.progress.handed_on)
        return Halted(why)

    def alive(self, seen: Amount | None = None) -> None:
        """Give a sign of life from within a long statement, and show how far the server is."""
        self.lease.renew()
        shown: dict[str, float] = {"heartbeat": time.time()}
        if seen is not None:
            before = self._seen
            if before is None or before.total != seen.total or seen.done < before.done:
                self._phase = {"since": time.time(), "since_done": seen.done}
            self._seen = seen
            shown |= {"done": seen.done, "total": seen.total, **self._phase}
        self._show(self.progress.model_copy(update=shown))

    def confirm(self) -> None:
        """Raise `LeaseLost` unless the lease is ours at this moment."""
        self.lease.confirm()

    def waiting(self, reason: str, stuck_for: float, *, handed_on: bool = False) -> None:
        """Show why there is no progress, and tell the next worker for how many seconds."""
        self.progress = self.progress.model_copy(
            update={"stuck_for": stuck_for, "handed_on": handed_on}
        )
        shown = {"heartbeat": time.time(), "waiting": reason}
        self._show(self.progress.model_copy(update=shown))

    def warn(self, message: str) -> None:
        """Tell whoever watches the run; of a flood only the beginning."""
        self._warned += 1
        if self._warned > _WARNINGS:
            return
        if self._warned == _WARNINGS:
            message = f"{message} (further warnings are in the worker's log)"
        try:
            self.runs.add_event(self.run, Event(at=datetime.now(UTC), kind="warning", text=message))
        except RedisError:
            return

    def measure(self, what: Measure, amount: float, detail: str = "") -> None:
        """Count it, as of an operation of this type."""
        direction = Direction.BACK if self.progress.back else Direction.FORWARD
        measured = Measured(what, self.key.database, self.progress.type, direction, amount, detail)
        self.meter.take(measured)

    def report(self, taken: Taken, stuck_for: float) -> None:
        """Show progress, at most twice a second; what the next worker must know, at once."""
        now = time.time()
        told = {"stuck_for": stuck_for, "handed_on": False}
        new = (self.progress.stuck_for, self.progress.handed_on) != (stuck_for, False)
        update = {"done": taken.done, "total": taken.total, "heartbeat": now, **told}
        if not self._began:
            self._began = True
            update |= {"since": now, "since_done": taken.done}
        self.progress = self.progress.model_copy(update=update)
        if new or now - self._reported >= ASK_SECONDS:
            self._show(self.progress)

    def sharing(self, ranges: int) -> int:
        """How many of the operation's ranges are at work now. Without Redis nobody can tell."""
        try:
            return max(1, self.leases.live(self.key.of_range(n + 1) for n in range(ranges)))
        except RedisError:
            return ranges

    def _show(self, progress: Progress) -> None:
        """Progress only presents: without Redis the work itself goes on."""
        self._reported = time.time()
        try:
            self.runs.report(self.run, self.key.database, progress)
        except RedisError:
            return
