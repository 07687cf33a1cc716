"""An operation that is cut into ranges, as the worker sees it that has the operation itself.

It works through one range after the other that nobody has; the rescuers of other workers send for
the rest (`messages.py`). With one worker alone the ranges are simply done in turn. Whoever has the
operation looks after all of them: it writes down how far they are, so that the operation has a
checkpoint too, lets it fail with the first range that fails, and ends it with the last one.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from dharma_tasks.errors import OperationFailed, RangeLeft, StepAside
from dharma_tasks.records import OperationState, RangeRecord
from dharma_tasks.work import Step, Taken

if TYPE_CHECKING:
    from dharma_tasks.runner import Runner

LOOK_SECONDS = 2
"""How often it is looked how far the ranges of the others are."""


class SideBySide:
    """An operation that `runner` has `taken`."""

    def __init__(self, runner: Runner, taken: Taken) -> None:
        """Nothing was looked at yet."""
        journal, control = runner.database.journal, runner.ranges
        if journal.ranges is None or control is None:
            msg = f"{runner.assignment.key} is cut into ranges, and its journal has none"
            raise TypeError(msg)
        self.taken = taken
        self._runner = runner
        self._journal = journal
        self._ranges = journal.ranges
        self._control = control
        self._looked = 0.0

    def go_on(self) -> bool:
        """Look at all ranges, and work through one that nobody has. Returns whether there was one.

        Raises:
            OperationFailed: a range has failed for good.
            StepAside: the operation is another worker's now, or this one must stop.
        """
        for each in self._look():
            with self._control.hold(each.number, self._between) as control:
                if control is not None:
                    self._runner.carry_out_range(each.number, control)
                    return True
        return False

    def _between(self) -> None:
        """Look at the others, between two batches of a range that is in hand here.

        Whatever is wrong is not of that range: it is left, and the operation is looked at again.
        """
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        try:
            self._look()
        except StepAside:
            raise
        except Exception as error:
            msg = f"the operation itself needs its worker: {error}"
            raise RangeLeft(msg) from error

    def _look(self) -> list[RangeRecord]:
        """Write down how far the ranges are; returns those that are open."""
        found = self._ranges.of(self.taken.assignment.key)
        self._looked = time.monotonic()
        for each in found:
            if each.state is OperationState.FAILED:
                raise OperationFailed(f"range {each.number} of {len(found)}: {each.error}")
        left = [each for each in found if each.state is not OperationState.DONE]
        done = sum(each.done for each in found)
        if done > self.taken.done or not left:
            step = Step(
                self._runner.operation.joined([each.cursor for each in found]),
                done - self.taken.done,
                finished=not left,
                total=None if left else done,
            )
            # It has no effect of its own to be committed with.
            self.taken = self._journal.step(self.taken, lambda _handle: step, transactional=False)
        self._control.show([each.number for each in left])
        self._runner.control.report(self.taken, 0.0)
        return left
