"""Indexes as the server lists them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from pymongo.errors import OperationFailure

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.databases.mongodb.faults import shown
from dharma_tasks.errors import OperationFailed
from dharma_tasks.operations.mongodb.collections import (
    NAMESPACE_NOT_FOUND,
    aimed,
    suppress_missing,
)
from dharma_tasks.work import Work

_ON_VIEW = 166
_SERVER_COMPLETES = ("collation", "weights")
_PLAIN = (
    *("unique", "sparse", "hidden", "partialFilterExpression", "expireAfterSeconds"),
    *("wildcardProjection", "columnstoreProjection", "storageEngine"),
)
"""Options that the server never adds by itself."""


def listed(handle: Handle, collection: str) -> list[Document]:
    """The full definitions of a collection's indexes; none where it does not exist.

    Raises:
        OperationFailed: it is a view.
    """
    try:
        return [dict(index) for index in handle.database[collection].list_indexes()]
    except OperationFailure as error:
        if error.code == NAMESPACE_NOT_FOUND:
            return []
        if error.code == _ON_VIEW:
            what = f"{collection!r} is a view, and has no indexes of its own"
            raise OperationFailed(what, "Name the collection that it shows") from error
        raise


def keys(index: Document) -> list[tuple[str, Any]]:
    """The keys of a listed index as a migration writes them: a text index lists its own way."""
    found: list[tuple[str, Any]] = []
    for name, how in index["key"].items():
        if name == "_fts":
            found += [(field, "text") for field in index["weights"]]
        elif name != "_ftsx":
            found.append((name, how))
    return found


def same_keys(one: Iterable[tuple[str, Any]], other: Iterable[tuple[str, Any]]) -> bool:
    """Whether two indexes have the same keys; the order of text keys means nothing."""
    return _parts(one) == _parts(other)


def _parts(pairs: Iterable[tuple[str, Any]]) -> tuple[list[tuple[str, Any]], set[str]]:
    pairs = list(pairs)
    return [p for p in pairs if p[1] != "text"], {name for name, how in pairs if how == "text"}


def text(pairs: Iterable[tuple[str, Any]]) -> str:
    """Keys in a few words: `email, age desc`."""
    words = {1: "", -1: " desc"}
    return ", ".join(f"{name}{words.get(how, f' {how}')}" for name, how in pairs)


def default_name(pairs: Iterable[tuple[str, Any]]) -> str:
    """The name that MongoDB's own shells and drivers give."""
    return "_".join(f"{name}_{int(how) if isinstance(how, float) else how}" for name, how in pairs)


def show(indexes: Iterable[Document]) -> str:
    """Definitions as people read them."""
    return "; ".join(shown({k: v for k, v in index.items() if k != "v"}) for index in indexes)


def fits(wanted: Document, found: Document) -> bool:
    """Whether a listed index is one that was built from `wanted`: the server adds defaults."""
    if not same_keys(keys(found), wanted["key"].items()):
        return False
    options = [name for name in wanted if name != "key"]
    return all(_fits(name, wanted[name], found.get(name)) for name in options) and not any(
        found.get(name) for name in _PLAIN if name not in wanted
    )


def _fits(name: str, wanted: Any, found: Any) -> bool:
    if name in _SERVER_COMPLETES and isinstance(wanted, dict) and isinstance(found, dict):
        return all(found.get(key) == value for key, value in wanted.items())
    return bool(wanted == found) or (not wanted and not found)


def drop(work: Work[Handle], collection: str, name: str, identity: UUID | None) -> None:
    """Drop an index of the collection with this identity; no transaction takes that."""
    work.confirm()
    command = {"dropIndexes": collection, "index": name, "comment": work.label}
    with suppress_missing():
        work.handle.command(command | aimed(work.handle, identity))
