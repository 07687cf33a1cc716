"""The locks that others notice, and how a table that is locked is named.

After the manual's "Explicit Locking",
https://www.postgresql.org/docs/current/explicit-locking.html.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from postgast import pg_query_pb2 as tree
from psycopg import sql as composing

__all__ = ["RELATIONS", "Effect", "Lock", "named", "written"]

RELATIONS = (tree.OBJECT_TABLE, tree.OBJECT_VIEW, tree.OBJECT_MATVIEW, tree.OBJECT_FOREIGN_TABLE)
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class Lock(Enum):
    """The modes that conflict with those of SELECT, INSERT, UPDATE and DELETE; and rows' own."""

    ALL = "ACCESS EXCLUSIVE"
    EXCLUSIVE = "EXCLUSIVE"
    WRITES = "SHARE ROW EXCLUSIVE"
    SHARE = "SHARE"
    ROWS = "ROW EXCLUSIVE"


@dataclass(frozen=True)
class Effect:
    """What a statement does to one relation, or to the one that `index` belongs to.

    `lock` is None where others may go on to read and write. With `long` the statement goes
    through every row, or, with `partly`, maybe through some of them only.
    """

    relation: str | None
    lock: Lock | None = None
    long: bool = False
    partly: bool = False
    index: str | None = None


def named(relation: Any) -> str:
    """The relation as a person would write it."""
    return written([relation.schemaname, relation.relname])


def written(names: Iterable[str]) -> str:
    """A name with what it is in, quoted where it has to be."""
    return ".".join(
        name if _PLAIN.issuperset(name) else composing.Identifier(name).as_string()
        for name in names
        if name
    )
