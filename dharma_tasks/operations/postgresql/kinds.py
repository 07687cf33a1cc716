"""The kinds of operation: their names, and by these what carries them out.

PostgreSQL's parser comes with the latter, so they are imported when the first of them is asked for:
what is applied already needs none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from dharma_tasks.operations.base import Operation

__all__ = ["KINDS", "SQL", "SQL_BATCH", "SQL_STATEMENTS"]

SQL = "sql"
SQL_STATEMENTS = "sql_statements"
SQL_BATCH = "sql_batch"


class _Kinds(Mapping[str, type[Operation[Any]]]):
    """The operations by their kinds."""

    @cached_property
    def _found(self) -> dict[str, type[Operation[Any]]]:
        from dharma_tasks.operations.postgresql.sql import Sql  # noqa: PLC0415 - see above
        from dharma_tasks.operations.postgresql.sql_batch import SqlBatch  # noqa: PLC0415
        from dharma_tasks.operations.postgresql.sql_statements import SqlStatements  # noqa: PLC0415

        return {each.kind: each for each in (Sql, SqlStatements, SqlBatch)}

    def __getitem__(self, kind: str) -> type[Operation[Any]]:
        return self._found[kind]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


KINDS = _Kinds()
