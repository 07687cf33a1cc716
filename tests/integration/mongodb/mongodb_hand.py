"""A worker by hand: the runner's loop without lease, pauses and progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from dharma_tasks.databases.mongodb import Handle, MongodbDatabase
from dharma_tasks.journal import Opening
from dharma_tasks.migration import Key
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb import catalogue
from dharma_tasks.records import Direction, MigrationState, Owner
from dharma_tasks.work import Assignment, Step, Taken, Work


class Hand:
    """Does operations one after the other, each as a migration of its own."""

    def __init__(self, database: MongodbDatabase, worker: str) -> None:
        self.database = database
        self.worker = worker
        self.warnings: list[str] = []
        self.confirmed = 0
        self.size = 10
        self._runs = count()

    def begin(self, run: str = "run", expected: int = 0) -> int:
        """Open the run; harmless when another worker has done so."""
        opening = Opening(run=run, direction=Direction.FORWARD, plan="plan", by="somebody")
        return self.database.journal.begin(opening, expected)

    def assignment(
        self, version: str, kind: str, generation: int = 1, *, back: bool = False
    ) -> Assignment:
        """The one operation of the migration `version`, in a run of its own.

        What a run has rolled back it does not begin anew. The journal is let be of that run by
        hand, with all fences as they are.
        """
        key = Key(database="mongodb", version=version, number=1)
        run = "back" if back else f"run-{next(self._runs)}"
        handle = self.database.handle
        head = handle.database[handle.kept.name.replace("_undo", "_head")]
        head.update_one({"generation": generation}, {"$set": {"run": run}})
        there = Assignment(run, generation, "somebody", key, "name", "sum", kind, 1)
        way = {"direction": Direction.BACK, "outcome": MigrationState.ROLLED_BACK}
        return replace(there, **way) if back else there

    def take(
        self,
        version: str,
        operation: Operation[Any],
        generation: int = 1,
        *,
        back: bool = False,
    ) -> Taken:
        """Free the former owner's session, take over, and prepare if nobody did."""
        assignment = self.assignment(version, operation.kind, generation, back=back)
        former = self.database.journal.owner(assignment.key)
        if former:
            self.database.free(former)
        taken = self.database.journal.take(assignment, self.owner(), counted=True)
        if taken.undo is None and not back:
            prepared = operation.prepare(self.work(taken, self.database.handle))
            assert prepared is not None
            taken = self.database.journal.prepare(taken, prepared)
        return taken

    def owner(self) -> Owner:
        """This worker."""
        resources = self.database.resources()
        return Owner(
            worker=self.worker, node="node", boot="boot", pid=1, started=1.0, resources=resources
        )

    def work(self, taken: Taken, handle: Handle) -> Work[Handle]:
        """What the runner gives to the operation."""
        return Work(
            handle=handle,
            cursor=taken.cursor,
            undo=taken.undo or {},
            size=self.size,
            label=f"run/{taken.assignment.key}/{taken.fence}",
            key=taken.assignment.key,
            walked=taken.walked,
            confirm=self.confirm,
            warn=self.warnings.append,
        )

    def confirm(self) -> None:
        """Count instead of asking Redis."""
        self.confirmed += 1

    def step(
        self,
        taken: Taken,
        operation: Operation[Any],
        between: Callable[[], None] = lambda: None,
    ) -> Taken:
        """Do one batch; `between` is called after its effect, before its checkpoint."""

        def batch(handle: Handle) -> Step:
            way = operation.undo if taken.assignment.back else operation.step
            step = way(self.work(taken, handle))
            between()
            return step

        back = taken.assignment.back
        may = operation.undoes_in_transaction if back else operation.transactional
        transactional = may(taken.cursor)
        return self.database.journal.step(taken, batch, transactional=transactional)

    def finish(self, taken: Taken, operation: Operation[Any]) -> Taken:
        """Do batches until there are none left."""
        while not taken.over:
            taken = self.step(taken, operation)
        return taken

    def run(self, operation: Operation[Any], version: str = "1.0.0") -> Taken:
        """The whole operation."""
        return self.finish(self.take(version, operation), operation)

    def undo(self, operation: Operation[Any], version: str = "1.0.0") -> Taken:
        """The whole way back."""
        return self.finish(self.take(version, operation, back=True), operation)


def op(kind: str, **parameters: Any) -> Operation[Any]:
    """An operation from its JSON."""
    operation = catalogue.parse({"type": kind, **parameters})
    assert operation.problems() == []
    return operation
