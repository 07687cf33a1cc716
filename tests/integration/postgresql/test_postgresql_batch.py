"""One statement over ranges of a key: every row once, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dharma_tasks.errors import Stopped
from dharma_tasks.runner import MigrationFailed

KIND = "sql_batch"


def test_every_row_once(postgres: Any) -> None:
    """Ranges are as large as told, and their ends are keys that exist."""
    postgres.see.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0, low int, high int);"
        "INSERT INTO t (id) SELECT g * 3 FROM generate_series(1, 1000) g"
    )
    done = postgres.run(
        "-- from :batch_start\nUPDATE t SET n = n + 1, low = :batch_start, high=:batch_end::int\n"
        "WHERE id BETWEEN :batch_start AND :batch_end AND 'it''s :batch_end' <> ''",
        KIND,
        table="t",
        key="id",
        size=300,
    )
    assert done.done == 1000
    assert postgres.rows("SELECT low, high, count(*), sum(n) FROM t GROUP BY 1, 2 ORDER BY 1") == [
        (3, 900, 300, 300),
        (903, 1800, 300, 300),
        (1803, 2700, 300, 300),
        (2703, 3000, 100, 100),
    ]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("smallint", "g"),
        ("bigint", "g * 10000000000"),
        ("numeric(30, 10)", "g / 7.0"),
        ("text", "repeat(chr(64 + g % 60), g % 5) || E'\\'\"\\\\ ü' || g"),
        ("varchar(20)", "'k' || g"),
        ("char(8)", "'k' || g"),
        ('text COLLATE "pg_unicode_fast"', "(ARRAY['a','B','ä','Z','b'])[1 + g % 5] || g"),
        ("uuid", "md5(g::text)::uuid"),
        ("date", "date '1999-12-01' + g"),
        ("timestamptz", "timestamptz '2020-10-25 00:00+00' + g * interval '7 minutes 1.000001 s'"),
        ("timestamp", "timestamp '2020-10-25' + g * interval '7 minutes 1.000001 s'"),
        ("short", "g"),
    ],
)
def test_keys_of_many_types(postgres: Any, kind: str, value: str) -> None:
    """In their own order and collation, whatever the session's format of dates and its zone."""
    name = postgres.see.info.dbname
    postgres.see.execute(
        "CREATE DOMAIN short AS int CHECK (value > 0);"
        f"CREATE TABLE t (k {kind} PRIMARY KEY, n int DEFAULT 0);"
        f"INSERT INTO t (k) SELECT {value} FROM generate_series(1, 500) g;"
        f"ALTER DATABASE {name} SET DateStyle = 'SQL, DMY';"
        f"ALTER DATABASE {name} SET TimeZone = 'Europe/Berlin'"
    )
    postgres.database.close()
    sql = "UPDATE t SET n = n + 1 WHERE k >= :batch_start AND k <= :batch_end"
    done = postgres.run(sql, KIND, table="t", key="k", size=37)
    assert done.done == 500
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_equal_keys_and_missing_ones(postgres: Any, warnings: Callable[[], list[str]]) -> None:
    """A key need not be unique; rows without one are counted and named."""
    postgres.see.execute(
        "CREATE SCHEMA s; CREATE TABLE s.t (k int, n int DEFAULT 0);"
        "CREATE INDEX ON s.t (k, n);"
        "INSERT INTO s.t (k) SELECT g / 10 FROM generate_series(1, 99) g;"
        "INSERT INTO s.t VALUES (NULL), (NULL)"
    )
    sql = "UPDATE s.t SET n = n + 1 WHERE k BETWEEN :batch_start AND :batch_end"
    postgres.run(sql, KIND, table="s.t", key="k", size=7)
    assert postgres.rows("SELECT k IS NULL, n, count(*) FROM s.t GROUP BY 1, 2 ORDER BY 1") == [
        (False, 1, 99),
        (True, 0, 2),
    ]
    assert any(message.startswith("2 rows of s.t") for message in warnings())


def test_an_empty_table(postgres: Any) -> None:
    """There is nothing to do, and it is done."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY)")
    sql = "DELETE FROM t WHERE k BETWEEN :batch_start AND :batch_end"
    assert postgres.run(sql, KIND, table="t", key="k").done == 0


def test_rows_that_come_later_are_not_walked(postgres: Any) -> None:
    """The walk ends at the largest key that was there at the start."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 0)")
    postgres.see.execute("INSERT INTO t (k) SELECT g FROM generate_series(1, 50) g")
    sql = "UPDATE t SET n = n + 1 WHERE k BETWEEN :batch_start AND :batch_end"
    checks = []

    def insert() -> None:
        checks.append(1)
        if len(checks) == 4:
            postgres.see.execute("INSERT INTO t (k) SELECT g FROM generate_series(51, 90) g")

    postgres.control.on_check = insert
    postgres.run(sql, KIND, table="t", key="k", size=10)
    assert postgres.rows("SELECT n, count(*) FROM t GROUP BY 1 ORDER BY 1") == [(0, 40), (1, 50)]


def test_stops_kills_and_new_workers(postgres: Any) -> None:
    """Not one row is missed or met twice, though the walk is cut off again and again."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 0)")
    postgres.see.execute("INSERT INTO t (k) SELECT g FROM generate_series(1, 400) g")
    sql = "UPDATE t SET n = n + 1 WHERE k BETWEEN :batch_start AND :batch_end"
    operation = postgres.operation(sql, KIND, table="t", key="k", size=10)
    assignment = postgres.assignment(KIND)
    checks = []

    def disturb() -> None:
        checks.append(1)
        if len(checks) % 7 == 0:
            raise Stopped
        if len(checks) % 11 == 0:
            pid = postgres.database.resources()["pid"]
            postgres.see.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    postgres.control.on_check = disturb
    while True:
        try:
            done = postgres.runner(operation, assignment).run()
        except Stopped:
            continue
        break
    assert done.done == 400
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(1,)]
    assert postgres.control.waits


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        ({"table": "nothing", "key": "k"}, "there is no table nothing"),
        ({"table": "t", "key": "q"}, "it has k, n, j"),
        ({"table": "t", "key": "n"}, "no btree index"),
        ({"table": "t", "key": "j"}, "jsonb, which cannot be walked"),
    ],
)
def test_what_cannot_be_walked_is_refused(postgres: Any, batch: Any, said: str) -> None:
    """Before anything is changed, with what there is instead."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 0, j jsonb UNIQUE)")
    postgres.see.execute("CREATE INDEX ON t (n) WHERE n > 1; INSERT INTO t VALUES (1)")
    sql = "DELETE FROM t WHERE k BETWEEN :batch_start AND :batch_end"
    with pytest.raises(MigrationFailed, match=said):
        postgres.run(sql, KIND, **batch)
    assert postgres.rows("SELECT n FROM t") == [(0,)]


def test_an_error_says_its_line(postgres: Any) -> None:
    """The marks do not move the places behind them."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY); INSERT INTO t VALUES (1)")
    sql = "DELETE FROM t\nWHERE k BETWEEN :batch_start AND :batch_end\nAND nothing = 1"
    with pytest.raises(MigrationFailed, match=r"line 3 of the \.sql file"):
        postgres.run(sql, KIND, table="t", key="k")
