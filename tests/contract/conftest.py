"""Workers on the real databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from journal_hand import Worker

from dharma_tasks.settings import Settings


@pytest.fixture
def new(name: str, settings: Settings) -> Iterator[Callable[[], Worker]]:
    """Make workers; each has its own connections."""
    made: list[Worker] = []

    def make() -> Worker:
        made.append(Worker(name, settings))
        return made[-1]

    yield make
    for worker in made:
        worker.database.close()


@pytest.fixture
def worker(new: Callable[[], Worker]) -> Worker:
    """One worker."""
    return new()
