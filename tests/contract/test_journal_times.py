"""The times from which a plan learns how fast an operation went, in every database's journal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from journal_hand import Worker

from dharma_tasks.databases import NAMES
from dharma_tasks.estimate import rates
from dharma_tasks.records import MigrationRecord

pytestmark = pytest.mark.parametrize("name", NAMES)

CLOCK = timedelta(milliseconds=1)
"""What the journals round to."""


def record(worker: Worker) -> MigrationRecord:
    """What the journal says."""
    (found,) = worker.journal.survey().migrations
    return found


def test_an_operation_ends_once(worker: Worker) -> None:
    """Its time is that of its last batch, whoever looks at it or asks for it later."""
    generation = worker.begin()
    first, second = (worker.assignment(generation, number, count=2) for number in (1, 2))
    taken = worker.step(worker.take(first), 1, done=5000)
    worker.journal.note(taken, None)  # paused
    taken = worker.take(first)
    before = datetime.now(UTC)
    worker.step(taken, 2, finished=True, done=5000)
    after = datetime.now(UTC)
    ended = record(worker).operations[0].updated
    assert ended is not None
    assert before - CLOCK <= ended <= after + CLOCK
    assert worker.take(first).over
    worker.step(worker.take(second), 1, finished=True, done=5000)
    worker.begin("run-2", generation)
    found = record(worker)
    assert found.operations[0].updated == ended
    assert found.operations[1].updated is not None
    assert found.started <= ended <= found.operations[1].updated
    assert rates(worker.journal.survey())["kind"] > 0
