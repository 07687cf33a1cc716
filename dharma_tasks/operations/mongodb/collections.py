"""What is there: collections, their identity, and the nearest name where one is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from bson import Binary
from pymongo.errors import OperationFailure

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.errors import OperationFailed
from dharma_tasks.explain import nearest
from dharma_tasks.work import Work

NAMESPACE_NOT_FOUND = 26
INDEX_NOT_FOUND = 27
UUID_MISMATCH = 361
"""Another collection has the name, or none."""

_GONE = (NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND, UUID_MISMATCH)


@dataclass(frozen=True)
class Found:
    """A collection (or view) as the server lists it. A view has no `identity`."""

    name: str
    type: str
    options: Document
    identity: UUID | None


def find(handle: Handle, name: str) -> Found | None:
    """Look a collection up; outside of any transaction, where this is not allowed."""
    for listed in handle.database.list_collections(filter={"name": name}):
        identity = listed.get("info", {}).get("uuid")
        if isinstance(identity, Binary):  # the driver lists without our codec
            identity = identity.as_uuid()
        return Found(listed["name"], listed["type"], dict(listed["options"]), identity)
    return None


def existing(handle: Handle, name: str) -> Found:
    """Look a collection up that must be there.

    Raises:
        OperationFailed: it is not; says what is.
    """
    found = find(handle, name)
    if found is None:
        what = f"there is no collection {name!r} in the database {handle.database.name!r}"
        raise OperationFailed(what, hint(handle, name))
    return found


def hint(handle: Handle, name: str) -> str:
    """A sentence with the nearest name, or with all that there are."""
    names = sorted(
        n for n in handle.database.list_collection_names() if not n.startswith("system.")
    )
    meant = nearest(name, names)
    if meant:
        return f"Did you mean {meant!r}?"
    return f"There are: {', '.join(names)}" if names else "There is no collection at all"


def aimed(handle: Handle, identity: UUID | None) -> Document:
    """What makes a command hit only the collection with this identity, where the server can."""
    return {"collectionUUID": identity} if handle.newest and identity is not None else {}


def unchanged(handle: Handle, name: str, identity: UUID | None) -> Found:
    """Look a collection up that must still be the one that was recorded.

    Raises:
        OperationFailed: it was dropped, or dropped and made again (FAULTS 11).
    """
    found = existing(handle, name)
    if identity is not None and found.identity != identity:
        what = f"the collection {name!r} was dropped and made again since this operation began"
        raise OperationFailed(what, "Look who did that, then submit again")
    return found


def drop(work: Work[Handle], name: str, identity: UUID | None) -> None:
    """Drop the collection with this identity; no transaction takes that."""
    work.confirm()
    command = {"drop": name, "comment": work.label, **aimed(work.handle, identity)}
    with suppress_missing():
        work.handle.command(command)


@contextmanager
def suppress_missing() -> Iterator[None]:
    """Take it as done where what is to be dropped is gone already."""
    try:
        yield
    except OperationFailure as error:
        if error.code not in _GONE:
            raise
