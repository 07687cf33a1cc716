"""`sql_batch`: one statement, run over ranges of a key, each with its checkpoint."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field

from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.base import Burden
from dharma_tasks.operations.paced import Paced
from dharma_tasks.operations.postgresql import keys, kinds, rules, running
from dharma_tasks.operations.postgresql.parsing import END, START, NotSql, batched, parse
from dharma_tasks.operations.postgresql.sql_file import SqlFile
from dharma_tasks.pace import Bounds
from dharma_tasks.records import Direction
from dharma_tasks.work import Prepared, Range, Step, Work

_STATEMENTS = {
    "insert_stmt",
    "update_stmt",
    "delete_stmt",
    "merge_stmt",
    "select_stmt",
    "call_stmt",
}

_COLUMNS_AT_MOST = 3
"""More do not fit in the place of a mark; the first three of a key need not be unique."""


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_Column = Annotated[str, Field(min_length=1)]
_Columns = Annotated[list[_Column], Field(min_length=1, max_length=_COLUMNS_AT_MOST)]
_Key = Annotated[_Columns, BeforeValidator(_listed, json_schema_input_type=_Column | _Columns)]


class SqlBatch(Paced[Session], SqlFile):
    """One statement with `:batch_start` and `:batch_end`, both inclusive keys that exist.

    It walks the column `key` of `table` (or several together) in its own order, from the smallest
    to the largest key that is there when it begins. `size` is the number of rows in a range;
    without it, a range takes about as long as any batch. A conflict makes it smaller all the same.
    """

    kind: ClassVar[str] = kinds.SQL_BATCH

    table: str = Field(min_length=1)
    """The table that is walked."""
    key: _Key
    """A column with an index that begins with it, or up to three in the order of an index."""
    size: int | None = Field(default=None, ge=1, le=1_000_000)
    """So many rows in a range; without it as many as take `seconds`."""

    @property
    def summary(self) -> str:
        """The table and its key."""
        return f"{self.table}({', '.join(self.key)})"

    def problems(self) -> list[Problem]:
        """Syntax, the marks, and what cannot run over ranges; lines are the .sql file's."""
        try:
            found = batched(self.sql, len(self.key))
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
            todo = f"Write WHERE {keys.shown(self.key)} BETWEEN {START} AND {END}."
            return [rules.problem(statement, what, todo)]
        if statement.kind not in _STATEMENTS:
            what = f"{statement.words(2)} cannot run over ranges of a key"
            return [rules.problem(statement, what, "Write UPDATE, INSERT, DELETE, … instead.")]
        if statement.kind == "update_stmt" and self._moves(statement.node):
            key = keys.shown(self.key)
            what = f"it changes {key}, by which it walks: rows would be met twice, or never"
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
        return walked and any(item.res_target.name in self.key for item in node.target_list)

    def prepare(self, work: Work[Session]) -> Prepared:
        """Find the key, and the largest one: what comes later belongs to the application."""
        handle = work.handle
        walked = keys.find(handle, self.table, self.key)
        if nulls := keys.nulls(handle, walked):
            self._tell_of_nulls(work, nulls)
        if skew := keys.refuse_skew(handle, walked):
            work.warn(skew)
        walked["last"] = keys.last(handle, walked)
        if self.parallel == 1 or walked["last"] is None:
            return Prepared(walked, keys.total(handle, walked))
        total = keys.count(handle, walked)
        ends = [*keys.ends(handle, walked, self.cuts(total)), walked["last"]]
        if len(ends) == 1:
            return Prepared(walked, total)
        pairs = zip([None, *ends[:-1]], ends, strict=True)
        return Prepared(walked, total, tuple(Range(after, {"last": end}) for after, end in pairs))

    def _tell_of_nulls(self, work: Work[Session], nulls: int) -> None:
        what = f"{nulls} rows of {self.table} have no {keys.shown(self.key)}"
        if len(self.key) > 1:
            # Rows in the middle of a range would be in it, and at its ends not.
            raise OperationFailed(what, "Name columns that are NOT NULL, or fill them before")
        work.warn(f"{what}: they are not visited")

    def step(self, work: Work[Session]) -> Step:
        """Run the statement over the next range."""
        found, finished = keys.next_range(work.handle, work.undo, work.cursor, work.size)
        if found is None:
            return Step(cursor=work.cursor, finished=True)
        text = batched(self.sql, len(self.key)).text
        with running.located(self.sql, 0, len(self.sql)):
            types = keys.oids(work.undo) * 2
            work.handle.run_typed(text.encode(), [*found.start, *found.end], types)
        for warning in work.handle.warnings():
            work.warn(warning)
        return Step(cursor=keys.cursor(found), done=found.rows, finished=finished)
