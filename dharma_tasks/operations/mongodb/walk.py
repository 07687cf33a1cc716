"""The walk over a collection by `_id` that all operations on documents share.

MongoDB's query operators compare `_id` only within one BSON type. Two things compare across
all types, in the order of the index: the bounds `min` and `max` of an index scan, and the
aggregation's operators inside `$expr`. The first find a batch's last `_id`, from the index
alone; the second say which documents are in the batch, where its two ends differ in type.
"""

from __future__ import annotations

from abc import abstractmethod
from datetime import datetime
from typing import Any
from uuid import UUID

from bson import ObjectId
from pydantic import Field as Default

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.errors import OperationFailed
from dharma_tasks.journal import Prepared, Step, Work
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb.collections import Found, existing
from dharma_tasks.operations.mongodb.values import CollectionName, ValueDocument

_BY_ID = [("_id", 1)]
_PLAIN = (ObjectId, str, int, UUID, datetime)
"""Between two of one of these types lie only values that the query operators compare with them."""


class Walk(Operation[Handle]):
    """Changes documents in batches, from the smallest `_id` to the largest one at the start.

    On a replica set a batch and its checkpoint are one transaction, so each document is changed
    exactly once whatever the update is (Law 3). A cursor is `{"after": _id, "walked": n}`.
    """

    collection: CollectionName
    filter: ValueDocument = Default(default_factory=dict)

    @abstractmethod
    def change(self) -> tuple[Document, Document | list[Document]]:
        """Which documents are to be changed (besides the filter), and how."""

    def repeatable(self) -> bool:
        """Whether doing a batch twice gives the same as once: needed without transactions."""
        return True

    def elements(self) -> list[Document] | None:
        """Which elements of arrays are to be changed."""
        return None

    @property
    def summary(self) -> str:
        """The collection's name."""
        return self.collection

    def prepare(self, work: Work[Handle]) -> Prepared:
        """Record where the walk ends. The total is the server's own estimate.

        Raises:
            OperationFailed: there is no such collection, or it cannot be walked.
        """
        found = existing(work.handle, self.collection)
        self._check(found, work.handle)
        documents = work.handle.database[self.collection]
        last = documents.find({}, {"_id": True}).hint(_BY_ID).sort("_id", -1).limit(1)
        undo = {"identity": found.identity, "last": [each["_id"] for each in last]}
        return Prepared(undo=undo, total=documents.estimated_document_count())

    def step(self, work: Work[Handle]) -> Step:
        """Change the documents of the next batch."""
        if not work.undo["last"]:
            return Step(cursor=work.cursor, finished=True, total=0)
        after = [work.cursor["after"]] if work.cursor else []
        end = self._end(work, after)
        finished = end is None
        upto = work.undo["last"][0] if end is None else end[0]
        within = between(after, upto)
        self._update(work, within)
        done = self._count(work, within) if finished else work.size
        walked = done + (work.cursor["walked"] if work.cursor else 0)
        total = walked if finished else None
        return Step({"after": upto, "walked": walked}, done, finished=finished, total=total)

    def _end(self, work: Work[Handle], after: list[Any]) -> list[Any] | None:
        """The last `_id` of the next batch; None where the rest of the walk is one batch.

        `min` includes its bound and `max` does not. Both scan the index alone.
        """
        scan = work.handle.database[self.collection].find(
            {}, {"_id": True}, session=work.handle.session, comment=work.label
        )
        scan = scan.hint(_BY_ID).sort(_BY_ID).max([("_id", work.undo["last"][0])]).limit(1)
        if after:
            scan = scan.min([("_id", after[0])])
        scan = scan.skip(work.size - 1 + len(after))
        return [each["_id"] for each in scan] or None

    def _update(self, work: Work[Handle], within: Document) -> int:
        """Change what is `within` the batch; returns how many documents fitted."""
        where, update = self.change()
        if work.handle.session is None:
            work.confirm()
        result = work.handle.database[self.collection].update_many(
            {"$and": [each for each in (within, where, self.filter) if each]},
            update,
            array_filters=self.elements(),
            hint=_BY_ID,
            session=work.handle.session,
            comment=work.label,
        )
        return result.matched_count

    def _count(self, work: Work[Handle], within: Document) -> int:
        return work.handle.database[self.collection].count_documents(
            within, hint=_BY_ID, session=work.handle.session, comment=work.label
        )

    def _check(self, found: Found, handle: Handle) -> None:
        if found.type != "collection":
            what = (
                f"{self.collection!r} is a {found.type}: its documents cannot be changed one by one"
            )
            raise OperationFailed(what, "Name a collection")
        if found.options.get("capped"):
            what = f"{self.collection!r} is capped, and MongoDB changes those in no transaction"
            raise OperationFailed(what, "Convert it, or copy it to one that is not capped")
        if not handle.transactions and not self.repeatable():
            what = (
                "this update gives another result when it is repeated, and a standalone server "
                "has no transactions that would make it exactly once"
            )
            todo = "Make the server a replica set (one member is enough), or use $set and the like"
            raise OperationFailed(what, todo)


def between(after: list[Any], upto: Any) -> Document:
    """Match documents whose `_id` is above `after` (if there is one), and not above `upto`."""
    if after and type(after[0]) is type(upto) and type(upto) in _PLAIN:
        return {"_id": {"$gt": after[0], "$lte": upto}}
    bounds = [{"$lte": ["$_id", {"$literal": upto}]}]
    bounds += [{"$gt": ["$_id", {"$literal": each}]} for each in after]
    return {"$expr": {"$and": bounds}}
