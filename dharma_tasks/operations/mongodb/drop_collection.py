"""`drop_collection`: a collection (or view) and its documents, for good."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.databases.mongodb.records import COLLECTIONS
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb import indexes
from dharma_tasks.operations.mongodb.collections import Found, drop, find, hint
from dharma_tasks.operations.mongodb.values import CollectionName, dumps
from dharma_tasks.work import Prepared, Step, Work


class DropCollection(Operation[Handle]):
    """Drops one collection, and keeps its options and indexes for people to look up.

    Only the very collection that was there when the operation began is dropped: one of the same
    name that was made since stays (FAULTS 11). A view has no identity, only its definition.
    """

    kind: ClassVar[str] = "drop_collection"

    collection: CollectionName
    """Which collection."""
    if_exists: bool = False
    """Whether it is fine that it is not there."""

    @property
    def summary(self) -> str:
        """The collection's name."""
        return self.collection

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """MongoDB drops no collection inside a transaction."""
        return False

    def prepare(self, work: Work[Handle]) -> Prepared:
        """Record which collection this is, and how it was made.

        Raises:
            OperationFailed: it is not there, and `if_exists` is not set; or it is the journal's.
        """
        self._refuse_the_journal(work.handle)
        found = find(work.handle, self.collection)
        if found is None:
            return self._missing(work.handle)
        definition: Document = {"type": found.type, "options": found.options}
        if found.type != "view":
            definition["indexes"] = indexes.listed(work.handle, self.collection)
        undo = {"identity": _identity(work.handle, found), "definition": dumps(definition)}
        return Prepared(undo=undo, total=1)

    def step(self, work: Work[Handle]) -> Step:
        """Drop the recorded collection, if it is still there."""
        if work.undo["definition"] is None:
            work.warn(f"there is no collection {self.collection!r} to drop")
        elif found := self._still_there(work):
            drop(work, self.collection, found.identity)
            if self._still_there(work):
                what = f"{self.collection!r} was dropped, and then it was there again"
                raise OperationFailed(what, "Look who makes it, then submit again")
        return Step(cursor=None, done=1, finished=True, total=1)

    def irreversible(self) -> Problem:
        """The documents are gone."""
        what = f"drop_collection cannot be undone: the documents of {self.collection!r} are gone"
        todo = (
            "Dump it before, and write a NNN_name_rollback file that makes the collection again; "
            "or drop it in a later version, when nobody will go back."
        )
        return Problem("", "collection", what, todo)

    def _missing(self, handle: Handle) -> Prepared:
        if self.if_exists:
            return Prepared(undo={"identity": None, "definition": None}, total=1)
        what = f"there is no collection {self.collection!r} in {handle.database.name!r}"
        near = hint(handle, self.collection)
        end = "" if near.endswith("?") else "."
        raise OperationFailed(what, f'{near}{end} Where it may be missing, write "if_exists": true')

    def _refuse_the_journal(self, handle: Handle) -> None:
        namespace = handle.kept.name.removesuffix("undo")
        if self.collection in [f"{namespace}{part}" for part in COLLECTIONS]:
            what = f"{self.collection!r} belongs to the journal: without it nobody could go on"
            raise OperationFailed(what, "Name a collection of your own")

    def _still_there(self, work: Work[Handle]) -> Found | None:
        """The recorded collection; None where it is gone, whatever has its name now."""
        found = find(work.handle, self.collection)
        if found is None:
            return None
        identity = _identity(work.handle, found)
        same = identity == work.undo["identity"]
        if identity is None:
            shown = {"type": found.type, "options": found.options}
            same = same and dumps(shown) == work.undo["definition"]
        if not same:
            work.warn(
                f"{self.collection!r} is not the one that was there when this operation began: it "
                "was dropped and made again, or changed; so it stays"
            )
        return found if same else None


def _identity(handle: Handle, found: Found) -> UUID | None:
    """Of a time series, whose listing has none, that of the collection with its buckets."""
    if found.identity is not None or found.type != "timeseries":
        return found.identity
    buckets = find(handle, f"system.buckets.{found.name}")
    return buckets.identity if buckets else None
