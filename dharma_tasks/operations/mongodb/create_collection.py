"""`create_collection`: make a collection, or a view, with its options."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field as Default

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.databases.mongodb.faults import shown
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb.collections import Found, drop, find
from dharma_tasks.operations.mongodb.values import (
    CollectionName,
    ValueDocument,
    known_options,
    unknown_options,
)
from dharma_tasks.work import Prepared, Step, Work

_OPTIONS = (
    *("capped", "size", "max", "validator", "validationLevel", "validationAction"),
    *("collation", "indexOptionDefaults", "storageEngine", "viewOn", "pipeline"),
    *("timeseries", "clusteredIndex", "expireAfterSeconds", "changeStreamPreAndPostImages"),
    "encryptedFields",
)
"""Of the command `create`, see https://www.mongodb.com/docs/manual/reference/command/create/."""

_DEFAULTS: Document = {"validationLevel": "strict", "validationAction": "error", "capped": False}
_SERVER_COMPLETES = ("collation", "timeseries", "clusteredIndex")
_NO_TRANSACTION = ("viewOn", "timeseries")
_MADE = "made"


class CreateCollection(Operation[Handle]):
    """Makes a collection. One that is there and equal is accepted with a warning.

    A second step records its identity, which nobody sees before the first one is committed.
    """

    kind: ClassVar[str] = "create_collection"

    collection: CollectionName
    """Its name."""
    options: Annotated[ValueDocument, known_options(_OPTIONS)] = Default(default_factory=dict)
    """As of MongoDB's `create`: `validator`, `capped`, `collation`, …"""

    @property
    def summary(self) -> str:
        """The collection's name."""
        return self.collection

    def problems(self) -> list[Problem]:
        """Options that MongoDB does not know."""
        return unknown_options(self.options, _OPTIONS)

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """MongoDB makes no views and no time series inside a transaction."""
        return not any(name in self.options for name in _NO_TRANSACTION)

    def prepare(self, work: Work[Handle]) -> Prepared:
        """Record whether it was there before us.

        Raises:
            OperationFailed: it is there, and different.
        """
        return Prepared(undo={"existed": self._is_there(work)}, total=1)

    def step(self, work: Work[Handle]) -> Step:
        """Make it, unless it is there; then record which one it is."""
        if work.cursor == _MADE:
            found = find(work.handle, self.collection)
            made = {"identity": found and found.identity}
            return Step(cursor=made, finished=True, total=1)
        if self._is_there(work):
            if work.undo["existed"]:
                work.warn(f"the collection {self.collection!r} exists already, as it should be")
                return Step(cursor=None, done=1, finished=True, total=1)
        else:
            self._create(work)
        return Step(cursor=_MADE, done=1)

    def irreversible(self) -> None:
        """Dropped, where this made it."""

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """MongoDB drops no collection inside a transaction."""
        return False

    def undo(self, work: Work[Handle]) -> Step:
        """Drop it, if it is the one that was made. What was written into it since goes with it."""
        found = find(work.handle, self.collection) if self._made(work) else None
        if found is not None and self._is_ours(work, found):
            self._drop(work, found)
        return Step(cursor=None, done=1, finished=True, total=1)

    def _made(self, work: Work[Handle]) -> bool:
        """Whether this may have made it: the first step commits with its checkpoint, if it can."""
        if work.undo.get("existed", True):
            return False
        reached = work.walked is not None and work.walked.cursor is not None
        return reached or not (work.handle.transactions and self.transactional(None))

    def _is_ours(self, work: Work[Handle], found: Found) -> bool:
        """By its identity; one without any, a view, by its options."""
        made = work.walked.cursor if work.walked else None
        identity = made["identity"] if isinstance(made, dict) else None
        if identity is not None and found.identity != identity:
            how = "dropped and made again"
        elif identity is None and not same(self.options, found.options):
            how = "changed"
        else:
            return True
        work.warn(f"{self.collection!r} was {how} since this migration made it, so it stays")
        return False

    def _drop(self, work: Work[Handle], found: Found) -> None:
        lost = 0
        if "viewOn" not in self.options:
            counting = {"aggregate": self.collection, "pipeline": [{"$count": "n"}], "cursor": {}}
            counted = work.handle.patient(counting)["cursor"]["firstBatch"]
            lost = counted[0]["n"] if counted else 0
        if lost:
            work.warn(
                f"{lost} documents that were written into {self.collection!r} since it was made "
                "are lost with it"
            )
        drop(work, self.collection, found.identity)

    def _create(self, work: Work[Handle]) -> None:
        if work.handle.session is None:
            work.confirm()
        work.handle.command({"create": self.collection, **self.options, "comment": work.label})

    def _is_there(self, work: Work[Handle]) -> bool:
        found = find(work.handle, self.collection)
        if found is None:
            return False
        if not same(self.options, found.options):
            what = (
                f"the collection {self.collection!r} exists with other options: "
                f"{shown(found.options)}, wanted: {shown(self.options)}"
            )
            todo = "Change what the migration asks for, or the collection, then submit again"
            raise OperationFailed(what, todo)
        return True


def same(wanted: Document, found: Document) -> bool:
    """Whether a listed collection has the options that were asked for.

    The server lists some completed with its defaults, and sizes rounded up to 256 bytes.
    """
    one, other = _DEFAULTS | wanted, _DEFAULTS | found
    return one.keys() == other.keys() and all(_fits(k, one[k], other[k]) for k in one)


def _fits(name: str, wanted: Any, found: Any) -> bool:
    if name in _SERVER_COMPLETES and isinstance(wanted, dict) and isinstance(found, dict):
        return all(key in found and found[key] == value for key, value in wanted.items())
    if name == "size":
        return bool(-(-wanted // 256) * 256 == found)
    return bool(wanted == found)
