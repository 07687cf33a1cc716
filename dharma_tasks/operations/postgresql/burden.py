"""What a .sql file means for others: the locks of its statements, and what they go through.

What a function or a DO block does is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import postgast
from postgast import pg_query_pb2 as tree

from dharma_tasks.operations.base import Burden
from dharma_tasks.operations.postgresql import rules
from dharma_tasks.operations.postgresql.alter_table import alter_table
from dharma_tasks.operations.postgresql.locks import RELATIONS, Effect, Lock, named, written
from dharma_tasks.operations.postgresql.parsing import Statement

__all__ = ["burden", "effects"]

_WAITS = {Lock.ALL: "reads and writes of it wait"}
_ON_TABLE = (tree.OBJECT_TRIGGER, tree.OBJECT_RULE, tree.OBJECT_POLICY)
_MODES = {8: Lock.ALL, 7: Lock.EXCLUSIVE, 6: Lock.WRITES, 5: Lock.SHARE}
"""Of LOCK TABLE, by the server's numbers; the weaker ones let others read and write."""

_NAMES = {
    "update_stmt": "UPDATE",
    "delete_stmt": "DELETE",
    "merge_stmt": "MERGE",
    "truncate_stmt": "TRUNCATE",
    "cluster_stmt": "CLUSTER",
    "reindex_stmt": "REINDEX",
    "vacuum_stmt": "VACUUM FULL",
    "index_stmt": "CREATE INDEX",
    "create_trig_stmt": "CREATE TRIGGER",
    "rule_stmt": "CREATE RULE",
    "create_stmt": "CREATE TABLE",
    "refresh_mat_view_stmt": "REFRESH MATERIALIZED VIEW",
}
"""Where the first two words do not say it."""


def burden(statements: Iterable[Statement]) -> Burden:
    """What the statements of a file mean together. What the file itself makes is nobody's yet."""
    made: set[str] = set()
    long: list[Effect] = []
    blocking: list[str] = []
    for statement in statements:
        found = [each for each in effects(statement) if each.relation not in made]
        long += [each for each in found if each.long]
        blocking += [_waiting(statement, each) for each in found if each.lock]
        made |= _made(statement)
    return Burden(
        heavy=bool(long),
        targets=tuple(dict.fromkeys(each.relation for each in long if each.relation)),
        partly=any(each.partly for each in long),
        blocking=tuple(dict.fromkeys(blocking)),
    )


def effects(statement: Statement) -> list[Effect]:
    """What the statement does to each relation that it names; nothing for most kinds."""
    return list(_effects(statement.kind, statement.node))


def _effects(kind: str, node: Any) -> Iterator[Effect]:
    for each in getattr(node, "with_clause", tree.WithClause()).ctes:
        query = each.common_table_expr.ctequery
        inner = query.WhichOneof("node")
        yield from _effects(inner, getattr(query, inner))
    if rule := _RULES.get(kind):
        yield from rule(node)


def _waiting(statement: Statement, effect: Effect) -> str:
    where = f"line {statement.line}: {_NAMES.get(statement.kind) or statement.words(2)}"
    on = f"the table of {effect.index}" if effect.index else effect.relation or "every table"
    if effect.lock is Lock.ROWS:
        return f"{where} locks the rows of {on} that it changes: other writes of these wait"
    through = ", and goes through its rows" if effect.long else ""
    waits = _WAITS.get(effect.lock, "writes to it wait") if effect.lock else ""
    return f"{where} locks {on} ({effect.lock and effect.lock.value}){through}: {waits}"


def _made(statement: Statement) -> set[str]:
    """The tables that are there, and hold nothing of anybody, since this statement."""
    node = statement.node
    match statement.kind:
        case "create_stmt" if not node.if_not_exists:
            return {named(node.relation)}
        case "create_table_as_stmt" if not node.if_not_exists:
            return {named(node.into.rel)}
        case "select_stmt" if node.HasField("into_clause"):
            return {named(node.into_clause.rel)}
    return set()


# --- tables and what belongs to them ---


def _create_table(node: Any) -> Iterator[Effect]:
    constraints = [element.constraint for element in node.table_elts]
    columns = [element.column_def for element in node.table_elts]
    constraints += [each.constraint for column in columns for each in column.constraints]
    for constraint in constraints:
        if constraint.contype == tree.CONSTR_FOREIGN:
            yield Effect(named(constraint.pktable), Lock.WRITES)
    if node.HasField("partbound"):
        for parent in node.inh_relations:
            yield Effect(named(parent.range_var), Lock.ALL)


def _drop(node: Any) -> Iterator[Effect]:
    for each in node.objects:
        names = [item.string.sval for item in each.list.items]
        if node.remove_type == tree.OBJECT_INDEX and not node.concurrent:
            yield Effect(None, Lock.ALL, index=written(names))
        elif node.remove_type in RELATIONS:
            yield Effect(written(names), Lock.ALL)
        elif node.remove_type in _ON_TABLE:
            yield Effect(written(names[:-1]), Lock.ALL)


def _rename(node: Any) -> Iterator[Effect]:
    column = node.rename_type == tree.OBJECT_COLUMN and node.relation_type in RELATIONS
    if column or node.rename_type in (*RELATIONS, *_ON_TABLE, tree.OBJECT_TABCONSTRAINT):
        yield Effect(named(node.relation), Lock.ALL)


def _set_schema(node: Any) -> Iterator[Effect]:
    if node.object_type in RELATIONS:
        yield Effect(named(node.relation), Lock.ALL)


def _truncate(node: Any) -> Iterator[Effect]:
    for each in node.relations:
        yield Effect(named(each.range_var), Lock.ALL)


def _lock(node: Any) -> Iterator[Effect]:
    if node.mode in _MODES:
        for each in node.relations:
            yield Effect(named(each.range_var), _MODES[node.mode])


def _trigger(node: Any) -> Iterator[Effect]:
    yield Effect(named(node.relation), Lock.WRITES)


def _policy(node: Any) -> Iterator[Effect]:
    yield Effect(named(node.table), Lock.ALL)


def _rule(node: Any) -> Iterator[Effect]:
    yield Effect(named(node.relation), Lock.ALL)


# --- what goes through a whole table ---


def _index(node: Any) -> Iterator[Effect]:
    yield Effect(named(node.relation), None if node.concurrent else Lock.SHARE, long=True)


def _reindex(node: Any) -> Iterator[Effect]:
    lock = None if rules.option(node.params, "concurrently") else Lock.SHARE
    name = named(node.relation) if node.HasField("relation") else None
    if node.kind == tree.REINDEX_OBJECT_INDEX:
        yield Effect(None, lock, long=True, index=name)
    else:
        yield Effect(name, lock, long=True)


def _vacuum(node: Any) -> Iterator[Effect]:
    if node.is_vacuumcmd:  # else ANALYZE, which looks at a sample
        lock = Lock.ALL if rules.option(node.options, "full") else None
        names: list[str | None] = [named(each.vacuum_relation.relation) for each in node.rels]
        yield from (Effect(each, lock, long=True) for each in names or [None])


def _cluster(node: Any) -> Iterator[Effect]:
    name = named(node.relation) if node.HasField("relation") else None
    yield Effect(name, Lock.ALL, long=True)


def _refresh(node: Any) -> Iterator[Effect]:
    lock = None if node.concurrent else Lock.ALL
    yield Effect(named(node.relation), lock, long=not node.skip_data)


# --- rows ---


def _change(node: Any) -> Iterator[Effect]:
    partly = node.HasField("where_clause")
    yield Effect(named(node.relation), Lock.ROWS, long=True, partly=partly)


def _merge(node: Any) -> Iterator[Effect]:
    yield Effect(named(node.relation), Lock.ROWS, long=True, partly=True)


def _insert(node: Any) -> Iterator[Effect]:
    yield from _read(node.with_clause, node.select_stmt)


def _create_as(node: Any) -> Iterator[Effect]:
    if not node.into.skip_data:
        yield from _read(node.query)


def _select(node: Any) -> Iterator[Effect]:
    if node.HasField("into_clause"):
        made = named(node.into_clause.rel)
        yield from (each for each in _read(node) if each.relation != made)


def _read(*parts: Any) -> Iterator[Effect]:
    """What is copied from elsewhere: all tables in it, but those that it names itself."""
    find = postgast.find_nodes
    queries = {each.ctename for part in parts for each in find(part, tree.CommonTableExpr)}
    for part in parts:
        for table in find(part, tree.RangeVar):
            if table.relname not in queries:
                yield Effect(named(table), long=True, partly=True)


_RULES: dict[str, Callable[[Any], Iterator[Effect]]] = {
    "alter_table_stmt": alter_table,
    "alter_object_schema_stmt": _set_schema,
    "create_stmt": _create_table,
    "drop_stmt": _drop,
    "rename_stmt": _rename,
    "truncate_stmt": _truncate,
    "lock_stmt": _lock,
    "create_trig_stmt": _trigger,
    "create_policy_stmt": _policy,
    "alter_policy_stmt": _policy,
    "rule_stmt": _rule,
    "index_stmt": _index,
    "reindex_stmt": _reindex,
    "vacuum_stmt": _vacuum,
    "cluster_stmt": _cluster,
    "refresh_mat_view_stmt": _refresh,
    "update_stmt": _change,
    "delete_stmt": _change,
    "merge_stmt": _merge,
    "insert_stmt": _insert,
    "create_table_as_stmt": _create_as,
    "select_stmt": _select,
}
