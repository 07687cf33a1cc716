"""Whether MongoDB's disk has room for the before-images of an update.

They are kept compressed (`kept.py`), and are no more than the whole collection. Where that would be
much, some of its documents are looked at: how many match, and how small they become.
"""

from __future__ import annotations

from dataclasses import dataclass

from pymongo.errors import OperationFailure

from dharma_tasks.databases.mongodb import kept
from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.databases.mongodb.faults import describe
from dharma_tasks.operations.disk_space import Room, compare, unseen
from dharma_tasks.operations.mongodb.images import digest
from dharma_tasks.operations.mongodb.keeping import Documents

_SAMPLE = 1000
_SAMPLE_BYTES = 64 * 2**20
_FEWEST = 30
"""From fewer documents nothing is concluded."""

_HIDDEN = (13, 59, 115, 8000)
"""Not allowed, or not there: a service that is run by others may keep its disks to itself."""


@dataclass(frozen=True)
class _Size:
    """How many documents there are, and their bytes, not compressed."""

    count: int
    bytes: int


def confirm_room(documents: Documents, matching: Document) -> None:
    """Compare what the images of the `matching` documents will need with what is free.

    Raises:
        OperationFailed: there is not enough room.
    """
    try:
        free, whole = _free(documents), _size(documents)
    except OperationFailure as error:
        if error.code not in _HIDDEN:
            raise
        documents.work.warn(unseen(describe(error)))
        return
    if free is None:
        documents.work.warn(unseen("the server does not tell it"))
        return
    room, need, certain = Room.of(free), whole.bytes, False
    if need > room.easily and (number := _number(whole)) >= _FEWEST:
        need, certain = _sampled(documents, matching, number) * whole.count // number, True
    what = f"keeping what the documents of {documents.name!r} were before, compressed,"
    compare(room, need, what, documents.work.warn, certain=certain)


def _free(documents: Documents) -> int | None:
    """Where the database's files are, on the primary."""
    found = documents.work.handle.command({"dbStats": 1, "comment": documents.work.label})
    if "fsTotalSize" not in found:
        return None
    return int(found["fsTotalSize"] - found["fsUsedSize"])


def _size(documents: Documents) -> _Size:
    stages: list[Document] = [{"$collStats": {"storageStats": {}}}]
    shards = [
        each["storageStats"] for each in documents.collection.aggregate(stages, **documents.also)
    ]
    return _Size(sum(each["count"] for each in shards), sum(each["size"] for each in shards))


def _number(whole: _Size) -> int:
    """How many documents to look at: no more bytes than a worker can take."""
    return int(min(_SAMPLE, whole.count, _SAMPLE_BYTES * whole.count // max(1, whole.bytes)))


def _sampled(documents: Documents, matching: Document, number: int) -> int:
    """Bytes that those of `number` documents that match take when they are kept."""
    stages: list[Document] = [{"$sample": {"size": number}}, {"$project": {"_id": True}}]
    chosen = [each["_id"] for each in documents.collection.aggregate(stages, **documents.also)]
    among = [{"_id": {"$in": chosen}}, *([matching] if matching else [])]
    found = documents.raw.find({"$and": among}, **documents.also)
    return len(kept.pack(b"".join(digest(each) + each.raw for each in found)))
