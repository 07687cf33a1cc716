"""`modify_collection`: change how a collection validates the documents that are written to it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.databases.mongodb.faults import shown
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb.collections import Found, aimed, existing, find, unchanged
from dharma_tasks.operations.mongodb.touched import same
from dharma_tasks.operations.mongodb.values import CollectionName, ValueDocument, dumps, loads
from dharma_tasks.work import Prepared, Step, Work

_DEFAULTS: Document = {"validator": {}, "validationLevel": "strict", "validationAction": "error"}
"""What holds where the server lists nothing, by the names that MongoDB's `collMod` has."""


class ModifyCollection(Operation[Handle]):
    """Changes those of validator, level and action that are given; the others stay.

    The former ones are recorded, and put back by the way back.
    """

    kind: ClassVar[str] = "modify_collection"

    collection: CollectionName
    """Which collection."""
    validator: ValueDocument = None
    """What documents must match, as of MongoDB's `collMod`; `{}` for no validator."""
    level: Literal["strict", "moderate", "off"] | None = None
    """Which writes are looked at."""
    action: Literal["error", "warn", "errorAndLog"] | None = None
    """What becomes of documents that do not match."""

    @property
    def summary(self) -> str:
        """The collection's name."""
        return self.collection

    def problems(self) -> list[Problem]:
        """Nothing to change."""
        if self._wanted():
            return []
        what = "there is nothing to change"
        return [Problem("", "", what, "Give validator, level or action, or several of them.")]

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """MongoDB modifies no collection inside a transaction."""
        return False

    def prepare(self, work: Work[Handle]) -> Prepared:
        """Record the collection's identity and what is about to be changed.

        Raises:
            OperationFailed: there is no such collection, or it validates nothing.
        """
        found = existing(work.handle, self.collection)
        if found.type != "collection":
            what = f"{self.collection!r} is a {found.type}: MongoDB validates nothing there"
            raise OperationFailed(what, "Name a collection")
        undo = {"identity": found.identity, "before": dumps(self._now(found))}
        return Prepared(undo=undo, total=1)

    def step(self, work: Work[Handle]) -> Step:
        """Change it, unless it is as it should be.

        Raises:
            OperationFailed: somebody else has changed it since this operation began.
        """
        before, wanted = loads(work.undo["before"]), self._wanted()
        now = self._now(unchanged(work.handle, self.collection, work.undo["identity"]))
        if not same(now, wanted):
            if not same(now, before):
                what = (
                    f"the validation of {self.collection!r} was changed since this operation "
                    f"began: it was {shown(before)}, is {shown(now)}, wanted: {shown(wanted)}"
                )
                raise OperationFailed(what, "Look who did that, then submit again")
            self._change(work, wanted)
        elif same(before, wanted):
            work.warn(f"{self.collection!r} validates already as it should: {shown(wanted)}")
        return Step(cursor=None, done=1, finished=True, total=1)

    def irreversible(self) -> None:
        """Put back."""

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """MongoDB modifies no collection inside a transaction."""
        return False

    def undo(self, work: Work[Handle]) -> Step:
        """Put back what was there before, where it is still what this has set."""
        before, wanted = loads(work.undo["before"]), self._wanted()
        found = find(work.handle, self.collection)
        if found is None or found.identity != work.undo["identity"]:
            work.warn(
                f"the collection {self.collection!r} was dropped since: there is nothing left to "
                "undo"
            )
        elif same(self._now(found), wanted):
            if not same(wanted, before):
                self._change(work, before)
        elif not same(self._now(found), before):
            work.warn(
                f"the validation of {self.collection!r} was changed since, so it stays: "
                f"{shown(self._now(found))}, set by this migration: {shown(wanted)}, before: "
                f"{shown(before)}"
            )
        return Step(cursor=None, done=1, finished=True, total=1)

    def _wanted(self) -> Document:
        given = (self.validator, self.level, self.action)
        named = zip(_DEFAULTS, given, strict=True)
        return {name: value for name, value in named if value is not None}

    def _now(self, found: Found) -> Document:
        """What a listed collection has of that which is to be changed."""
        return {name: found.options.get(name, _DEFAULTS[name]) for name in self._wanted()}

    def _change(self, work: Work[Handle], change: Document) -> None:
        """Change it, and look again: no transaction takes that."""
        identity = work.undo["identity"]
        work.confirm()
        command = {"collMod": self.collection, **change, "comment": work.label}
        work.handle.command(command | aimed(work.handle, identity))
        now = self._now(unchanged(work.handle, self.collection, identity))
        if not same(now, change):
            what = (
                f"the validation of {self.collection!r} was changed to {shown(change)}, and then "
                f"it was {shown(now)}"
            )
            raise OperationFailed(what, "Look who changes it, then submit again")
