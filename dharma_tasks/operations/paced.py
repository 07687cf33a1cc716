"""What the bulk operations of all databases let a user say of their batches, in the same words.

How fast a migration goes is not what it does: these parameters do not count in its checksum
(`migration.py`), so that they may be changed when it has begun, or is applied.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dharma_tasks.operations.base import HandleT, Operation
from dharma_tasks.pace import LARGEST, Bounds

Throttle = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""Documents or rows a second."""

Parallel = Annotated[int, Field(ge=1, le=64)]
"""How many ranges are worked through at once."""

_WORTHWHILE = 1_000


class Batch(BaseModel):
    """How many documents or rows a batch has, and how many seconds it should take."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min: int = Field(default=1, ge=1)
    """At least so many documents or rows; a conflict makes a batch smaller all the same."""
    max: int = Field(default=LARGEST, ge=1, le=1_000_000)
    """At most so many."""
    seconds: float | None = Field(default=None, gt=0, le=60)
    """How long a batch should take; without it `DHARMA_BATCH_SECONDS`."""

    @model_validator(mode="after")
    def _ordered(self) -> Batch:
        if self.min > self.max:
            msg = f"min ({self.min}) is above max ({self.max})"
            raise ValueError(msg)
        return self


class Throttled(Operation[HandleT]):
    """Works through no more than `throttle` documents or rows a second, on both ways."""

    throttle: Throttle | None = None
    """At most so many documents or rows a second."""

    def bounds(self) -> Bounds:
        """The rate."""
        return Bounds(rate=self.throttle)


class Paced(Throttled[HandleT]):
    """Its batches are cut by the runner, between the bounds in `batch`.

    With `parallel` it is cut into so many ranges, for several workers to work through at once.
    """

    batch: Batch = Batch()
    """How large a batch is."""
    parallel: Parallel = 1
    """So many ranges, worked through by several workers at once."""

    def cuts(self, total: int) -> list[int]:
        """How many of `total` documents or rows are before each range but the first.

        A range that holds few is not worth its worker.
        """
        count = min(self.parallel, total // _WORTHWHILE)
        return [total * number // count for number in range(1, count)]

    def bounds(self) -> Bounds:
        """What the migration says."""
        batch = self.batch
        return Bounds(batch.min, batch.max, batch.seconds, self.throttle)
