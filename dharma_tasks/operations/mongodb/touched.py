"""Keeping which documents a batch has touched: their `_id`s, as the server gave them, packed.

A range of `_id`s would be shorter, but documents that the application writes into it later would
then count as touched. Where the field's name is a path, it is also kept how much of the path
was missing: `address` or only `address.city`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import bson

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.operations.mongodb.keeping import (
    BY_ID,
    CODEC,
    Documents,
    Keeping,
    chunks,
    weight_of_id,
)

Entry = tuple[str, Any]
"""The part of the path that was missing, and an `_id`."""

MISSING = object()

_LARGEST = 1_000


class Touched(Keeping[Entry]):
    """Keeps the `_id`s of the documents to which the update gives a field."""

    def __init__(self, field: str) -> None:
        self.field = field
        self._ids: bytes = b""

    @abstractmethod
    def back(self, documents: Documents, created: str, ids: list[Any]) -> list[Any]:
        """Undo the update of `ids`, in which `created` was missing; returns those left alone."""

    def before(self, documents: Documents, matching: Document) -> bytes:
        """List them, by what is missing."""
        paths = _paths(self.field)
        for parent, path in zip([None, *paths], paths, strict=False):
            where = [matching, {path: {"$exists": False}}]
            if parent:
                where.append({parent: {"$exists": True}})
            found = documents.collection.find_raw_batches(
                {"$and": where}, {"_id": True}, hint=BY_ID, **documents.also
            )
            if ids := b"".join(cast("Iterator[bytes]", found)):
                self._ids += bson.encode({"created": path}) + ids
        return self._ids

    def parts(self, documents: Documents, within: Document) -> list[Document]:
        """Without a transaction exactly what was listed: there may be more by now."""
        if documents.work.handle.session is not None:
            return [within]
        ids = [each for _, each in self.entries(self._ids)]
        return [{"_id": {"$in": part}} for part in chunks(ids, weight_of_id, _LARGEST)]

    def entries(self, data: bytes) -> list[Entry]:
        """Each `_id`, with the part of the path that was missing."""
        entries: list[Entry] = []
        created = ""
        for each in bson.decode_all(data, CODEC):
            if "created" in each:
                created = each["created"]
            else:
                entries.append((created, each["_id"]))
        return entries

    def weight(self, entry: Entry) -> int:
        """Of its `_id`."""
        return weight_of_id(entry[1])

    def undo(self, documents: Documents, entries: Sequence[Entry]) -> list[Any]:
        """Undo them by what was missing."""
        left = []
        for created, group in groupby(entries, key=lambda entry: entry[0]):
            left += self.back(documents, created, [each for _, each in group])
        return left


def _paths(field: str) -> list[str]:
    """A path and all above it: `a`, `a.b`, `a.b.c`."""
    names = field.split(".")
    return [".".join(names[: n + 1]) for n in range(len(names))]


def nested(path: str, value: Any) -> Any:
    """The value below `path`: `{"a": {"b": value}}`. An empty path is the value itself."""
    for name in reversed(path.split(".") if path else []):
        value = {name: value}
    return value


def below(path: str, field: str) -> str:
    """The rest of `field` below `path`, which it begins with."""
    return field[len(path) + 1 :]


def at(document: Any, path: str) -> Any:
    """What is at `path`, through documents only; `MISSING` where there is nothing."""
    for name in path.split("."):
        if not isinstance(document, dict) or name not in document:
            return MISSING
        document = document[name]
    return document


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same, types and the order of fields included."""
    if one is MISSING or other is MISSING:
        return one is other
    return _bytes(one) == _bytes(other)


def _bytes(value: Any) -> bytes:
    return bson.encode({"": value}, codec_options=CODEC)
