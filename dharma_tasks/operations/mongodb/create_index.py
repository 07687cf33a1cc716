"""`create_index`: build an index, or accept an equal one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field as Default
from pymongo.errors import OperationFailure

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.base import Burden, Filling, Index, Operation
from dharma_tasks.operations.mongodb import indexes
from dharma_tasks.operations.mongodb.collections import (
    Found,
    aimed,
    drop,
    find,
    hint,
    unchanged,
)
from dharma_tasks.operations.mongodb.values import (
    CollectionName,
    IndexKeys,
    ValueDocument,
    known_options,
    unknown_options,
)
from dharma_tasks.records import Direction
from dharma_tasks.work import Prepared, Step, Work

_OPTIONS = (
    *("name", "unique", "sparse", "hidden", "partialFilterExpression", "expireAfterSeconds"),
    *("collation", "wildcardProjection", "weights", "default_language", "language_override"),
    *("textIndexVersion", "2dsphereIndexVersion", "bits", "min", "max", "storageEngine"),
    "columnstoreProjection",
)
"""See https://www.mongodb.com/docs/manual/reference/command/createIndexes/."""

_OTHER_OPTIONS = 85
_OTHER_KEYS = 86
_BUILD = "build"
_MADE = "made"


class CreateIndex(Operation[Handle]):
    """Builds one index.

    A collection that does not exist yet is made with it, in one transaction with the journal.
    MongoDB builds no index on an existing one inside a transaction: there a first step, which
    changes nothing, sends the command into a second one. The build goes on in the server when
    its worker dies; the command of a successor joins it. A collection that was made with it gets
    its identity recorded by a further step, because nobody sees it before that is committed.
    """

    kind: ClassVar[str] = "create_index"

    collection: CollectionName
    """Which collection; one that is not there is made."""
    index: IndexKeys
    """Its keys, in their order: `[["field", 1], ["other", -1]]`."""
    options: Annotated[ValueDocument, known_options(_OPTIONS)] = Default(default_factory=dict)
    """As of MongoDB's `createIndexes`: `name`, `unique`, `sparse`, …"""

    @property
    def summary(self) -> str:
        """The collection and the keys."""
        return f"{self.collection}({indexes.text(self.index)})"

    @property
    def name(self) -> str:
        """The index's name."""
        return str(self.options.get("name") or indexes.default_name(self.index))

    def order(self) -> list[Index | Filling]:
        """The index, over its keys and what decides which documents are in it."""
        partly = self.options.get("partialFilterExpression", {})
        fields = (*(name for name, _ in self.index), *partly)
        return [Index(self.collection, f"{self.collection}.{self.name}", fields)]

    def problems(self) -> list[Problem]:
        """Options that MongoDB does not know."""
        return unknown_options(self.options, _OPTIONS)

    def transactional(self, cursor: Any) -> bool:
        """All but the build on a collection that exists."""
        return bool(cursor != _BUILD)

    def prepare(self, work: Work[Handle]) -> Prepared:
        """Record the collection's identity, and whether such an index was there before us."""
        found = find(work.handle, self.collection)
        undo = {
            "identity": found and found.identity,
            "existed": bool(self._rivals(work.handle)),
        }
        return Prepared(undo=undo, total=1)

    def step(self, work: Work[Handle]) -> Step:
        """Make index and collection together, or build the index on the collection."""
        if work.cursor == _MADE:
            made = find(work.handle, self.collection)
            return Step(cursor={"identity": made and made.identity}, finished=True, total=1)
        if work.cursor is None and work.handle.session is not None:
            if find(work.handle, self.collection) is not None:
                return Step(cursor=_BUILD)
            self._warn_of_new_collection(work)
            self._create(work, {})
            return Step(cursor=_MADE, done=1)
        self._build(work)
        return Step(cursor=work.cursor, done=1, finished=True, total=1)

    def halt(self, work: Work[Handle]) -> None:
        """Drop what is being built, which ends the build; whoever goes on begins it anew."""
        collection = find(work.handle, self.collection)
        if collection is None or work.undo["existed"] or work.cursor == _MADE:
            return
        if work.undo["identity"] in (None, collection.identity):
            self._drop(work, collection, together=False)

    def irreversible(self) -> None:
        """Dropped, where this built it."""

    def burden(self, direction: Direction) -> Burden:
        """It reads the whole collection. Others wait at the begin and the end only, since 4.2.

        See https://www.mongodb.com/docs/manual/core/index-creation/.
        """
        if direction is Direction.BACK:
            return Burden()
        return Burden(heavy=True, targets=(self.collection,))

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """MongoDB drops no index and no collection inside a transaction."""
        return False

    def undo(self, work: Work[Handle]) -> Step:
        """Drop what was built: the index, and a collection that was made with it and is empty."""
        collection = find(work.handle, self.collection) if self._built(work) else None
        if collection is not None:
            made = work.walked.cursor if work.walked else None
            known = made if isinstance(made, dict) else work.undo
            if known["identity"] in (None, collection.identity):
                self._drop(work, collection, together=known is made)
        return Step(cursor=None, done=1, finished=True, total=1)

    def _built(self, work: Work[Handle]) -> bool:
        """Whether this may have built it: together with a collection it commits at once."""
        if work.undo.get("existed", True):
            return False
        reached = work.walked is not None and work.walked.cursor is not None
        return reached or not work.handle.transactions

    def _drop(self, work: Work[Handle], collection: Found, *, together: bool) -> None:
        if together and not work.handle.database[self.collection].find_one({}, {"_id": True}):
            drop(work, self.collection, collection.identity)
            return
        wanted = {"key": dict(self.index), **self.options, "name": self.name}
        found = [i for i in indexes.listed(work.handle, self.collection) if i["name"] == self.name]
        if found and indexes.fits(wanted, found[0]):
            indexes.drop(work, self.collection, self.name, collection.identity)
        elif found:
            work.warn(
                f"the index {self.name!r} has another definition than this migration gave it, "
                f"so it stays: {indexes.show(found)}, given: {indexes.show([wanted])}"
            )

    def _warn_of_new_collection(self, work: Work[Handle]) -> None:
        near = hint(work.handle, self.collection)
        work.warn(f"the collection {self.collection!r} is made together with its index. {near}")

    def _build(self, work: Work[Handle]) -> None:
        identity = work.undo.get("identity")
        if identity is not None:
            unchanged(work.handle, self.collection, identity)
        work.confirm()
        answer = self._create(work, aimed(work.handle, identity))
        if "note" in answer and work.undo.get("existed"):
            work.warn(f"the index {self.name!r} exists already, as it should be")
        if not any(self.name == each["name"] for each in self._rivals(work.handle)):
            what = f"the index {self.name!r} was built, and then it was gone"
            raise OperationFailed(what, "Look who dropped it or the collection, then submit again")

    def _create(self, work: Work[Handle], aim: Document) -> Document:
        wanted = {"key": dict(self.index), **self.options, "name": self.name}
        command = {"createIndexes": self.collection, "indexes": [wanted], **aim}
        command["comment"] = work.label
        # Outside of a transaction it may take hours.
        run = work.handle.patient if work.handle.session is None else work.handle.command
        try:
            return run(command)
        except OperationFailure as error:
            if error.code in (_OTHER_OPTIONS, _OTHER_KEYS):
                raise self._different(work.handle, wanted, error) from error
            raise

    def _rivals(self, handle: Handle) -> list[Document]:
        """Indexes of the same name or with the same keys."""
        return [
            index
            for index in indexes.listed(handle, self.collection)
            if index["name"] == self.name or indexes.same_keys(indexes.keys(index), self.index)
        ]

    def _different(
        self, handle: Handle, wanted: Document, error: OperationFailure
    ) -> OperationFailed:
        message = (error.details or {}).get("errmsg", str(error))
        what = (
            f"an index like it exists on {self.collection!r}, but different: "
            f"{indexes.show(self._rivals(handle))}, wanted: {indexes.show([wanted])}. "
            f"MongoDB says: {message} (code {error.code})"
        )
        todo = "Give the new one another name, drop the old one first, or ask for an equal one"
        return OperationFailed(what, todo)
