"""Hostile names on a real PostgreSQL: in statements, and as the table and the key of a batch."""

from __future__ import annotations

from typing import Any

import pytest
from hostile_names import NAMES, failure
from pydantic import ValidationError

from dharma_tasks.errors import MigrationFailed
from dharma_tasks.operations import catalogue


@pytest.mark.parametrize("what", NAMES)
def test_names_in_a_batch(postgres: Any, what: str) -> None:
    """Rows are walked by such a table and key, or it is refused for good."""
    name = NAMES[what]
    quoted = '"' + name.replace('"', '""') + '"'
    update = f"UPDATE {quoted} SET v = 1 WHERE {quoted} BETWEEN :batch_start AND :batch_end"
    parameters = {"sql": update, "table": quoted, "key": name}
    try:
        operation = catalogue("postgresql").parse({"type": "sql_batch", **parameters})
    except ValidationError:
        assert name == "" or "\0" in name
        return
    if operation.problems():
        assert name == "" or "\0" in name
        return
    made = failure(
        lambda: postgres.see.execute(
            f"CREATE TABLE {quoted} ({quoted} int PRIMARY KEY, v int);INSERT INTO {quoted} SELECT 1"
        )
    )
    assert made is None
    error = failure(lambda: postgres.runner(operation).run())
    if error:
        assert isinstance(error, MigrationFailed), error
    else:
        assert postgres.value(f"SELECT v FROM {quoted}") == 1


@pytest.mark.parametrize("kind", ["sql", "sql_statements"])
def test_names_in_statements(postgres: Any, kind: str) -> None:
    """A name that SQL can hold is made; nothing is left of one that it cannot."""
    for what, name in NAMES.items():
        quoted = '"' + name.replace('"', '""') + '"'
        operation = catalogue("postgresql").parse(
            {"type": kind, "sql": f"CREATE TABLE {quoted} (v int); DROP TABLE {quoted}"}
        )
        if operation.problems():
            assert what in ("empty", "NUL")
            continue
        assert failure(lambda todo=operation: postgres.runner(todo).run()) is None, what
