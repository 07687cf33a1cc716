"""A file that is not one transaction: each statement once, whatever is cut off where."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from dharma_tasks.databases.postgresql import PostgresqlDatabase
from dharma_tasks.errors import LeaseLost, MigrationFailed, OperationFailed
from dharma_tasks.migration import Key
from dharma_tasks.records import MigrationState
from dharma_tasks.work import Work

KIND = "sql_statements"
KEY = Key(database="postgresql", version="1.0.0", number=1)


def cut_off(postgres: Any) -> str:
    """SQL that waits for ever in this server process, and not at all in the next one."""
    pid = postgres.database.resources()["pid"]
    return f"pg_sleep(CASE WHEN pg_backend_pid() = {pid} THEN 60 ELSE 0 END)"


def cut_when_asleep(postgres: Any) -> Any:
    """End the server process in its sleep."""
    return postgres.kill_when("wait_event = 'PgSleep' AND state = 'active'")


def state(postgres: Any, index: str) -> Any:
    """Whether the index is valid; None where there is none."""
    rows = postgres.rows(
        f"SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{index}')"
    )
    return rows[0][0] if rows else None


def test_every_kind_of_statement(postgres: Any) -> None:
    """Statements, settings, a block, and those that refuse transactions, in one file."""
    done = postgres.run(
        "CREATE TABLE t (a int, b text);\n"
        "INSERT INTO t SELECT g, 'x' FROM generate_series(1, 100) g;\n"
        "SET my.own = '100 %';\n"
        "CREATE INDEX CONCURRENTLY t_b ON t (lower(b)) WHERE b <> 'ü';\n"
        "VACUUM (ANALYZE) t;\n"
        "BEGIN ISOLATION LEVEL SERIALIZABLE;\n"
        "  CREATE TABLE seen AS SELECT current_setting('transaction_isolation') AS level,\n"
        "    current_setting('my.own') AS own;\n"
        "  SAVEPOINT s; DELETE FROM t; ROLLBACK TO s;\n"
        "COMMIT;\n"
        "REINDEX TABLE CONCURRENTLY t;\n"
        "CREATE INDEX CONCURRENTLY t_a ON t (a);\n"
        "DROP INDEX CONCURRENTLY t_a;\n"
        "ALTER SYSTEM RESET work_mem;\n"
        "CLUSTER",
        KIND,
    )
    assert (done.done, done.total) == (11, 11)
    assert postgres.rows("SELECT * FROM seen") == [("serializable", "100 %")]
    assert postgres.value("SELECT count(*) FROM t") == 100
    assert (state(postgres, "t_b"), state(postgres, "t_a")) == (True, None)
    assert postgres.record().state is MigrationState.APPLIED
    assert postgres.control.confirmed == 7


def test_a_statement_that_is_cut_off_runs_once(postgres: Any) -> None:
    """A bare UPDATE has its checkpoint in its own transaction (FAULTS 12)."""
    postgres.see.execute("CREATE TABLE t AS SELECT g AS id, 0 AS n FROM generate_series(1, 500) g")
    killer = cut_when_asleep(postgres)
    postgres.run(
        "UPDATE t SET n = n + 1;"
        f"UPDATE t SET n = n + 1 + (CASE WHEN id = 500 THEN 0 * length({cut_off(postgres)}::text)"
        " ELSE 0 END); UPDATE t SET n = n + 1",
        KIND,
    )
    killer.join()
    assert postgres.rows("SELECT DISTINCT n FROM t") == [(3,)]


@pytest.mark.parametrize(
    "setting",
    [
        "SET my.own = 'yes'",
        "SELECT pg_catalog.set_config('my.own', 'yes', false)",
        "BEGIN; SET my.own = 'yes'; COMMIT",
        "SET SESSION my.own TO 'no'; RESET my.own; SET my.own = 'yes'",
    ],
)
@pytest.mark.parametrize("begin", ["", "BEGIN ISOLATION LEVEL SERIALIZABLE;"])
def test_settings_are_replayed(postgres: Any, setting: str, begin: str) -> None:
    """What goes on in another session runs under the settings of the file (FAULTS 15)."""
    killer = cut_when_asleep(postgres)
    postgres.run(
        f"{setting}; SET LOCAL my.own = 'local'; {begin} CREATE TABLE seen AS"
        f" SELECT current_setting('my.own', true) AS own, {cut_off(postgres)}::text AS nothing,"
        " current_setting('transaction_isolation') AS level;" + ("COMMIT" if begin else ""),
        KIND,
    )
    killer.join()
    level = "serializable" if begin else "read committed"
    assert postgres.rows("SELECT own, level FROM seen") == [("yes", level)]


def test_a_role_lasts_for_the_file_and_not_for_the_journal(postgres: Any) -> None:
    """Each checkpoint is written as the worker's own user, and the next statement is not."""
    role = f"{postgres.settings.namespace}_role"
    postgres.see.execute(f"CREATE ROLE {role}; CREATE SCHEMA s AUTHORIZATION {role}")
    try:
        postgres.run(
            f"SET ROLE {role}; SET search_path = s; CREATE TABLE one (a int);"
            "CREATE INDEX CONCURRENTLY one_a ON one (a); CREATE TABLE two (a int)",
            KIND,
        )
        owners = postgres.rows("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 's'")
        assert owners == [(role,)]
        assert state(postgres, "s.one_a") is True
    finally:
        postgres.see.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_failing_statement_says_its_line(postgres: Any) -> None:
    """What ran before it is kept and the journal says so: the next run goes on from there."""
    with pytest.raises(MigrationFailed, match=r"line 4 of the \.sql file"):
        postgres.run(
            "CREATE TABLE t (a int);\nBEGIN;\n  SELECT 1;\n  SELECT b FROM t;\nCOMMIT", KIND
        )
    record = postgres.record()
    assert record.state is MigrationState.FAILED
    assert record.operations[0].done == 1
    assert postgres.value("SELECT count(*) FROM t") == 0


# --- indexes ---


def test_concurrently_waits_as_long_as_it_takes(postgres: Any) -> None:
    """Nobody queues behind it, so no limit on locks throws its work away; the file's own does."""
    postgres.see.execute("CREATE TABLE t (a int)")
    with psycopg.connect(postgres.url) as holder:
        holder.execute("INSERT INTO t VALUES (1)")
        build = "CREATE INDEX CONCURRENTLY t_a ON t (a)"
        done = postgres.in_background(lambda: postgres.run(build, KIND))
        postgres.wait_for(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND now() - query_start > '0.8 s'"
        )
        assert postgres.control.waits == []
        holder.commit()
        done.result(15)
        holder.execute("INSERT INTO t VALUES (1)")
        build = "CREATE INDEX CONCURRENTLY t_b ON t (a)"
        limited = postgres.in_background(
            lambda: postgres.run(f"SET lock_timeout = 50; {build}", KIND)
        )
        end = time.monotonic() + 15
        while not postgres.control.waits:
            assert time.monotonic() < end
            time.sleep(0.01)
    limited.result(15)
    assert (state(postgres, "t_a"), state(postgres, "t_b")) == (True, True)


def test_an_index_that_is_left_invalid_is_built_again(
    postgres: Any, warnings: Callable[[], list[str]]
) -> None:
    """What a crash has left is dropped, and the index made (DESIGN, PostgreSQL)."""
    postgres.see.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        postgres.see.execute("CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)")
    assert state(postgres, "t_a") is False
    postgres.see.execute("DELETE FROM t")
    postgres.run("CREATE UNIQUE INDEX CONCURRENTLY t_a ON public.t (a)", KIND)
    assert state(postgres, "t_a") is True
    assert any("INVALID" in message for message in warnings())


def test_a_build_that_is_cut_off_is_done_again(postgres: Any) -> None:
    """The server process ends while it waits for others' transactions: INVALID until then."""
    postgres.see.execute("CREATE TABLE t (a int)")
    with psycopg.connect(postgres.url) as holder:
        holder.execute("INSERT INTO t VALUES (1)")
        done = postgres.in_background(
            lambda: postgres.run("CREATE INDEX CONCURRENTLY t_a ON t (a)", KIND)
        )
        postgres.wait_for(
            "SELECT count(*) > 0 FROM pg_index WHERE indexrelid = to_regclass('t_a')"
            " AND NOT indisvalid"
        )
        postgres.kill_when("query LIKE 'CREATE INDEX CONC%'").join()
    done.result(15)
    assert state(postgres, "t_a") is True


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX CONCURRENTLY i ON t (a, lower(b) DESC) INCLUDE (c) WHERE c > 1 AND b = 'x'",
        "create unique index concurrently if not exists i on public.t using btree (a)",
        "CREATE INDEX CONCURRENTLY i ON t USING gin (to_tsvector('simple', b))",
        'CREATE INDEX CONCURRENTLY i ON t (b text_pattern_ops, d COLLATE "C") WITH (fillfactor=70)',
    ],
)
def test_an_equal_index_is_accepted(
    postgres: Any, warnings: Callable[[], list[str]], statement: str
) -> None:
    """By what it is, not by how it is written; with a warning, for it was not made here."""
    postgres.see.execute("CREATE TABLE t (a int, b text, c bigint, d varchar(3))")
    postgres.see.execute(statement.replace("CONCURRENTLY", "").replace("concurrently", ""))
    before = postgres.value("SELECT to_regclass('i')::oid")
    postgres.run(statement, KIND)
    assert postgres.value("SELECT to_regclass('i')::oid") == before
    assert any("is there already" in message for message in warnings())
    assert postgres.control.confirmed == 0


@pytest.mark.parametrize(
    "existing",
    [
        "CREATE INDEX i ON t (b)",
        "CREATE UNIQUE INDEX i ON t (a)",
        "CREATE INDEX i ON t (a) WHERE a > 0",
        "CREATE INDEX i ON other (a)",
        "CREATE TABLE i (a int)",
    ],
)
def test_a_different_index_is_refused(postgres: Any, existing: str) -> None:
    """Showing both; nothing is changed."""
    postgres.see.execute("CREATE TABLE t (a int, b int); CREATE TABLE other (a int)")
    postgres.see.execute(existing)
    with pytest.raises(MigrationFailed, match="is different") as caught:
        postgres.run("CREATE INDEX CONCURRENTLY i ON t (a)", KIND)
    assert "wanted: CREATE INDEX i ON" in str(caught.value)
    assert postgres.record().state is not MigrationState.APPLIED
    postgres.see.execute("SELECT 'i'::regclass")


def test_a_unique_index_that_fails_is_taken_away(postgres: Any) -> None:
    """Left INVALID it would go on refusing writes."""
    postgres.see.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")
    with pytest.raises(MigrationFailed, match="23505"):
        postgres.run("CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)", KIND)
    assert state(postgres, "t_a") is None


def test_dropping_what_never_was_is_an_error(postgres: Any) -> None:
    """A typo is the usual reason, so it lists what there is; IF EXISTS allows it."""
    postgres.see.execute("CREATE TABLE t (a int); CREATE INDEX right_name ON t (a)")
    with pytest.raises(MigrationFailed, match="right_name"):
        postgres.run("DROP INDEX CONCURRENTLY wrong_name", KIND)
    postgres.run("DROP INDEX CONCURRENTLY IF EXISTS wrong_name", KIND)
    assert postgres.record().state is MigrationState.APPLIED


def test_a_drop_aims_at_what_was_recorded(postgres: Any, warnings: Callable[[], list[str]]) -> None:
    """A late or repeated drop accepts its own effect and leaves a newer index (FAULTS 10)."""
    postgres.see.execute("CREATE TABLE t (a int); CREATE INDEX i ON t (a)")
    operation = postgres.operation("DROP INDEX CONCURRENTLY i", KIND)
    handle, messages = postgres.database.handle, []

    def work(cursor: Any) -> Work[Any]:
        return Work(handle, cursor, {}, 1, "label", KEY, lambda: None, messages.append)

    cursor = operation.step(work(None)).cursor
    assert operation.transactional(None)
    assert not operation.transactional(cursor)
    postgres.see.execute("DROP INDEX i")
    assert operation.step(work(cursor)).finished
    postgres.see.execute("CREATE INDEX i ON t (a)")
    assert operation.step(work(cursor)).finished
    assert state(postgres, "i") is True
    assert "made after" in messages[0]


def test_a_lost_lease_stops_before_the_statement(postgres: Any, other: PostgresqlDatabase) -> None:
    """The lease is confirmed just before what no transaction protects (Law 4)."""
    postgres.see.execute("CREATE TABLE t (a int)")

    def lost() -> None:
        raise LeaseLost

    postgres.control.on_confirm = lost
    with pytest.raises(LeaseLost):
        postgres.run("CREATE INDEX CONCURRENTLY t_a ON t (a)", KIND)
    assert state(postgres, "t_a") is None


def test_what_a_reindex_has_left_is_dropped(
    postgres: Any, warnings: Callable[[], list[str]]
) -> None:
    """REINDEX CONCURRENTLY that is cut off leaves INVALID *_ccnew; see its manual."""
    postgres.see.execute("CREATE TABLE t (a int); CREATE INDEX t_a ON t (a)")
    with (
        psycopg.connect(postgres.url) as holder,
        psycopg.connect(postgres.url, autocommit=True) as victim,
    ):
        holder.execute("INSERT INTO t VALUES (1)")
        cut = postgres.in_background(lambda: victim.execute("REINDEX TABLE CONCURRENTLY t"))
        postgres.wait_for("SELECT to_regclass('t_a_ccnew') IS NOT NULL")
        postgres.see.execute("SELECT pg_terminate_backend(%s)", [victim.info.backend_pid])
        with pytest.raises(psycopg.OperationalError):
            cut.result(15)
    assert state(postgres, "t_a_ccnew") is False
    postgres.run("REINDEX INDEX CONCURRENTLY t_a", KIND)
    assert state(postgres, "t_a_ccnew") is None
    assert state(postgres, "t_a") is True
    assert any("t_a_ccnew" in message for message in warnings())


def test_looking_changes_nothing(postgres: Any) -> None:
    """The copy on which a definition is tried is gone, and the table is as it was."""
    postgres.see.execute("CREATE TABLE t (a int); CREATE INDEX i ON t (a)")
    operation = postgres.operation("CREATE INDEX CONCURRENTLY i ON t (a DESC)", KIND)
    handle = postgres.database.handle
    handle.begin()
    with pytest.raises(OperationFailed):
        operation.step(Work(handle, None, {}, 1, "label", KEY, lambda: None))
    tables = "SELECT count(*) FROM pg_class WHERE relname = 't'"
    assert handle.query(tables) == [(1,)]
    handle.rollback()
