"""Keeping what documents were before a batch changed them, to be put back byte by byte.

Beside each is a digest of the document as the update left it: only where it is still that one
is the former put back. Without transactions this can't be right: a batch that is done again
finds documents that it has changed already, and can't tell its own change from another's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument
from pymongo import UpdateOne

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.operations.mongodb.keeping import (
    BY_ID,
    CODEC,
    RAW,
    Documents,
    Keeping,
    chunks,
    weight_of_id,
)

_MUCH = 12 * 2**20
"""Bytes of documents after which a batch ends. One that is larger is a batch of its own."""

_DIGEST = 16
_LENGTH = 4
_ALL = 10**9


@dataclass(frozen=True)
class Image:
    """A document before the update, and the digest of what it was after it."""

    before: bytes
    digest: bytes

    @property
    def identity(self) -> Any:
        """Its `_id`, as the driver sends it."""
        return _identity(RawBSONDocument(self.before, RAW))


class Images(Keeping[Image]):
    """Keeps whole documents."""

    def __init__(self) -> None:
        self._before: dict[bytes, RawBSONDocument] = {}

    def before(self, documents: Documents, matching: Document) -> bytes:
        """Read them, and end the batch where they become too many."""
        size = 0
        found = documents.raw.find(matching, hint=BY_ID, sort=BY_ID, **documents.also)
        for document in found:
            size += len(document.raw)
            if self._before and size > _MUCH:
                self.early = True
                break
            self.end = _identity(document)
            self._before[_name(self.end)] = document
        return b""

    def after(self, documents: Documents) -> bytes:
        """What was changed, each with the digest of what it is now."""
        ids = [_identity(each) for each in self._before.values()]
        kept: list[bytes] = []
        for now in current(documents, ids):
            before = self._before[_name(_identity(now))].raw
            if before != now.raw:
                kept += digest(now), bytes(before)
        return b"".join(kept)

    def entries(self, data: bytes) -> list[Image]:
        """Cut them apart: each document begins with its length."""
        images = []
        start = 0
        while start < len(data):
            document = start + _DIGEST
            end = document + int.from_bytes(data[document : document + _LENGTH], "little")
            images.append(Image(data[document:end], data[start:document]))
            start = end
        return images

    def weight(self, entry: Image) -> int:
        """Of the document that is put back."""
        return len(entry.before)

    def undo(self, documents: Documents, entries: Sequence[Image]) -> list[Any]:
        """Put back what is still as the update left it. What was deleted since stays so."""
        former = {_name(each.identity): each for each in entries}
        back, left = [], []
        for now in current(documents, [each.identity for each in entries]):
            identity = _identity(now)
            image = former[_name(identity)]
            if digest(now) == image.digest:
                # Not as a replacement: that would fill in an empty timestamp.
                whole = {"$replaceWith": {"$literal": RawBSONDocument(image.before)}}
                back.append(UpdateOne({"_id": identity}, [whole]))
            elif now.raw != image.before:
                left.append(identity)
        if back:
            documents.raw.bulk_write(back, **documents.also)
        return left


def current(documents: Documents, ids: list[Any]) -> list[RawBSONDocument]:
    """Those of `ids` that are there, byte by byte."""
    found: list[RawBSONDocument] = []
    for part in chunks(ids, weight_of_id, _ALL):
        found += documents.raw.find({"_id": {"$in": part}}, **documents.also)
    return found


def _identity(document: RawBSONDocument) -> Any:
    """Its `_id`, decoded by the client's own codec."""
    return document["_id"]


def _name(identity: Any) -> bytes:
    """An `_id` by which documents are found again here."""
    return bson.encode({"_id": identity}, codec_options=CODEC)


def digest(document: RawBSONDocument) -> bytes:
    """By which a whole document is known again."""
    return hashlib.blake2b(document.raw, digest_size=_DIGEST).digest()
