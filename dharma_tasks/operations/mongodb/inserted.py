"""Keeping which documents a batch has inserted, each with a digest of what was inserted.

Only what is still so, byte by byte, is deleted on the way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bson
from bson import Binary
from bson.raw_bson import RawBSONDocument
from pymongo import DeleteOne

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.databases.mongodb.faults import shown
from dharma_tasks.errors import OperationFailed
from dharma_tasks.operations.mongodb.images import current, digest
from dharma_tasks.operations.mongodb.keeping import CODEC, Documents, Keeping, weight_of_id

_RAW = CODEC.with_options(document_class=RawBSONDocument)
_SHOWN = 3
_CHARACTERS = 1_000


def encoded(document: Document) -> RawBSONDocument:
    """A document as MongoDB stores it: the driver too puts the `_id` first."""
    return RawBSONDocument(bson.encode(document, codec_options=CODEC), _RAW)


def missing(documents: Documents, wanted: Sequence[RawBSONDocument]) -> list[RawBSONDocument]:
    """Those of `wanted` that are not there.

    Raises:
        OperationFailed: one is there, and different.
    """
    there = {each.raw for each in current(documents, [each["_id"] for each in wanted])}
    absent = [each for each in wanted if each.raw not in there]
    if len(wanted) - len(absent) < len(there):
        raise _different(documents, absent)
    return absent


def _different(documents: Documents, wanted: Sequence[RawBSONDocument]) -> OperationFailed:
    """By one question for each: MongoDB may take two `_id`s for one, such as 1 and 1.0."""
    found = []
    for each in wanted:
        there = documents.raw.find_one({"_id": each["_id"]}, **documents.also)
        if there is not None:
            found.append(_both(documents, there, each))
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    what = (
        f"{documents.name!r} has another document with the same _id: "
        f"{'; '.join(found[:_SHOWN])}{more}"
    )
    todo = "Change what the migration asks for, or the document, then submit again"
    return OperationFailed(what, todo)


def _both(documents: Documents, there: RawBSONDocument, wanted: RawBSONDocument) -> str:
    """What is there and what is wanted; nothing of either where a secret is wanted."""
    if documents.work.scrub(shown(wanted)) != shown(wanted):
        return f"_id {shown(wanted['_id'])}, for which a secret is wanted"
    return f"{_text(there)}, wanted: {_text(wanted)}"


def _text(document: RawBSONDocument) -> str:
    text = shown(document)
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS]} …"


class Inserted(Keeping[Document]):
    """Keeps the `_id`s and digests of those of `wanted` that were `absent` before the batch."""

    def __init__(self, wanted: Sequence[RawBSONDocument] = ()) -> None:
        self._wanted = wanted
        self.absent: list[RawBSONDocument] = []

    def before(self, documents: Documents, matching: Document) -> bytes:  # noqa: ARG002
        """Look which are absent; they are about to be inserted."""
        self.absent = missing(documents, self._wanted)
        entries = ({"_id": each["_id"], "digest": Binary(digest(each))} for each in self.absent)
        return b"".join(bson.encode(each, codec_options=CODEC) for each in entries)

    def entries(self, data: bytes) -> list[Document]:
        """One a document."""
        return bson.decode_all(data, CODEC)

    def weight(self, entry: Document) -> int:
        """Of its `_id`."""
        return weight_of_id(entry["_id"])

    def undo(self, documents: Documents, entries: Sequence[Document]) -> list[Any]:
        """Delete what is still as it was inserted. What was deleted since stays so."""
        ours = {each["digest"] for each in entries}
        gone, left = [], []
        for now in current(documents, [each["_id"] for each in entries]):
            if digest(now) in ours:
                # Without a transaction it may change in between: then it is not deleted.
                same = {"$expr": {"$eq": ["$$ROOT", {"$literal": now}]}}
                gone.append(DeleteOne({"_id": now["_id"], **same}))
            else:
                left.append(now["_id"])
        if gone:
            documents.raw.bulk_write(gone, **documents.also)
        return left
