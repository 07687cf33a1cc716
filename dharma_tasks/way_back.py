"""Undoing an operation, and whether there is anything of it to undo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dharma_tasks.databases.base import Database
from dharma_tasks.errors import OperationFailed
from dharma_tasks.journal import Entry
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Operation
from dharma_tasks.work import Assignment, Step, Taken, Walked, Work

__all__ = ["WayBack"]

_LEFT = "left as it is: "
"""What is said of an operation that cannot be undone and is passed over."""


@dataclass(frozen=True)
class WayBack:
    """That of one operation.

    `accept_data_loss` is whether a person said that what cannot be undone is to be passed over, and
    `warn` is how people are told.
    """

    operation: Operation[Any]
    assignment: Assignment
    database: Database[Any]
    accept_data_loss: bool
    warn: Callable[[str], None]

    def undo(self, work: Work[Any]) -> Step:
        """Undo a batch. What was never begun is passed over.

        What cannot be undone is too, where a person accepts that. The plan has asked before, but
        of the operations as they were then; meanwhile one may have lost what its way back needs.
        """
        if not self._has_begun(work.walked or Walked(), work.undo):
            return Step(cursor=None, finished=True)
        reason = self._irreversible(work.undo)
        if reason is None:
            return self.operation.undo(work)
        if not self.accept_data_loss:
            todo = "Roll back with --accept-data-loss, which leaves this operation as it is"
            raise OperationFailed(f"it cannot be undone: {reason}", todo)
        if work.undo.keys() - {"irreversible"}:  # else a person has only declared it to be done
            self.operation.halt(work)
        self.warn(f"{_LEFT}{reason}")
        return Step(cursor=None, finished=True)

    def _irreversible(self, undo: JSON) -> str | None:
        """Why it cannot be undone, as it has found, or as is known of all of its kind."""
        problem = self.operation.irreversible()
        found: str | None = undo.get("irreversible")
        return found or (problem.what if problem else None)

    def audit(self, taken: Taken) -> None:
        """Before anything is passed over, let the history say what, why and who accepts it."""
        begun = self._has_begun(taken.walked or Walked(), taken.undo)
        reason = self._irreversible(taken.undo or {}) if begun and self.accept_data_loss else None
        if reason is not None:
            run, by, key = self.assignment.run, self.assignment.by, self.assignment.key
            told = Entry("passed_over", run, by, key, f"{_LEFT}{reason}")
            self.database.journal.audit(told)

    def keeps_something(self, taken: Taken) -> bool:
        """Whether anything of the operation may be there."""
        return self._has_begun(taken.walked or Walked(taken.cursor, taken.done), taken.undo)

    def _has_begun(self, walked: Walked, undo: JSON | None) -> bool:
        """Whether the way forward, which came as far as `walked`, may have changed anything.

        Without a checkpoint it has not where its first batch commits with one, nor where what it
        found was to be recorded before the first effect, and is not.
        """
        if walked.cursor is not None or walked.done > 0:
            return True
        looks = type(self.operation).prepare is not Operation.prepare
        return not self._in_one and (bool(undo) or not looks)

    @property
    def _in_one(self) -> bool:
        """Whether the first batch and its checkpoint are one transaction."""
        return self.database.transactions and self.operation.transactional(None)
