"""`sql_batch`: one statement, run over ranges of a key, each with its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from psycopg import sql as composing
from psycopg.rows import TupleRow
from pydantic import Field

from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Burden
from dharma_tasks.operations.paced import Paced
from dharma_tasks.operations.postgresql import rules, running
from dharma_tasks.operations.postgresql.parsing import END, START, NotSql, batched, parse
from dharma_tasks.operations.postgresql.sql_file import SqlFile
from dharma_tasks.pace import Bounds
from dharma_tasks.records import Direction
from dharma_tasks.work import Prepared, Step, Work

_STATEMENTS = {
    "insert_stmt",
    "update_stmt",
    "delete_stmt",
    "merge_stmt",
    "select_stmt",
    "call_stmt",
}

_TYPES = (
    *("smallint", "integer", "bigint", "numeric", "uuid", "date"),
    *("text", "character varying", "character"),
    *("timestamp without time zone", "timestamp with time zone"),
)

_COLUMN = """
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), pg_catalog.quote_ident(a.attname),
    b.oid::bigint, pg_catalog.format_type(b.oid, NULL), b.typname, a.attnotnull,
    c.reltuples::bigint,
    EXISTS (SELECT 1 FROM pg_catalog.pg_index i
        JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
        JOIN pg_catalog.pg_am m ON m.oid = x.relam
        WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL
            AND i.indkey[0] = a.attnum AND i.indcollation[0] = a.attcollation
            AND m.amname = 'btree')
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
WHERE c.oid = pg_catalog.to_regclass(%(table)s) AND a.attname = %(key)s
"""

_COLUMNS = """
SELECT attname FROM pg_catalog.pg_attribute
WHERE attrelid = pg_catalog.to_regclass(%(table)s) AND attnum > 0 AND NOT attisdropped
"""

# to_json writes times in ISO 8601 whatever DateStyle says, and all else as ::text does.
_LAST = """
SELECT pg_catalog.to_json({key}) #>> '{{}}' FROM {table} WHERE {key} IS NOT NULL
ORDER BY {key} DESC LIMIT 1
"""

_RANGE = """
WITH keys AS MATERIALIZED (
    SELECT {key} AS key FROM {table}
    WHERE {key} <= %(last)s::{type} AND {after}
    ORDER BY {key} LIMIT %(size)s
)
SELECT (SELECT pg_catalog.to_json(key) #>> '{{}}' FROM keys ORDER BY key LIMIT 1),
    (SELECT pg_catalog.to_json(key) #>> '{{}}' FROM keys ORDER BY key DESC LIMIT 1),
    (SELECT count(*) FROM keys)
"""

_NULLS = "SELECT count(*) FROM {table} WHERE {key} IS NULL"

_FEW = 100_000
_SMALL = "SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT %(few)s) AS few"


class SqlBatch(Paced[Session], SqlFile):
    """One statement with `:batch_start` and `:batch_end`, both inclusive keys that exist.

    It walks the column `key` of `table` in its own order, from the smallest to the largest
    key that is there when it begins. `size` is the number of rows in a range; without it, a
    range takes about as long as any batch. A conflict makes it smaller all the same.
    """

    kind: ClassVar[str] = "sql_batch"

    table: str = Field(min_length=1)
    key: str = Field(min_length=1)
    size: int | None = Field(default=None, ge=1, le=1_000_000)

    @property
    def summary(self) -> str:
        """The table and its key."""
        return f"{self.table}({self.key})"

    def problems(self) -> list[Problem]:
        """Syntax, the marks, and what cannot run over ranges; lines are the .sql file's."""
        try:
            found = batched(self.sql)
            statements = parse(found.text)
        except NotSql as error:
            return [error.problem]
        missing = [mark for mark in (START, END) if mark not in found.marks]
        if len(statements) != 1:
            line = statements[1].line if statements else 1
            what = f'a file with "batch" holds one statement, this one {len(statements)}'
            return [Problem("", f"line {line}", what, "Put the others in other migrations.")]
        statement = statements[0]
        if missing:
            what = f"{' and '.join(missing)} missing"
            todo = f"Write WHERE {self.key} BETWEEN {START} AND {END}."
            return [rules.problem(statement, what, todo)]
        if statement.kind not in _STATEMENTS:
            what = f"{statement.words(2)} cannot run over ranges of a key"
            return [rules.problem(statement, what, "Write UPDATE, INSERT, DELETE, … instead.")]
        if statement.kind == "update_stmt" and self._moves(statement.node):
            what = f"it changes {self.key}, by which it walks: rows would be met twice, or never"
            return [rules.problem(statement, what, "Walk by another column.")]
        return []

    def bounds(self) -> Bounds:
        """What the migration says; `size` is both bounds in one."""
        found = super().bounds()
        return replace(found, least=self.size, most=self.size) if self.size else found

    def burden(self, direction: Direction) -> Burden:
        """It goes through its table; what a range locks is free again with its checkpoint."""
        if direction is Direction.BACK:
            return super().burden(direction)
        return Burden(heavy=True, targets=(self.table,), counted=True)

    def _moves(self, node: Any) -> bool:
        walked = self.table.rpartition(".")[2] == node.relation.relname
        return walked and any(item.res_target.name == self.key for item in node.target_list)

    def prepare(self, work: Work[Session]) -> Prepared:
        """Find the column, and the largest key: what comes later belongs to the application."""
        handle = work.handle
        walked = self._column(handle)
        if nulls := self._nulls(handle, walked):
            work.warn(f"{nulls} rows of {self.table} have no {self.key}: they are not visited")
        rows = handle.query(_composed(_LAST, walked))
        walked["last"] = rows[0][0] if rows else None
        return Prepared(undo=walked, total=self._total(handle, walked))

    def _column(self, handle: Session) -> JSON:
        rows = handle.query(_COLUMN, table=self.table, key=self.key)
        if not rows:
            raise self._not_found(handle)
        table, key, oid, kind, type_name, not_null, estimated, indexed = rows[0]
        if kind not in _TYPES:
            what = f"{self.table}.{self.key} is of type {kind}, which cannot be walked"
            raise OperationFailed(what, f"Name a column of one of: {', '.join(_TYPES)}")
        if not indexed:
            what = f"{self.table}.{self.key} has no btree index that begins with it"
            todo = "Each range would read the whole table: make one in a migration before this"
            raise OperationFailed(what, todo)
        return {
            "table": table,
            "key": key,
            "oid": oid,
            "type": f"pg_catalog.{type_name}",  # the type itself: `character` is char(1)
            "not_null": not_null,
            "estimated": estimated,
        }

    def _not_found(self, handle: Session) -> OperationFailed:
        columns = [row[0] for row in handle.query(_COLUMNS, table=self.table)]
        if not columns:
            todo = 'Correct "batch" in the JSON; write schema.table where it is needed'
            return OperationFailed(f"there is no table {self.table}", todo)
        what = f"{self.table} has no column {self.key}; it has {', '.join(columns)}"
        return OperationFailed(what, 'Correct "batch" in the JSON')

    @staticmethod
    def _nulls(handle: Session, walked: JSON) -> int:
        if walked["not_null"]:
            return 0
        return int(handle.query(_composed(_NULLS, walked))[0][0])

    @staticmethod
    def _total(handle: Session, walked: JSON) -> int | None:
        """The server's estimate; a table that was never analysed is counted if it is small."""
        if walked["estimated"] > 0:
            return int(walked["estimated"])
        counted = int(handle.query(_composed(_SMALL, walked), few=_FEW)[0][0])
        return counted if counted < _FEW else None

    def step(self, work: Work[Session]) -> Step:
        """Run the statement over the next range."""
        start, end, count = self._range(work, work.size)
        if not count:
            return Step(cursor=work.cursor, finished=True)
        text = batched(self.sql).text
        with running.located(self.sql, 0, len(self.sql)):
            work.handle.run_typed(text.encode(), [start, end], work.undo["oid"])
        for warning in work.handle.warnings():
            work.warn(warning)
        return Step(cursor=end, done=count, finished=count < work.size or end == work.undo["last"])

    @staticmethod
    def _range(work: Work[Session], size: int) -> TupleRow:
        walked = work.undo
        if walked["last"] is None:
            return (None, None, 0)
        after = "true" if work.cursor is None else "{key} > %(cursor)s::{type}"
        text = _composed(_RANGE.replace("{after}", after), walked)
        return work.handle.query(text, last=walked["last"], cursor=work.cursor, size=size)[0]


def _composed(template: str, walked: JSON) -> str:
    """Put the names in; they come quoted from the server."""
    names = {name: composing.SQL(walked[name]) for name in ("table", "key", "type")}
    return composing.SQL(template).format(**names).as_string()
