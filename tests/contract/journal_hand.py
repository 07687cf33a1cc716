"""A database as one worker has it, with the journal's calls made short."""

from __future__ import annotations

from typing import Any

import pytest

from dharma_tasks.databases import Database, connect
from dharma_tasks.errors import FenceLost
from dharma_tasks.journal import (
    Assignment,
    Direction,
    Journal,
    MigrationState,
    Opening,
    Owner,
    Prepared,
    Step,
    Taken,
)
from dharma_tasks.migration import Key
from dharma_tasks.settings import Settings


class Worker:
    """A database as one worker has it, with the journal's calls made short."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.database: Database[Any] = connect(name, settings)

    @property
    def journal(self) -> Journal[Any]:
        return self.database.journal

    def begin(self, run: str = "run-1", expected: int = 0) -> int:
        opening = Opening(run=run, direction=Direction.FORWARD, plan="plan", by="somebody")
        return self.journal.begin(opening, expected)

    def assignment(self, generation: int, number: int = 1, count: int = 1) -> Assignment:
        key = Key(database=self.name, version="1.0.0", number=number)
        run = f"run-{generation}"
        return Assignment(run, generation, "somebody", key, "first", "sum-1", "kind", count)

    def owner(self) -> Owner:
        resources = self.database.resources()
        return Owner(worker="w", node="n", boot="b", pid=1, started=2.5, resources=resources)

    def take(self, assignment: Assignment, *, counted: bool = True) -> Taken:
        return self.journal.take(assignment, self.owner(), counted=counted)

    def step(self, taken: Taken, cursor: Any, *, finished: bool = False, done: int = 10) -> Taken:
        step = Step(cursor=cursor, done=done, finished=finished, total=100)
        return self.journal.step(taken, lambda _handle: step, transactional=True)


def refused(worker: Worker, taken: Taken) -> None:
    """Every write of `taken` is refused, and nothing of them is kept."""
    with pytest.raises(FenceLost):
        worker.step(taken, "late", finished=True)
    with pytest.raises(FenceLost):
        worker.journal.prepare(taken, Prepared(undo={"late": True}, total=1))
    with pytest.raises(FenceLost):
        worker.journal.note(taken, "late")
    with pytest.raises(FenceLost):
        worker.journal.fail(taken, "late", MigrationState.FAILED)
