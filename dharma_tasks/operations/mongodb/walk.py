"""The walk over a collection by `_id` that all operations on documents share.

MongoDB's query operators compare `_id` only within one BSON type. Two things compare across
all types, in the order of the index: the bounds `min` and `max` of an index scan, and the
aggregation's operators inside `$expr`. The first find a batch's last `_id`, from the index
alone; the second say which documents are in the batch, where its two ends differ in type.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from datetime import datetime
from math import isnan
from typing import Any
from uuid import UUID

from bson import ObjectId
from pydantic import Field as Default
from pymongo.cursor import Cursor
from pymongo.errors import OperationFailure

from dharma_tasks.databases.mongodb import kept
from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.base import Burden, Filling, Index
from dharma_tasks.operations.mongodb import refused
from dharma_tasks.operations.mongodb.collections import Found, existing
from dharma_tasks.operations.mongodb.disk import confirm_room
from dharma_tasks.operations.mongodb.images import Images
from dharma_tasks.operations.mongodb.keeping import BY_HAND, BY_ID, Documents, Keeping, undo
from dharma_tasks.operations.mongodb.values import CollectionName, ValueDocument
from dharma_tasks.operations.mongodb.written import writes_to
from dharma_tasks.operations.paced import Paced
from dharma_tasks.records import Direction
from dharma_tasks.work import Prepared, Range, Step, Work

_PLAIN = (ObjectId, str, UUID, datetime)
"""Between two of one of these types lie only values that the query operators compare with them."""


_FAR = 2_000_000
"""Index entries that one command passes over: some seconds, which a connection may be silent."""


class Walk(Paced[Handle]):
    """Changes documents in batches, from the smallest `_id` to the largest one at the start.

    On a replica set a batch and its checkpoint are one transaction, so each document is changed
    exactly once whatever the update is (Law 3). A cursor is `{"after": _id, "walked": n}`.
    """

    collection: CollectionName
    """Which collection."""
    filter: ValueDocument = Default(default_factory=dict)
    """Which documents; without it all."""
    keep_before_image: bool = False
    """Keep each document as it was, so that the way back is exact."""
    check_disk: bool = True
    """Whether it is refused where the disk has no room for what is kept."""

    @abstractmethod
    def change(self) -> tuple[Document, Document | list[Document]]:
        """Which documents are to be changed (besides the filter), and how."""

    def repeatable(self) -> bool:
        """Whether doing a batch twice gives the same as once: needed without transactions."""
        return True

    def elements(self) -> list[Document] | None:
        """Which elements of arrays are to be changed."""
        return None

    def touched(self) -> Keeping[Any] | None:
        """What it keeps for its way back where whole documents are not asked for."""
        return None

    @property
    def summary(self) -> str:
        """The collection's name."""
        return self.collection

    def prepare(self, work: Work[Handle]) -> Prepared:
        """Record where the walk ends. The total is the server's own estimate.

        That nothing is kept is recorded too: the file may say otherwise by the time of a rollback.

        Raises:
            OperationFailed: there is no such collection, it cannot be walked, or there is no room
                for what is to be kept.
        """
        found = existing(work.handle, self.collection)
        self._check(found, work.handle)
        if self.keep_before_image and self.check_disk:
            confirm_room(self._documents(work), self._matching({}))
        documents = work.handle.database[self.collection]
        greatest = documents.find({}, {"_id": True}).hint(BY_ID).sort("_id", -1).limit(1)
        last = [each["_id"] for each in greatest]
        keeps = self._keeping() is not None
        undo = {
            "identity": found.identity,
            "last": last,
            "keeps": keeps,
            **(
                kept.recorded(work.handle)
                if keeps
                else {"irreversible": "it has kept nothing of what it overwrote"}
            ),
        }
        total = documents.estimated_document_count()
        return Prepared(undo, total, self._ranges(work, last, total))

    def _ranges(self, work: Work[Handle], last: list[Any], total: int) -> tuple[Range, ...]:
        """Cut at documents that are there. What is fewer than estimated makes fewer ranges."""
        if self.parallel > 1 and not work.handle.transactions:
            work.warn("a standalone server has no transactions: it is done without `parallel`")
            return ()
        begins: list[list[Any]] = [[]]
        reached = 0
        for cut in self.cuts(total) if last else ():
            end: list[Any] | None = begins[-1]
            while reached < cut and end is not None:
                size = min(cut - reached, _FAR)
                end = self._end(work, end, last, size)
                reached += size
            if end is None:
                break
            begins.append(end)
        if len(begins) == 1:
            return ()
        return tuple(
            Range({"after": begin[0]} if begin else None, {"last": end})
            for begin, end in zip(begins, [*begins[1:], last], strict=True)
        )

    def joined(self, cursors: Sequence[Any]) -> Document:
        """What was kept and touched, in all of them."""
        found = [each or {} for each in cursors]
        counted = ("walked", "kept", "touched")
        sums = {name: sum(each.get(name, 0) for each in found) for name in counted}
        return sums | kept.joined(found)

    def step(self, work: Work[Handle]) -> Step:
        """Change the documents of the next batch."""
        if not work.undo["last"]:
            return Step(cursor=work.cursor, finished=True, total=0)
        before: Document = work.cursor or {}
        after = [before["after"]] if before else []
        end = self._end(work, after, work.undo["last"], work.size)
        upto = work.undo["last"][0] if end is None else end[0]
        keeping = self._keeping() if work.undo.get("keeps") else None
        counts: Document = {}
        if keeping is None:
            changed = self._update(work, between(after, upto))
        else:
            # Without a transaction this order counts: what will be touched is kept before it is.
            data = keeping.before(self._documents(work), self._matching(between(after, upto)))
            if keeping.early:
                end, upto = [keeping.end], keeping.end
            part = self._keep(work, before.get("kept", 0), data)
            pieces = keeping.parts(self._documents(work), between(after, upto))
            changed = sum(self._update(work, piece) for piece in pieces)
            part = self._keep(work, part, keeping.after(self._documents(work)))
            counts = {"kept": part, "touched": before.get("touched", 0) + changed}
            counts |= kept.noted(work.handle, work.undo, before, part)
        within = between(after, upto)
        whole = end is not None and not (keeping and keeping.early)
        done = work.size if whole else self._count(work, within)
        exact = work.handle.nearby is None
        self._report(work, within, all_changed=exact and changed == done)
        walked = done + before.get("walked", 0)
        return Step(
            {"after": upto, "walked": walked, **counts},
            done,
            finished=end is None,
            total=walked if end is None else None,
        )

    def irreversible(self) -> Problem | None:
        """What keeps nothing cannot be undone."""
        if self._keeping() is not None:
            return None
        what = f"{self.kind} cannot be undone: it keeps nothing of what it overwrites"
        todo = (
            'Write a NNN_name_rollback file for it; "keep_before_image": true helps only where it '
            "stands there before the migration is applied."
        )
        return Problem("", "", what, todo)

    def burden(self, direction: Direction) -> Burden:
        """It goes through the collection in short batches; back, through what it has touched."""
        if direction is Direction.BACK:
            return Burden(heavy=True, partly=True)
        where, _ = self.change()
        partly = bool(where or self.filter)
        return Burden(heavy=True, targets=(self.collection,), partly=partly, counted=True)

    def order(self) -> list[Index | Filling]:
        """It writes to all that matches: no index helps it, for it goes by `_id`."""
        _, update = self.change()
        return [Filling(self.collection, self.kind, lambda index: writes_to(update, index.fields))]

    def undo(self, work: Work[Handle]) -> Step:
        """Undo what was kept, from the newest to the oldest.

        Raises:
            OperationFailed: nothing was kept.
        """
        reached = work.walked is not None and work.walked.cursor is not None
        if not work.undo.get("last") or not (reached or not work.handle.transactions):
            return Step(None, finished=True)
        keeping = self._keeping()
        if keeping is None:
            raise OperationFailed(f"{self.kind} has kept nothing, and cannot be undone", BY_HAND)
        if not work.undo.get("keeps"):
            what = "it cannot be undone: the release that carried it out kept nothing for that"
            raise OperationFailed(what, BY_HAND)
        return undo(work, self.collection, keeping)

    def _keep(self, work: Work[Handle], part: int, data: bytes) -> int:
        """Keep what there is to keep; returns the number of the next part."""
        run = work.label.partition("/")[0]
        return part + (kept.keep(work.handle, work.key, run, part, data) if data else 0)

    def _documents(self, work: Work[Handle]) -> Documents:
        return Documents(work, self.collection)

    def _matching(self, within: Document) -> Document:
        """What the update changes of what is `within` the batch."""
        where, _ = self.change()
        conditions = [each for each in (within, where, self.filter) if each]
        return {"$and": conditions} if conditions else {}

    def _end(
        self, work: Work[Handle], after: list[Any], last: list[Any], size: int
    ) -> list[Any] | None:
        """The `_id` that is `size` further on than `after`; None where it is not below `last`.

        A secondary may be behind: then there are more documents up to there, or fewer. What is
        between two ends is whole anyway, for it is changed on the primary. Only where a secondary
        knows of no end, which would be all the rest, the primary is asked.

        `min` includes its bound and `max` does not. Both scan the index alone.
        """
        nearby = work.handle.nearby
        if nearby is not None:
            scan = nearby[self.collection].find({}, {"_id": True}, comment=work.label)
            if found := self._scanned(scan, after, last, size):
                return found
        scan = work.handle.database[self.collection].find(
            {}, {"_id": True}, session=work.handle.session, comment=work.label
        )
        return self._scanned(scan, after, last, size) or None

    def _scanned(
        self, scan: Cursor[Document], after: list[Any], last: list[Any], size: int
    ) -> list[Any]:
        scan = scan.hint(BY_ID).sort(BY_ID).max([("_id", last[0])]).limit(1)
        if after:
            scan = scan.min([("_id", after[0])])
        scan = scan.skip(size - 1 + len(after))
        return [each["_id"] for each in scan]

    def _update(self, work: Work[Handle], within: Document) -> int:
        """Change what is `within` the batch; returns how many documents it changed."""

        def change(conditions: Iterable[Document]) -> int:
            return self._send(work, {"$and": [within, *conditions]})

        try:
            return self._send(work, within)
        except OperationFailure as error:
            refused.name(error, self._documents(work), self._matching(within), change)
            raise

    def _send(self, work: Work[Handle], within: Document) -> int:
        _, update = self.change()
        if work.handle.session is None:
            work.confirm()
        result = work.handle.database[self.collection].update_many(
            self._matching(within),
            update,
            array_filters=self.elements(),
            hint=BY_ID,
            session=work.handle.session,
            comment=work.label,
        )
        return result.modified_count

    def _count(self, work: Work[Handle], within: Document) -> int:
        return work.handle.database[self.collection].count_documents(
            within, hint=BY_ID, session=work.handle.session, comment=work.label
        )

    def _keeping(self) -> Keeping[Any] | None:
        return Images() if self.keep_before_image else self.touched()

    def _report(self, work: Work[Handle], within: Document, *, all_changed: bool) -> None:
        """Say what a user should know of a batch that is done."""

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
        if not handle.transactions and self.keep_before_image:
            what = (
                "a standalone server has no transactions, and without them a before-image that is "
                "kept may be of a document that this operation has changed already"
            )
            todo = "Make the server a replica set (one member is enough), or take the key out"
            raise OperationFailed(what, todo)


def between(after: list[Any], upto: Any) -> Document:
    """Match documents whose `_id` is above `after` (if there is one), and not above `upto`."""
    if after and _plain(after[0], upto):
        return {"_id": {"$gt": after[0], "$lte": upto}}
    bounds = [{"$lte": ["$_id", {"$literal": upto}]}]
    bounds += [{"$gt": ["$_id", {"$literal": each}]} for each in after]
    return {"$expr": {"$and": bounds}}


def _plain(one: Any, other: Any) -> bool:
    """Whether the query operators are enough; those of `$expr` use no index before MongoDB 5.0."""
    same = type(one) is type(other) and type(one) in _PLAIN
    return same or (_is_number(one) and _is_number(other))


def _is_number(value: Any) -> bool:
    """Whatever its type; NaN is below all others, and no operator finds it there."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not isnan(value)
