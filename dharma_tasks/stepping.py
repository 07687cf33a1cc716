"""Steps that are taken in threads, so that an event loop is never blocked: see `submit`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from threading import Lock
from typing import Generic, TypeVar

from dharma_tasks import submit

__all__ = ["Steps", "paced"]

StepT = TypeVar("StepT")


class Steps(Generic[StepT]):
    """Steps that are taken one at a time, whatever becomes of who waits for them."""

    def __init__(
        self, steps: Iterator[StepT | None], close: Callable[[], None] = lambda: None
    ) -> None:
        self._steps = steps
        self._close = close
        self._at_work = Lock()

    def next(self) -> tuple[StepT | None, ...]:
        """Take one; an empty tuple at the end."""
        with self._at_work:
            for step in self._steps:
                return (step,)
            return ()

    def close_soon(self) -> asyncio.Future[None]:
        """Close what they work with, when the one that is being taken has come to its end."""
        return asyncio.get_running_loop().run_in_executor(None, self._close_now)

    def _close_now(self) -> None:
        with self._at_work:
            self._close()


async def paced(steps: Steps[StepT]) -> AsyncIterator[StepT]:
    """Take the steps in threads, with a pause where one asks for it."""
    while found := await asyncio.to_thread(steps.next):
        (step,) = found
        if step is None:
            await asyncio.sleep(submit.POLL_SECONDS)
        else:
            yield step
