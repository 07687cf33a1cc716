"""What the operations on documents keep for their way back, and the way back itself.

Each batch of the way forward has a `Keeping`: it is asked `before` the update and `after` it,
in the batch's transaction, for what to keep. That is a list of entries; the way back takes them
from the last to the first, as many at a time as a batch should have. What an entry is, is the
subclass's: `touched.py` keeps which documents were touched, `images.py` what they were before.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.raw_bson import RawBSONDocument
from pymongo.collection import Collection

from dharma_tasks.databases.mongodb import kept
from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.databases.mongodb.faults import shown
from dharma_tasks.errors import OperationFailed
from dharma_tasks.operations.mongodb.collections import find
from dharma_tasks.work import Step, Work

__all__ = [
    "BY_HAND",
    "BY_ID",
    "CODEC",
    "RAW",
    "Documents",
    "Keeping",
    "chunks",
    "undo",
    "weight_of_id",
]

EntryT = TypeVar("EntryT")
ItemT = TypeVar("ItemT")

BY_HAND = "Undo it by hand, or with a NNN_name_rollback file"
"""What to do where nothing is kept."""

BY_ID = [("_id", 1)]
CODEC: CodecOptions[Document] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD,
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
"""The client's own: what is read goes back as it was."""

RAW: CodecOptions[RawBSONDocument] = CodecOptions(
    document_class=RawBSONDocument,
    uuid_representation=UuidRepresentation.STANDARD,
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
_SMALL = 32
_NAMED = 5
_COMMAND = 4 * 2**20
"""Bytes of values that one command should hold: the server takes 16 MB with all around them."""


@dataclass(frozen=True)
class Documents:
    """The collection, in the batch's transaction."""

    work: Work[Handle]
    name: str

    @property
    def collection(self) -> Collection[Document]:
        """The driver's object; its calls need `also`."""
        return self.work.handle.database[self.name]

    @property
    def raw(self) -> Collection[RawBSONDocument]:
        """The same, and documents come and go byte by byte."""
        return cast(
            "Collection[RawBSONDocument]",
            self.collection.with_options(codec_options=cast("CodecOptions[Document]", RAW)),
        )

    @property
    def also(self) -> Document:
        """What goes along with each call."""
        return {"session": self.work.handle.session, "comment": self.work.label}

    def find(self, ids: Sequence[Any], fields: Document) -> Iterator[Document]:
        """Those of `ids` that are there still, with some of their fields."""
        return self.collection.find({"_id": {"$in": ids}}, fields, **self.also)

    def update(self, ids: Sequence[Any], matching: Document, change: Document) -> None:
        """Change those of `ids` that match."""
        if ids:
            self.collection.update_many({"_id": {"$in": ids}, **matching}, change, **self.also)


class Keeping(ABC, Generic[EntryT]):
    """What one batch keeps."""

    end: Any = None
    """The `_id` at which the batch must end, where `early`: more would be too much to keep."""
    early: bool = False

    @abstractmethod
    def before(self, documents: Documents, matching: Document) -> bytes:
        """Look at what the update is about to change; what to keep before it does."""

    def parts(self, documents: Documents, within: Document) -> list[Document]:  # noqa: ARG002
        """What is to be updated, in one go or in several."""
        return [within]

    def after(self, documents: Documents) -> bytes:  # noqa: ARG002
        """What to keep after the update."""
        return b""

    @abstractmethod
    def entries(self, data: bytes) -> Sequence[EntryT]:
        """What `before` or `after` has kept."""

    @abstractmethod
    def weight(self, entry: EntryT) -> int:
        """About how many bytes an entry adds to a command."""

    @abstractmethod
    def undo(self, documents: Documents, entries: Sequence[EntryT]) -> list[Any]:
        """Undo so many; returns the `_id`s of the documents that were changed since, and stay."""


def undo(work: Work[Handle], name: str, keeping: Keeping[Any]) -> Step:
    """Undo one batch. A cursor is `{"token", "left", "changed", "named"}`.

    `left` are the entries of `token` that are still to be undone. Without transactions a replay
    may find `token` removed: then it goes on with what is the newest now.
    """
    at: Document = work.cursor or {"token": None, "left": 0, "changed": 0, "named": []}
    walked: Document = (work.walked and work.walked.cursor) or {}
    if work.cursor is None:
        _confirm_complete(work, walked)
    found = kept.newest(work.handle, work.key)
    if found is None:
        return _finished(work, name, at, 0)
    entries = keeping.entries(found.data)
    left = at["left"] if at["token"] == found.token else len(entries)
    chunk = next(chunks(entries[:left][::-1], keeping.weight, work.size), [])
    changed = keeping.undo(Documents(work, name), chunk) if _same(work, name) else []
    left -= len(chunk)
    if not left:
        kept.remove(work.handle, found)
    named = [*at["named"], *(shown(each) for each in changed)][:_NAMED]
    cursor = {
        "token": found.token,
        "left": left,
        "changed": at["changed"] + len(changed),
        "named": named,
    }
    if not left and not kept.is_any(work.handle, work.key):
        return _finished(work, name, cursor, len(chunk))
    return Step(cursor, len(chunk), total=walked.get("touched"))


def _confirm_complete(work: Work[Handle], walked: Document) -> None:
    if "irreversible" in work.undo:
        raise OperationFailed(f"it cannot be undone: {work.undo['irreversible']}", BY_HAND)
    kept.confirm_readable(work.handle, work.key)
    # Without transactions a replay may find what it has used up removed already.
    complete = not work.handle.transactions or (
        kept.count(work.handle, work.key) >= walked.get("kept", 0)
    )
    if not complete:
        what = f"what it kept for its way back is not in {work.handle.kept.name!r} any more"
        raise OperationFailed(what, BY_HAND)


def _same(work: Work[Handle], name: str) -> bool:
    """Whether the collection is still the one that was changed: another one is left alone."""
    found = find(work.handle, name)
    return found is not None and found.identity == work.undo["identity"]


def _finished(work: Work[Handle], name: str, at: Document, done: int) -> Step:
    if at["changed"]:
        more = ", …" if at["changed"] > len(at["named"]) else ""
        work.warn(
            f"{at['changed']} documents of {name!r} were changed since, and stay as they are: "
            f"_id {', '.join(at['named'])}{more}"
        )
    if not _same(work, name):
        work.warn(f"the collection {name!r} was dropped since: there was nothing left to undo")
    return Step(None, done, finished=True)


def chunks(
    items: Sequence[ItemT], weight: Callable[[ItemT], int], size: int
) -> Iterator[list[ItemT]]:
    """Cut into parts of at most `size` that are not too much for one command."""
    chunk: list[ItemT] = []
    heavy = 0
    for item in items:
        heavy += weight(item)
        if chunk and (len(chunk) == size or heavy > _COMMAND):
            yield chunk
            chunk, heavy = [], weight(item)
        chunk.append(item)
    if chunk:
        yield chunk


def weight_of_id(identity: Any) -> int:
    """About how many bytes an `_id` takes."""
    if isinstance(identity, str | bytes):
        return _SMALL + len(identity)
    return (
        len(bson.encode(identity, codec_options=CODEC)) if isinstance(identity, Mapping) else _SMALL
    )
