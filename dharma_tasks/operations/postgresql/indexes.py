"""Statements that refuse transactions: how a replay sees whether they have happened.

    VACUUM, CLUSTER, REINDEX, ALTER SYSTEM    may run twice
    CREATE INDEX CONCURRENTLY                 by the index's definition; INVALID: built again
    DROP INDEX CONCURRENTLY                   by the oid of what it was meant for
    REINDEX CONCURRENTLY                      leaves *_ccnew and *_ccold, which are dropped

The window that is left: a worker that is frozen between the lease's last confirmation and
the statement, for longer than its lease, sends it late (Law 4; docs/reliability.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import postgast
import psycopg
from postgast import pg_query_pb2 as tree
from psycopg import sql as composing

from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.postgresql import rules, running
from dharma_tasks.operations.postgresql.parsing import Statement
from dharma_tasks.work import Work

_ON_TABLE = """
SELECT c.oid::bigint, coalesce(i.indisvalid, true), coalesce(i.indrelid = t.oid, false),
    coalesce(pg_catalog.pg_get_indexdef(i.indexrelid), 'a relation of another kind'),
    pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM pg_catalog.pg_class t
JOIN pg_catalog.pg_class c ON c.relnamespace = t.relnamespace AND c.relname = %(name)s
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
WHERE t.oid = pg_catalog.to_regclass(%(table)s)
"""

_BY_NAME = """
SELECT c.oid::bigint, pg_catalog.pg_get_indexdef(c.oid)
FROM pg_catalog.pg_class c
WHERE c.oid = pg_catalog.to_regclass(%(name)s) AND c.relkind IN ('i', 'I')
"""

_ALL_NAMES = """
SELECT c.oid::regclass::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'i' AND n.nspname NOT LIKE 'pg\\_%%' ORDER BY 1 LIMIT 20
"""

_LEFTOVERS = """
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AND n.nspname <> 'pg_toast'
    AND (%(relation)s::text IS NULL
        OR i.indrelid = pg_catalog.to_regclass(%(relation)s)
        OR i.indrelid = (SELECT indrelid FROM pg_catalog.pg_index
            WHERE indexrelid = pg_catalog.to_regclass(%(relation)s)))
    AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s)
"""


@dataclass(frozen=True)
class _Index:
    """What has the name of the index that is to be made."""

    oid: int
    valid: bool
    on_table: bool
    definition: str
    name: str


def recorded(statement: Statement) -> bool:
    """Whether what is there is recorded before the statement runs."""
    return statement.kind in ("index_stmt", "drop_stmt")


def look(work: Work[Session], statement: Statement) -> JSON:
    """Say what is there before the first effect. Inside a transaction.

    Raises:
        OperationFailed: an index to drop is not there; one to make is, and is different.
    """
    if statement.kind == "drop_stmt":
        return _look_before_drop(work, statement)
    existing = _existing(work.handle, statement)
    if existing is None:
        return {"existed": False}
    _refuse_different(work.handle, statement, existing)
    if existing.valid:
        work.warn(f"the index {existing.name} is there already, and is as it should be")
    return {"existed": True}


def act(work: Work[Session], sql: str, statement: Statement, found: JSON | None) -> None:
    """Run the statement, unless it has been run. Outside of any transaction."""
    if statement.kind == "index_stmt":
        _create(work, sql, statement)
    elif statement.kind == "drop_stmt":
        _drop(work, sql, statement, found or {})
    else:
        if statement.kind == "reindex_stmt" and rules.outside(statement) == rules.REINDEX:
            _drop_all(work, _leftovers(work.handle, statement))
        _run(work, sql, statement)


def _run(work: Work[Session], sql: str, statement: Statement) -> None:
    if "CONCURRENTLY" not in (rules.outside(statement) or ""):
        work.confirm()
        running.run(work, sql, statement.start, statement.end)
        return
    with work.handle.patient():
        work.confirm()
        running.run(work, sql, statement.start, statement.end)


def _drop_all(work: Work[Session], names: Sequence[str]) -> None:
    for name in names:
        work.warn(f"the index {name} is INVALID, left by a build that was cut off: dropped")
        with work.handle.patient():
            work.confirm()
            work.handle.run(f"DROP INDEX CONCURRENTLY IF EXISTS {name}".encode())


# --- CREATE INDEX CONCURRENTLY ---


def _create(work: Work[Session], sql: str, statement: Statement) -> None:
    existing = _existing(work.handle, statement)
    if existing is not None:
        work.handle.begin()
        try:
            _refuse_different(work.handle, statement, existing)
        finally:
            work.handle.rollback()
        if existing.valid:
            return
        _drop_all(work, [existing.name])
    try:
        _run(work, sql, statement)
    except psycopg.Error:
        if work.handle.alive:
            _tidy(work, statement)
        raise


def _tidy(work: Work[Session], statement: Statement) -> None:
    """What failed half way slows down every write, and a unique one even refuses some."""
    with suppress(psycopg.Error):
        left = _existing(work.handle, statement)
        _drop_all(work, [left.name] if left and not left.valid else [])


def _existing(handle: Session, statement: Statement) -> _Index | None:
    node = statement.node
    rows = handle.query(_ON_TABLE, name=node.idxname, table=_quoted(node.relation))
    return _Index(*rows[0]) if rows else None


def _refuse_different(handle: Session, statement: Statement, existing: _Index) -> None:
    wanted = _definition(handle, statement)
    if existing.on_table and _shape(existing.definition) == _shape(wanted):
        return
    what = f"{existing.name} exists, and is different: {existing.definition}; wanted: {wanted}"
    raise OperationFailed(what, "Choose another name, or drop it in a migration before this one")


def _definition(handle: Session, statement: Statement) -> str:
    """What the server would write of the index: it is made on an empty copy of its table.

    Texts cannot be compared: the server writes casts, operators and names in its own way.
    """
    node = tree.IndexStmt()
    node.CopyFrom(statement.node)
    node.concurrent = node.if_not_exists = False
    table = _quoted(node.relation)
    node.relation.catalogname, node.relation.schemaname = "", "pg_temp"
    copy = _quoted(node.relation)
    raw = tree.RawStmt(stmt=tree.Node(index_stmt=node))
    made = postgast.deparse(tree.ParseResult(stmts=[raw]))
    connection = handle.connection
    connection.execute("SAVEPOINT dharma_look")
    for text in (f"CREATE TEMPORARY TABLE {copy} (LIKE {table})", made):
        connection.execute(text.encode())
    name = composing.Identifier("pg_temp", node.idxname).as_string()
    ((definition,),) = handle.query(
        "SELECT pg_catalog.pg_get_indexdef(pg_catalog.to_regclass(%(name)s))", name=name
    )
    connection.execute("ROLLBACK TO SAVEPOINT dharma_look")
    return str(definition)


def _shape(definition: str) -> tuple[bool, str]:
    """The definition without the names of index and table."""
    head, _, tail = definition.partition(" USING ")
    return head.startswith("CREATE UNIQUE"), tail


def _quoted(relation: Any) -> str:
    names = (relation.catalogname, relation.schemaname, relation.relname)
    return composing.Identifier(*filter(None, names)).as_string()


# --- DROP INDEX CONCURRENTLY ---


def _dropped_name(statement: Statement) -> str:
    items = statement.node.objects[0].list.items
    return composing.Identifier(*(item.string.sval for item in items)).as_string()


def _look_before_drop(work: Work[Session], statement: Statement) -> JSON:
    name = _dropped_name(statement)
    rows = work.handle.query(_BY_NAME, name=name)
    if rows:
        return {"oid": rows[0][0], "definition": rows[0][1]}
    if not statement.node.missing_ok:
        names = ", ".join(row[0] for row in work.handle.query(_ALL_NAMES)) or "none"
        what = f"there is no index {name} to drop (line {statement.line}); there are: {names}"
        raise OperationFailed(what, "Correct the name, or write IF EXISTS")
    return {"oid": None}


def _drop(work: Work[Session], sql: str, statement: Statement, found: JSON) -> None:
    name = _dropped_name(statement)
    rows = work.handle.query(_BY_NAME, name=name)
    if not rows:
        return
    if rows[0][0] != found["oid"]:
        work.warn(f"the index {name} was made after this migration had begun: it is left")
        return
    _run(work, sql, statement)


# --- REINDEX CONCURRENTLY ---


def _leftovers(handle: Session, statement: Statement) -> list[str]:
    """INVALID indexes that a REINDEX CONCURRENTLY of the same things has left; see its manual."""
    node = statement.node
    relation = _quoted(node.relation) if node.HasField("relation") else None
    schema = node.name if node.kind == tree.REINDEX_OBJECT_SCHEMA else None
    return [row[0] for row in handle.query(_LEFTOVERS, relation=relation, schema=schema)]
