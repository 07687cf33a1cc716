"""One statement over ranges of a key: every row once, whatever happens in between."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count
from typing import Any

import psycopg
import pytest

from dharma_tasks.errors import MigrationFailed, Stopped

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


def test_a_conflict_makes_ranges_smaller(postgres: Any) -> None:
    """Also where the file says how large they are at first."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 0, high int)")
    postgres.see.execute("INSERT INTO t (k) SELECT g FROM generate_series(1, 400) g")
    sql = "UPDATE t SET n = n + 1, high = :batch_end WHERE k BETWEEN :batch_start AND :batch_end"
    with psycopg.connect(postgres.url) as holder:
        holder.execute("UPDATE t SET n = 0 WHERE k = 350")
        work = postgres.in_background(lambda: postgres.run(sql, KIND, table="t", key="k", size=400))
        postgres.wait_for("SELECT count(*) > 100 FROM t WHERE n = 1")
    assert work.result(15).done == 400
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(1,)]
    assert postgres.value("SELECT min(high) FROM t") <= 200


def test_it_keeps_to_a_rate(postgres: Any) -> None:
    """400 rows at 200 a second: what has to be waited for is all but the last range."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 0)")
    postgres.see.execute("INSERT INTO t (k) SELECT g FROM generate_series(1, 400) g")
    sql = "UPDATE t SET n = n + 1 WHERE k BETWEEN :batch_start AND :batch_end"
    pace = {"throttle": 200, "batch": {"seconds": 0.5}}
    begun = time.monotonic()
    assert postgres.run(sql, KIND, table="t", key="k", **pace).done == 400
    assert 1.5 <= time.monotonic() - begun < 10
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(1,)]


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


def test_keys_of_several_columns(postgres: Any, warnings: Callable[[], list[str]]) -> None:
    """Compared as rows, in the order of their index; the last column need not be unique."""
    postgres.see.execute(
        "CREATE TABLE t (day date NOT NULL, org text NOT NULL, id uuid NOT NULL, n int DEFAULT 0);"
        "CREATE INDEX ON t (org, day, id, n);"
        "INSERT INTO t SELECT date '2024-01-01' + g % 5, repeat('ü', g % 7) || E'\\'', "
        " md5((g / 2)::text)::uuid FROM generate_series(1, 500) g"
    )
    sql = (
        "UPDATE t SET n = n + 1\n"
        "WHERE (org, day, id) BETWEEN :batch_start AND :batch_end AND day IS NOT NULL"
    )
    done = postgres.run(sql, KIND, table="t", key=["org", "day", "id"], size=7)
    assert done.done == 500
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(1,)]
    assert warnings() == []


def test_stops_in_a_key_of_several_columns(postgres: Any) -> None:
    """Another worker goes on from the row that the journal names, also where it is deleted."""
    postgres.see.execute(
        "CREATE TABLE t (org int, id bigint, n int DEFAULT 0, PRIMARY KEY (org, id));"
        "INSERT INTO t SELECT g % 3, g * g FROM generate_series(1, 400) g"
    )
    sql = "UPDATE t SET n = n + 1 WHERE (org, id) BETWEEN :batch_start AND :batch_end"
    operation = postgres.operation(sql, KIND, table="t", key=["org", "id"], size=10)
    assignment = postgres.assignment(KIND)
    checks = []

    def disturb() -> None:
        checks.append(1)
        if len(checks) % 4 == 0:
            reached = postgres.value("SELECT max((org, id)) FROM t WHERE n = 1") or "(0,0)"
            postgres.see.execute("DELETE FROM t WHERE (org, id)::text = %s", [str(reached)])
            raise Stopped

    postgres.control.on_check = disturb
    while True:
        try:
            postgres.runner(operation, assignment).run()
        except Stopped:
            continue
        break
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(1,)]


def test_a_table_that_is_written_all_the_while(postgres: Any) -> None:
    """What is there from beginning to end is met once, and no write of others is lost."""
    postgres.see.execute(
        "CREATE TABLE t (org int, id int, n int DEFAULT 0, hot int DEFAULT 0);"
        "ALTER TABLE t ADD PRIMARY KEY (org, id);"
        "INSERT INTO t SELECT g % 9, g FROM generate_series(1, 2000) g"
    )
    over = threading.Event()

    def write() -> int:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            for number in count():
                if over.is_set():
                    return number
                place = number * 7919 % 1000 * 2 + 2
                connection.execute("UPDATE t SET hot = hot + 1 WHERE id = %s", [place])
                connection.execute("DELETE FROM t WHERE id = %s", [place + 1])
                connection.execute("INSERT INTO t VALUES (%s, %s)", [number % 9, number + 9000])
        raise AssertionError

    writer = postgres.in_background(write)
    sql = "UPDATE t SET n = n + 1 WHERE (org, id) BETWEEN :batch_start AND :batch_end"
    try:
        postgres.wait_for("SELECT count(*) > 20 FROM t WHERE id > 9000")
        postgres.run(sql, KIND, table="t", key=["org", "id"], size=20)
    finally:
        over.set()
    written = writer.result(15)
    stayed = "FROM t WHERE id <= 2000 AND id % 2 = 0"
    assert postgres.rows(f"SELECT count(*), min(n), max(n), sum(hot) {stayed}") == [
        (1000, 1, 1, written)
    ]
    assert postgres.value("SELECT max(n) FROM t") == 1


def test_a_key_that_very_many_rows_have(
    postgres: Any, warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are one transaction: many are warned of, too many are refused, with the numbers."""
    monkeypatch.setattr("dharma_tasks.operations.postgresql.keys.LARGEST", 50)
    monkeypatch.setattr("dharma_tasks.operations.postgresql.keys._TOO_MANY", 500)
    postgres.see.execute("CREATE TABLE t (id serial PRIMARY KEY, org int, n int DEFAULT 0)")
    postgres.see.execute("CREATE INDEX ON t (org, id)")
    fill = "INSERT INTO t (org) SELECT greatest(101 - g, 7) FROM generate_series(1, %s) g"
    postgres.see.execute(fill, [199])
    sql = "UPDATE t SET n = n + 1 WHERE org BETWEEN :batch_start AND :batch_end"
    assert postgres.run(sql, KIND, table="t", key="org", size=10).done == 199
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(1,)]
    assert "106 rows of public.t have the same org, 7:" in warnings()[0]
    postgres.see.execute(fill, [599])
    with pytest.raises(MigrationFailed, match=r'612 rows .* the same org, 7: .*"key": \["org"'):
        postgres.run(sql, KIND, table="t", key="org")
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(0,), (1,)]
    both = "UPDATE t SET n = n + 1 WHERE (org, id) BETWEEN :batch_start AND :batch_end"
    assert postgres.run(both, KIND, table="t", key=["org", "id"]).done == 798


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
        ({"table": "t", "key": "q"}, "it has k, n, j, m"),
        ({"table": "t", "key": "n"}, "no btree index"),
        ({"table": "t", "key": ["m", "k"]}, r"t\.\(m, k\) has no btree index"),
        ({"table": "t", "key": ["k", "q"]}, "it has k, n, j, m"),
        ({"table": "t", "key": ["k", "n"]}, r"1 rows of t have no \(k, n\)"),
        ({"table": "t", "key": "j"}, "jsonb, which cannot be walked"),
    ],
)
def test_what_cannot_be_walked_is_refused(postgres: Any, batch: Any, said: str) -> None:
    """Before anything is changed, with what there is instead."""
    postgres.see.execute(
        "CREATE TABLE t (k int PRIMARY KEY, n int DEFAULT 0, j jsonb UNIQUE, m int);"
        "CREATE INDEX ON t (n) WHERE n > 1; INSERT INTO t VALUES (1, 0), (2, NULL);"
        "CREATE INDEX ON t (m, k DESC); CREATE INDEX ON t (k, n)"
    )
    sql = "DELETE FROM t WHERE k BETWEEN :batch_start AND :batch_end"
    with pytest.raises(MigrationFailed, match=said):
        postgres.run(sql, KIND, **batch)
    assert postgres.rows("SELECT n FROM t ORDER BY k") == [(0,), (None,)]


def test_an_error_says_its_line(postgres: Any) -> None:
    """The marks do not move the places behind them."""
    postgres.see.execute("CREATE TABLE t (k int PRIMARY KEY); INSERT INTO t VALUES (1)")
    sql = "DELETE FROM t\nWHERE k BETWEEN :batch_start AND :batch_end\nAND nothing = 1"
    with pytest.raises(MigrationFailed, match=r"line 3 of the \.sql file"):
        postgres.run(sql, KIND, table="t", key="k")
