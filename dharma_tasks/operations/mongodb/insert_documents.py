"""`insert_documents`: documents that the migration brings along, each with its `_id`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import bson
from bson import Regex, Timestamp

from dharma_tasks.databases.mongodb import kept
from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.base import HIDES_NOTHING, Operation
from dharma_tasks.operations.mongodb.collections import Found, existing, unchanged
from dharma_tasks.operations.mongodb.inserted import Inserted, encoded, missing
from dharma_tasks.operations.mongodb.keeping import CODEC, Documents, chunks, undo
from dharma_tasks.operations.mongodb.values import CollectionName, ValueList
from dharma_tasks.strict_json import Path, text_of
from dharma_tasks.work import Prepared, Step, Work

_LOOK = 1_000
_EMPTY = Timestamp(0, 0)


class InsertDocuments(Operation[Handle]):
    """Inserts those documents that are not there yet.

    One that is there and equal is accepted. One that is different is refused before anything is
    inserted. A cursor is `{"next": n, "kept": parts, "touched": n}`: the batch's documents, what
    is kept of them for the way back, and the checkpoint are one transaction on a replica set.
    """

    kind: ClassVar[str] = "insert_documents"

    collection: CollectionName
    """Which collection; it must be there."""
    documents: ValueList
    """The documents, each with its `_id`."""

    @property
    def summary(self) -> str:
        """The collection's name."""
        return self.collection

    def problems(self) -> list[Problem]:
        """Documents that could not be found again, or would not be stored as they are."""
        if not self.documents:
            what = "there is nothing to insert"
            return [Problem("", "documents", what, "Give at least one document.")]
        first: dict[Any, int] = {}
        found: list[Problem] = []
        for index, document in enumerate(self.documents):
            found += _problems(index, document)
            if "_id" not in document:
                continue
            before = first.setdefault(_name(document["_id"]), index)
            if before != index:
                what = f"documents[{before}] has the same _id"
                found.append(_problem(index, "_id", what, "Give each document one of its own."))
        return found

    @classmethod
    def hides(cls, place: Path) -> str | None:
        """What is in documents, but for that by which they are found again."""
        within = place[0] == "documents" and place[2:3] not in {(), ("_id",)}
        return None if within else HIDES_NOTHING

    def prepare(self, work: Work[Handle]) -> Prepared:
        """Record the collection's identity, and look at every document that is there already.

        Raises:
            OperationFailed: there is no such collection, it cannot be done there, or a
                document is there and different.
        """
        found = existing(work.handle, self.collection)
        _check(found)
        wanted = [encoded(each) for each in self.documents]
        documents = Documents(work, self.collection)
        absent = sum(len(missing(documents, part)) for part in chunks(wanted, _weight, _LOOK))
        if absent < len(wanted):
            there = f"{len(wanted) - absent} of {len(wanted)} documents"
            work.warn(f"{there} are in {self.collection!r} already, as they should be")
        undo = {"identity": found.identity, **kept.recorded(work.handle)}
        return Prepared(undo, total=len(wanted))

    def step(self, work: Work[Handle]) -> Step:
        """Insert those of the next batch that are not there."""
        unchanged(work.handle, self.collection, work.undo["identity"])
        before: Document = work.cursor or {"next": 0, "kept": 0, "touched": 0}
        start, part = before["next"], before["kept"]
        rest = [encoded(each) for each in self.documents[start : start + work.size]]
        batch = next(chunks(rest, _weight, work.size))
        documents = Documents(work, self.collection)
        keeping = Inserted(batch)
        # Without a transaction this order counts: what will be inserted is kept before it is.
        if data := keeping.before(documents, {}):
            run = work.label.partition("/")[0]
            part += kept.keep(work.handle, work.key, run, part, data)
            if work.handle.session is None:
                work.confirm()
            documents.raw.insert_many(keeping.absent, **documents.also)
        after = start + len(batch)
        touched = before["touched"] + len(keeping.absent)
        cursor = {"next": after, "kept": part, "touched": touched}
        cursor |= kept.noted(work.handle, work.undo, before, part)
        return Step(cursor, len(batch), finished=after == len(self.documents))

    def irreversible(self) -> None:
        """Deleted, where they are still as they were inserted."""

    def undo(self, work: Work[Handle]) -> Step:
        """Delete what was inserted, from the newest to the oldest, where nobody has changed it."""
        reached = work.walked is not None and work.walked.cursor is not None
        if work.handle.transactions and not reached:
            return Step(None, finished=True)
        return undo(work, self.collection, Inserted())


def _check(found: Found) -> None:
    if found.type != "collection":
        what = f"{found.name!r} is a {found.type}: nothing is found again by its _id there"
        raise OperationFailed(what, "Name a collection")
    if found.options.get("capped"):
        what = f"{found.name!r} is capped: what is inserted pushes out what is there"
        raise OperationFailed(what, "Convert it, or name one that is not capped")


def _weight(document: bson.raw_bson.RawBSONDocument) -> int:
    return len(document.raw)


def _problems(index: int, document: Document) -> Iterator[Problem]:
    if "_id" not in document:
        todo = "Give each document one: what is done again must find it."
        yield _problem(index, "_id", "'_id' is missing", todo)
    elif isinstance(document["_id"], list | Regex):
        what = "MongoDB takes neither an array nor a regular expression as an _id"
        yield _problem(index, "_id", what, "Give another one.")
    for name, value in document.items():
        if value == _EMPTY and name != "_id":
            what = "MongoDB puts the present time in place of an empty timestamp"
            yield _problem(index, name, what, "Give another time, or a date.")


def _problem(index: int, name: str, what: str, todo: str) -> Problem:
    return Problem("", text_of(("documents", index, name)), what, todo)


def _name(identity: Any) -> Any:
    """By which two equal `_id`s are seen; what escapes it, the server still refuses."""
    if isinstance(identity, int | float) and not isinstance(identity, bool):
        return identity
    return bson.encode({"_id": identity}, codec_options=CODEC)
