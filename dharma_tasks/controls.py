"""What people ask of a run while it is open, as those who have the key sign it."""

from __future__ import annotations

import time
from typing import NamedTuple

from dharma_tasks.errors import Unsigned
from dharma_tasks.planned import TODO
from dharma_tasks.run import RunState
from dharma_tasks.signing import Kind, Signer


class Control(NamedTuple):
    """What was asked of a run at last: a later one has a higher number.

    `state` is what the run is to be by it; one that is paused is `was` again when it is resumed.
    """

    number: int
    state: RunState
    was: RunState = RunState.RUNNING

    @classmethod
    def parse(cls, text: str) -> Control:
        """Make it from its `text`."""
        number, state, was = text.split()
        return cls(int(number), RunState(state), RunState(was))

    @classmethod
    def believed(cls, signer: Signer, run: str, text: str | None, signature: str | None) -> Control:
        """What was asked of a run at last, from what its record has.

        Raises:
            Unsigned: nobody with the key has asked that.
        """
        if text is None:
            return NOTHING
        signer.confirm(Kind.CONTROL, signature, run, text)
        return cls.parse(text)

    @property
    def text(self) -> str:
        """How a run's record has it."""
        return f"{self.number} {self.state} {self.was}"

    def following(self, state: RunState) -> Control:
        """What is asked after it: that the run be `state`."""
        now = time.time_ns() // 1000  # whoever lost count in Redis still comes after this
        going = self.was if self.state is RunState.PAUSED else self.state
        return Control(max(now, self.number + 1), state, going)

    def confirm(self, run: str, state: RunState) -> None:
        """Make sure that a run which Redis says is at work as `state` may be so.

        Raises:
            Unsigned: nobody has asked for that, or somebody has asked for something else.
        """
        cancelled = self.state is RunState.CANCELLING
        if self.state.rests or cancelled is not (state is RunState.CANCELLING):
            what = f"run {run} is {state} by what Redis says, but was asked to be {self.state}"
            raise Unsigned(what, TODO)


NOTHING = Control(0, RunState.RUNNING)
"""Nobody has asked anything."""
