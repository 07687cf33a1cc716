"""Which document of a batch the server refuses to change, where its error does not say so.

A duplicate key is told with the key and not with the document, and so are a document that would
grow too large and an expression that cannot be computed. The first part of the batch is tried
again in transactions that are never committed, until it is known where it begins to fail.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from pymongo.client_session import ClientSession
from pymongo.errors import OperationFailure, PyMongoError

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.databases.mongodb.faults import classify, describe, shown
from dharma_tasks.operations.mongodb.keeping import BY_ID, Documents

_DUPLICATE = 11000
_NAMED = re.compile(r"\b_id: |failingDocumentId")
_SECONDS = 20
"""How long to look for it: the lease is ours meanwhile, but others wait."""


class _Unclear(PyMongoError):
    """It fails in another way now, or it takes too long to find out."""


def name(
    error: OperationFailure,
    documents: Documents,
    matching: Document,
    change: Callable[[list[Document]], object],
) -> None:
    """Add to `error` which of the `matching` documents it is about, where that can be found out.

    `change` is what has failed; it gets more conditions. Without transactions it changes what the
    batch itself has changed before it failed, and no more.
    """
    named = error.code != _DUPLICATE and _NAMED.search(describe(error))
    if named or classify(error) is not Fault.LASTING:
        return
    session = documents.work.handle.session
    until = time.monotonic() + _SECONDS

    def fails(condition: Document) -> bool:
        if time.monotonic() > until:
            raise _Unclear
        try:
            with _trial(session):
                change([condition])
        except OperationFailure as again:
            if again.code == error.code:
                return True
            raise _Unclear from again
        return False

    with suppress(PyMongoError):
        if session is not None:
            session.abort_transaction()
        found = documents.collection.find(
            matching, {"_id": True}, hint=BY_ID, sort=BY_ID, comment=documents.work.label
        )
        ids = [each["_id"] for each in found]
        if fails({"_id": {"$in": []}}):
            return  # whatever the documents are
        first = bisect_left(ids, 1, key=lambda each: int(fails(_upto(each))))
        if first < len(ids):
            error.add_note(f"the document with _id {shown(ids[first])} of {documents.name!r}")


@contextmanager
def _trial(session: ClientSession | None) -> Iterator[None]:
    """Try in a transaction that leaves nothing behind, where there are transactions."""
    if session is None:
        yield
        return
    session.start_transaction()
    try:
        yield
    finally:
        session.abort_transaction()


def _upto(identity: object) -> Document:
    return {"$expr": {"$lte": ["$_id", {"$literal": identity}]}}
