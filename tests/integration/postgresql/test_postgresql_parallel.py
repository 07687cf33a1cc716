"""A batched statement that is cut into ranges, each with several batches: every row once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ranges_hand import ThreadControl, side_by_side
from structlog.testing import capture_logs

from dharma_tasks.databases.postgresql import database
from dharma_tasks.errors import MigrationFailed
from dharma_tasks.runner import Runner

KIND = "sql_batch"
COUNT = 6_000


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("dharma_tasks.pace.LONGEST_PAUSE", 0)
    monkeypatch.setattr("dharma_tasks.side_by_side.LOOK_SECONDS", 0.05)
    with capture_logs():
        yield


@pytest.fixture
def make(postgres: Any) -> Callable[..., Callable[[], Runner]]:
    """Make the workers of one operation, each with a connection of its own."""

    def made(sql: str, **parameters: Any) -> Callable[[], Runner]:
        operation = postgres.operation(sql, KIND, **parameters)
        assignment = postgres.assignment(KIND)

        def runner() -> Runner:
            own = database(postgres.settings)
            return Runner(operation, assignment, own, ThreadControl(), postgres.settings, "worker")

        return runner

    return made


@pytest.mark.parametrize(
    ("key", "columns", "values"),
    [
        ("k", "k int PRIMARY KEY", "g"),
        ("k", "k text PRIMARY KEY", "md5(g::text)"),
        ("k", "k uuid PRIMARY KEY", "md5(g::text)::uuid"),
        ("k", "k int", "g * g / 90000"),
        (["k", "l"], "k int NOT NULL, l int NOT NULL, PRIMARY KEY (k, l)", "g % 7, g"),
    ],
    ids=["int", "text", "uuid", "skewed", "two columns"],
)
def test_every_row_once(
    postgres: Any,
    make: Callable[..., Callable[[], Runner]],
    key: str | list[str],
    columns: str,
    values: str,
) -> None:
    """By several workers, whatever the key is; also where many rows have the same."""
    postgres.see.execute(f"CREATE TABLE t ({columns}, n int DEFAULT 0)")
    names = key if isinstance(key, str) else ", ".join(key)
    postgres.see.execute(
        f"INSERT INTO t ({names}) SELECT {values} FROM generate_series(1, {COUNT}) g"
    )
    postgres.see.execute(f"CREATE INDEX ON t ({names})")
    row = names if isinstance(key, str) else f"({names})"
    sql = f"UPDATE t SET n = n + 1 WHERE {row} BETWEEN :batch_start AND :batch_end"
    workers = make(sql, table="t", key=key, size=100, parallel=4)
    taken, others = side_by_side(workers, workers=4)
    assert postgres.rows("SELECT n, count(*) FROM t GROUP BY n") == [(1, COUNT)]
    assert (taken.done, taken.total) == (COUNT, COUNT)
    assert any(others), "the others have done something too"
    ends = postgres.rows(
        f"SELECT undo ->> 'last' FROM public.{postgres.settings.namespace}_ranges ORDER BY range"
    )
    assert 2 <= len(ends) <= 4
    assert len(set(ends)) == len(ends)


def test_a_row_that_is_refused(postgres: Any, make: Callable[..., Callable[[], Runner]]) -> None:
    """In whatever range: the error names the range, and what PostgreSQL said."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 0 CHECK (n < 2))")
    postgres.see.execute(
        f"INSERT INTO t SELECT g, (g = 4321)::int FROM generate_series(1, {COUNT}) g"
    )
    sql = "UPDATE t SET n = n + 1 WHERE k BETWEEN :batch_start AND :batch_end"
    with pytest.raises(MigrationFailed, match=r"range 3 of 4: .*violates check constraint"):
        side_by_side(make(sql, table="t", key="k", size=50, parallel=4), workers=4)
    assert postgres.rows("SELECT n FROM t WHERE k = 4321") == [(1,)]
    assert postgres.value("SELECT max(n) FROM t WHERE k <> 4321") == 1


@pytest.mark.parametrize("rows", [0, 1_500])
def test_a_small_table_is_not_cut(
    postgres: Any, make: Callable[..., Callable[[], Runner]], rows: int
) -> None:
    """It is worked through as without `parallel`."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 0)")
    postgres.see.execute(f"INSERT INTO t (k) SELECT g FROM generate_series(1, {rows}) g")
    sql = "UPDATE t SET n = n + 1 WHERE k BETWEEN :batch_start AND :batch_end"
    runner = make(sql, table="t", key="k", parallel=4)()
    assert runner.run().done == rows
    assert postgres.value(f"SELECT count(*) FROM public.{postgres.settings.namespace}_ranges") == 0
    runner.database.close()
