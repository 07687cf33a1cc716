"""One document of the journal: read in real time, written only where nobody else wrote it.

Elasticsearch has no transactions. What it has is compare-and-set on a single document: a write
with `if_seq_no` and `if_primary_term` is refused with a conflict when the document has changed
since that sequence number ("Optimistic concurrency control" in its manual). The document's
sequence number is therefore the fence that the server itself checks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from elasticsearch import ConflictError, Elasticsearch, NotFoundError

from dharma_tasks.migration import JSON


@dataclass
class Document:
    """A document as of our last read or write; `replace` keeps it up to date."""

    index: str
    id: str
    source: JSON
    seq_no: int
    primary_term: int

    def get(self, name: str) -> Any:
        """The value of a field; None where it has none."""
        return self.source.get(name)


Change = Callable[[Document | None], JSON | None]
"""From a document as it is, or its absence, to what to write; None writes nothing."""


def read(client: Elasticsearch, index: str, key: str) -> Document | None:
    """Read a document as it is now, not as a search would see it; None where there is none."""
    try:
        found = client.get(index=index, id=key, realtime=True)
    except NotFoundError:
        return None
    return Document(index, key, found["_source"], found["_seq_no"], found["_primary_term"])


def create(client: Elasticsearch, index: str, key: str, source: JSON) -> Document | None:
    """Write a new document; None where it exists already."""
    try:
        made = client.index(index=index, id=key, document=source, op_type="create")
    except ConflictError:
        return None
    return Document(index, key, source, made["_seq_no"], made["_primary_term"])


def replace(client: Elasticsearch, document: Document, changes: JSON) -> bool:
    """Write the document with `changes`; False, and nothing written, where it has changed."""
    source = {**document.source, **changes}
    try:
        made = client.index(
            index=document.index,
            id=document.id,
            document=source,
            if_seq_no=document.seq_no,
            if_primary_term=document.primary_term,
        )
    except ConflictError:
        return False
    document.source = source
    document.seq_no, document.primary_term = made["_seq_no"], made["_primary_term"]
    return True


def change(client: Elasticsearch, index: str, key: str, how: Change) -> None:
    """Read, change and write a document until nobody was faster."""
    while True:
        found = read(client, index, key)
        changes = how(found)
        if changes is None:
            return
        if found is None:
            if create(client, index, key, changes):
                return
        elif replace(client, found, changes):
            return


def now() -> str:
    """The time, as the journal writes it."""
    return datetime.now(UTC).isoformat()
