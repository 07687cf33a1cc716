"""The indexes that a .sql file builds, and the tables that it fills, one after the other.

What a function or a DO block does is not seen, and neither is the index of a constraint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import postgast
from postgast import pg_query_pb2 as tree

from dharma_tasks.operations.base import Filling, Index
from dharma_tasks.operations.postgresql.locks import named
from dharma_tasks.operations.postgresql.parsing import Statement

__all__ = ["order"]


def order(statements: Iterable[Statement]) -> list[Index | Filling]:
    """Each CREATE INDEX, and each statement that may write many rows."""
    return [each for statement in statements for each in _steps(statement)]


def _steps(statement: Statement) -> Iterator[Index | Filling]:
    node = statement.node
    match statement.kind:
        case "index_stmt":
            name = node.idxname or f"on {named(node.relation)}"
            fields = tuple(_indexed(node))
            yield Index(named(node.relation), name, fields, f"line {statement.line}")
        case "update_stmt":
            yield _filling(statement, [node.where_clause, *node.from_clause])
        case "merge_stmt":
            yield _filling(statement, [node.join_condition])
        case "insert_stmt" if _is_bulk(node):
            yield _filling(statement, [])
        case "copy_stmt" if node.is_from:
            yield _filling(statement, [])


def _indexed(node: Any) -> Iterator[str]:
    """The columns of an index, those in expressions and in its condition too."""
    elements = [each.index_elem for each in node.index_params]
    yield from (each.name for each in elements if each.name)
    yield from _columns(each.expr for each in elements if not each.name)
    if node.HasField("where_clause"):
        yield from _columns([node.where_clause])


def _is_bulk(node: Any) -> bool:
    """Rows that are written out are few, and ON CONFLICT needs an index."""
    values = node.select_stmt.select_stmt.values_lists
    return node.HasField("select_stmt") and not values and not node.HasField("on_conflict_clause")


def _filling(statement: Statement, conditions: Sequence[Any]) -> Filling:
    """An index over a column by which it looks for rows may be there for its sake."""
    return Filling(
        named(statement.node.relation),
        f"the {statement.words(1)} of line {statement.line}",
        lambda index: set(_columns(conditions)).isdisjoint(index.fields),
    )


def _columns(nodes: Iterable[Any]) -> Iterator[str]:
    for node in nodes:
        for found in postgast.find_nodes(node, tree.ColumnRef):
            yield found.fields[-1].string.sval
