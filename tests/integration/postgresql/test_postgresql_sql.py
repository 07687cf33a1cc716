"""A transactional file: its text, its session, its errors, and exactly once."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.postgresql import PostgresqlDatabase
from dharma_tasks.errors import FenceLost, MigrationFailed, Refused
from dharma_tasks.migration import Key
from dharma_tasks.records import MigrationState, OperationState, Owner
from dharma_tasks.work import Step


def test_text_runs_byte_for_byte(postgres: Any) -> None:
    """Percent and question marks, escapes, dollar quotes, line ends and no last semicolon."""
    postgres.run(
        "-- 100 % of ? and %s\r\n"
        "CREATE TABLE t (id int, a text);\n"
        "INSERT INTO t VALUES (1, '%s ? %% :batch_start'), (2, E'a\\tb\\'c'), (3, 'ü\r\n€'),\n"
        "  (4, $x$it's; -- $1 %(a)s$x$);;\n"
        "CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN 7 % 4; END $$;\n"
        "INSERT INTO t SELECT 5, ('{\"k\": 1}'::jsonb ? 'k')::text"
    )
    assert postgres.rows("SELECT a FROM t ORDER BY id") == [
        ("%s ? %% :batch_start",),
        ("a\tb'c",),
        ("ü\r\n€",),
        ("it's; -- $1 %(a)s",),
        ("true",),
    ]
    assert postgres.value("SELECT f()") == 3


@pytest.mark.parametrize(
    "first",
    [
        "SELECT pg_catalog.set_config('search_path', '', false);",
        "SET search_path = '';",
        "SET ROLE {role};",
        "SET LOCAL ROLE {role};",
        "SET SESSION AUTHORIZATION {role};",
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;",
        "SET client_encoding = 'LATIN1';",
        "SET standard_conforming_strings = off; SET DateStyle = 'SQL, DMY';",
        "SET CONSTRAINTS ALL DEFERRED; SET row_security = off; SET timezone = 'Asia/Tokyo';",
        "SAVEPOINT one; CREATE TABLE public.no (a int); ROLLBACK TO one; RELEASE one;",
        "PREPARE p AS SELECT 1; EXECUTE p; DEALLOCATE ALL;",
    ],
)
def test_the_journal_is_written_whatever_the_file_sets(postgres: Any, first: str) -> None:
    """The write comes after the file, in its transaction, under names and a role of its own."""
    role = f"{postgres.settings.namespace}_role"
    postgres.see.execute(f"CREATE ROLE {role}")
    try:
        postgres.see.execute(f"CREATE SCHEMA s AUTHORIZATION {role}")
        postgres.run(first.format(role=role) + " CREATE TABLE s.t (a int);")
        assert postgres.record().state is MigrationState.APPLIED
        assert postgres.value("SELECT count(*) FROM s.t") == 0
        postgres.run("CREATE TABLE after (a int)")
        assert postgres.value("SELECT tableowner FROM pg_tables WHERE tablename = 'after'") != role
    finally:
        postgres.see.execute(f"DROP OWNED BY {role} CASCADE; DROP ROLE {role}")


def test_a_file_may_set_the_isolation_of_its_transaction(postgres: Any) -> None:
    """Nothing goes before the file inside its transaction (FAULTS 14)."""
    postgres.run(
        "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE;"
        "CREATE TABLE seen AS SELECT current_setting('transaction_isolation') AS level"
    )
    assert postgres.value("SELECT level FROM seen") == "serializable"


def test_each_migration_has_a_clean_session(postgres: Any) -> None:
    """Settings, temporary objects, cursors, locks and prepared statements are gone."""
    postgres.run(
        "SET search_path = pg_temp; CREATE TEMPORARY TABLE left_over (a int);"
        "SET my.own = 'x'; SELECT pg_advisory_lock(42); LISTEN bell; PREPARE p AS SELECT 1;"
        "SET statement_timeout = 1000"
    )
    postgres.run(
        "PREPARE p AS SELECT 2;"
        "CREATE TABLE found AS SELECT current_setting('search_path') AS path,"
        " current_setting('my.own', true) AS own, to_regclass('left_over') AS temporary,"
        " current_setting('statement_timeout') AS timeout, current_setting('lock_timeout') AS lock"
    )
    row = postgres.rows("SELECT * FROM found")[0]
    assert row == ('"$user", public', row[1], None, "0", "500ms")
    assert not row[1]
    assert postgres.value("SELECT pg_try_advisory_lock(42)")


@pytest.mark.parametrize("text", ["", "-- only\n/* comments ; */\n", ";;"])
def test_a_file_without_statements_is_applied(
    postgres: Any, warnings: Callable[[], list[str]], text: str
) -> None:
    """With a warning: such files occur in real projects."""
    postgres.run(text)
    assert postgres.record().state is MigrationState.APPLIED
    assert any("no statement" in message for message in warnings())


def test_a_failing_file_leaves_nothing_but_its_error(postgres: Any) -> None:
    """The server's message, its code and the line of the file; the migration can run again."""
    with pytest.raises(MigrationFailed) as caught:
        postgres.run("CREATE TABLE t (a int);\n\nINSERT INTO t\n  SELECT b FROM t;")
    for part in ("42703", 'column "b" does not exist', "line 4 of the .sql file"):
        assert part in str(caught.value)
    assert postgres.value("SELECT to_regclass('t')") is None
    record = postgres.record()
    assert record.state is MigrationState.ROLLED_BACK
    assert 'column "b" does not exist' in (record.error or "")
    postgres.run("CREATE TABLE t (a int)")
    assert postgres.record().state is MigrationState.APPLIED


def test_an_error_without_a_position_says_its_statement(postgres: Any) -> None:
    """A violated constraint has no position; the line is that of the statement, with details."""
    sql = "CREATE TABLE t (a int PRIMARY KEY);\n-- é\nSELECT 1;\nINSERT INTO t\nVALUES (1), (1);"
    with pytest.raises(MigrationFailed, match=r"line 4 of the \.sql file") as caught:
        postgres.run(sql)
    assert "DETAIL: Key (a)=(1) already exists." in str(caught.value)


def test_the_servers_warnings_are_logged(postgres: Any, warnings: Callable[[], list[str]]) -> None:
    """What the server warns of in its answer reaches the log."""
    postgres.run("DO $$ BEGIN RAISE WARNING 'mind %', 'the gap'; END $$")
    assert "mind the gap" in warnings()


def test_names_with_dashes_and_dots(postgres: Any) -> None:
    """Objects and migrations may be named so."""
    postgres.run('CREATE TABLE "a-b.c" ("d-e.f" int)')
    assert postgres.value('SELECT count(*) FROM public."a-b.c"') == 0
    assert postgres.record().name == "name-1.x"


# --- crashes ---


def test_the_server_process_dies_in_the_middle(postgres: Any) -> None:
    """The work is taken up again by itself, and is there once (Law 3)."""
    postgres.see.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (0)")
    killer = postgres.kill_when("query LIKE '%pg_sleep(%' AND state = 'active'")
    postgres.run(
        "UPDATE t SET a = a + 1;"
        f"SELECT pg_sleep(CASE WHEN pg_backend_pid() = {_pid(postgres)} THEN 15 ELSE 0 END)"
    )
    killer.join()
    assert postgres.value("SELECT a FROM t") == 1
    record = postgres.record()
    assert record.state is MigrationState.APPLIED
    assert any("57P01" in text for text in postgres.control.waits)


def _pid(postgres: Any) -> int:
    return int(postgres.database.resources()["pid"])


def test_a_frozen_owner_is_freed(postgres: Any, other: PostgresqlDatabase) -> None:
    """A client that holds a transaction open does not stop its successor (FAULTS 13)."""
    postgres.see.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (0)")
    operation = postgres.operation("ALTER TABLE t ADD b int; UPDATE t SET a = a + 1")
    assignment = postgres.assignment("sql")
    taken = other.journal.take(assignment, _owner(other), counted=True)
    inside, wake = threading.Event(), threading.Event()

    def frozen(session: Any) -> Step:
        session.run(b"ALTER TABLE t ADD b int; UPDATE t SET a = a + 1")
        inside.set()
        wake.wait(15)
        return Step(cursor=None, finished=True)

    late: Future[Any] = postgres.in_background(
        lambda: other.journal.step(taken, frozen, transactional=True)
    )
    assert inside.wait(15)
    postgres.runner(operation, assignment).run()
    assert postgres.control.waits == []
    wake.set()
    with pytest.raises(psycopg.OperationalError):
        late.result(15)
    assert postgres.value("SELECT a FROM t") == 1


def _owner(database: PostgresqlDatabase) -> Any:
    from dharma_tasks.journal import Owner

    resources = database.resources()
    return Owner(worker="w", node="n", boot="b", pid=1, started=1.0, resources=resources)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_late_owner_commits_nothing(postgres: Any, other: PostgresqlDatabase, level: str) -> None:
    """Work done under an older fence is undone with its checkpoint, at every isolation level."""
    postgres.see.execute("CREATE TABLE t (a int)")
    assignment = postgres.assignment("sql")
    mine = postgres.database.journal.take(assignment, postgres.owner(), counted=True)

    def batch(session: Any) -> Step:
        session.run(f"SET TRANSACTION ISOLATION LEVEL {level}; INSERT INTO t VALUES (1)".encode())
        other.journal.take(assignment, _owner(other), counted=True)
        return Step(cursor=None, finished=True)

    with pytest.raises(FenceLost):
        postgres.database.journal.step(mine, batch, transactional=True)
    assert postgres.value("SELECT count(*) FROM t") == 0
    assert postgres.record().state is MigrationState.RUNNING


def test_any_error_of_a_batch_undoes_it(postgres: Any) -> None:
    """Also one that has nothing to do with the database; the session can be used after it."""
    postgres.see.execute("CREATE TABLE t (a int)")
    taken = postgres.database.journal.take(
        postgres.assignment("sql"), postgres.owner(), counted=True
    )

    def batch(session: Any) -> Step:
        session.run(b"INSERT INTO t VALUES (1)")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        postgres.database.journal.step(taken, batch, transactional=True)
    assert postgres.value("SELECT count(*) FROM t") == 0
    step = postgres.database.journal.step(
        taken, lambda _session: Step(cursor=1), transactional=True
    )
    assert step.cursor == 1


def test_a_new_connection_needs_a_new_fence(postgres: Any) -> None:
    """Nothing is done by a server process that the journal does not name (Law 4)."""
    taken = postgres.database.journal.take(
        postgres.assignment("sql"), postgres.owner(), counted=True
    )
    postgres.database.close()
    with pytest.raises(psycopg.Error) as caught:
        postgres.database.journal.step(taken, lambda _s: Step(cursor=1), transactional=True)
    assert postgres.database.classify(caught.value) is Fault.PASSING


def test_begin_ends_a_worker_that_hangs_in_its_checkpoint(
    postgres: Any, other: PostgresqlDatabase
) -> None:
    """A new run does not wait for the lock of a frozen worker of the old one."""
    from dharma_tasks.journal import Direction, Opening

    taken = other.journal.take(postgres.assignment("sql"), _owner(other), counted=True)
    session = other.handle
    session.begin()
    other.journal._checkpoint(taken, Step(cursor=1))
    opening = Opening(run="next", direction=Direction.FORWARD, plan="p", by="me")
    assert postgres.database.journal.begin(opening, postgres.generation) == 2
    with pytest.raises(psycopg.OperationalError):
        session.commit()


def test_waiting_for_a_lock_is_given_up_and_tried_again(postgres: Any) -> None:
    """A DDL that waits lets the traffic behind it pass (DESIGN, PostgreSQL)."""
    postgres.see.execute("CREATE TABLE t (a int)")
    with psycopg.connect(postgres.url) as holder:
        holder.execute("SELECT * FROM t")
        done = postgres.in_background(lambda: postgres.run("ALTER TABLE t ADD b int"))
        postgres.wait_for(
            f"SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            f" AND application_name = 'dharma:{postgres.settings.namespace}'"
        )
        _until(lambda: postgres.control.waits)
    assert done.result(15).state is OperationState.DONE
    assert "55P03" in postgres.control.waits[0]


def _until(condition: Callable[[], Any]) -> None:
    import time

    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- signs of life ---


def test_a_long_statement_gives_signs_of_life(postgres: Any) -> None:
    """While the server works; a client that does nothing gives none (Law 8)."""
    postgres.run("SELECT pg_sleep(2.3)")
    assert 1 <= postgres.control.signs <= 3
    before = postgres.control.signs
    waiting = threading.Event()
    with postgres.database.watched(postgres.control.alive):
        postgres.database.handle.begin()
        waiting.wait(2.3)
    postgres.database.handle.rollback()
    assert postgres.control.signs == before


def test_an_index_shows_how_far_it_is(postgres: Any) -> None:
    """As the server counts it, while it is built."""
    postgres.see.execute(
        "CREATE TABLE t (k int) WITH (fillfactor = 10);"
        "INSERT INTO t SELECT g FROM generate_series(1, 1500) g;"
        "CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.002); RETURN $1; END'"
    )
    postgres.run("CREATE INDEX CONCURRENTLY i ON t (slow(k))", "sql_statements")
    blocks = postgres.value("SELECT pg_relation_size('t') / 8192")
    assert postgres.control.seen
    assert {each.total for each in postgres.control.seen} == {blocks}
    assert 0 < max(each.done for each in postgres.control.seen) <= blocks


# --- reading ---


def test_a_survey_of_a_thousand_migrations_is_quick(postgres: Any) -> None:
    """`status` and planning stay well below a second."""
    import time

    assignment = postgres.assignment("sql")
    postgres.database.journal.take(assignment, postgres.owner(), counted=True)
    namespace = postgres.settings.namespace
    for table, columns in (
        ("migrations", "name, state, checksum, count, run, by, started"),
        ("operations", "number, type, state, fence, updated"),
    ):
        postgres.see.execute(
            f"INSERT INTO {namespace}_{table} (version, {columns}) SELECT '2.0.' || g, {columns}"
            f" FROM {namespace}_{table}, generate_series(1, 1000) g"
        )
    begun = time.monotonic()
    survey = postgres.database.journal.survey()
    assert time.monotonic() - begun < 0.5
    assert len(survey.migrations) == 1001
    assert all(len(record.operations) == 1 for record in survey.migrations)


def test_errors_are_told_apart(postgres: Any) -> None:
    """By SQLSTATE; a connection that is gone or refused passes (Law 10)."""
    database = postgres.database
    unreachable = psycopg.OperationalError("connection refused")
    assert database.classify(unreachable) is Fault.PASSING
    assert database.classify(psycopg.InterfaceError("closed")) is Fault.PASSING
    assert database.classify(psycopg.errors.SerializationFailure()) is Fault.CONFLICT
    assert database.classify(psycopg.errors.DeadlockDetected()) is Fault.CONFLICT
    assert database.classify(psycopg.errors.LockNotAvailable()) is Fault.CONFLICT
    assert database.classify(ValueError("no")) is Fault.LASTING
    with pytest.raises(psycopg.Error) as caught:
        postgres.see.execute("SELECT 1 / 0")
    assert database.classify(caught.value) is Fault.LASTING
    assert database.describe(caught.value) == "ERROR 22012: division by zero"


def test_an_url_that_cannot_be_read_is_not_shown(postgres: Any) -> None:
    """Libpq quotes what it cannot read, and that may be the password."""
    url = SecretStr("postgresql://user:hush%zz@host/db")
    broken = PostgresqlDatabase(postgres.settings.model_copy(update={"postgresql_url": url}))
    with pytest.raises(Refused, match="DHARMA_POSTGRESQL_URL") as caught:
        broken.resources()
    assert "hush" not in "".join(traceback.format_exception(caught.value))


def test_a_worker_whose_role_works_as_another(postgres: Any) -> None:
    """ALTER ROLE … SET role is common for owners of tables; the journal is written as that."""
    one, owner = (f"{postgres.settings.namespace}_{name}" for name in ("login", "owner"))
    postgres.see.execute(
        f"CREATE ROLE {owner}; CREATE ROLE {one} LOGIN NOINHERIT IN ROLE {owner};"
        f"ALTER ROLE {one} SET role = {owner}; GRANT ALL ON SCHEMA public TO {owner}"
    )
    try:
        url = SecretStr(make_conninfo(postgres.url, user=one))
        settings = postgres.settings.model_copy(
            update={"postgresql_url": url, "namespace": f"{postgres.settings.namespace}x"}
        )
        worker = type(postgres)(settings)
        worker.run("CREATE TABLE first (a int)")
        worker.run("SET ROLE NONE")
        worker.run("CREATE TABLE second (a int)")
        assert worker.record().state is MigrationState.APPLIED
        worker.close()
        owners = postgres.rows(
            "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname='public'"
        )
        assert (owner,) in owners
        assert (one,) not in owners
    finally:
        postgres.see.execute(f"DROP OWNED BY {owner} CASCADE; DROP ROLE {one}, {owner}")


def test_a_late_taking_does_not_begin_anew_what_another_has_applied(postgres: Any) -> None:
    """FAULTS 7: it waited for the row while another took, ran and applied the migration."""
    with pytest.raises(MigrationFailed):
        postgres.run("SELECT no_such_column")
    assignment = replace(postgres.assignment("sql"), key=Key(
        database="postgresql", version="1.1.0", number=1))  # fmt: skip
    names = {name: f"public.{postgres.settings.namespace}_{name}"
             for name in ("operations", "migrations")}  # fmt: skip
    with psycopg.connect(postgres.url) as other:
        other.execute(f"SELECT FROM {names['operations']} FOR UPDATE")
        other.execute(f"SELECT FROM {names['migrations']} FOR UPDATE")
        me = Owner(worker="w", node="n", boot="b", pid=1, started=1.0)
        late = postgres.in_background(
            lambda: postgres.database.journal.take(assignment, me, counted=True)
        )
        postgres.wait_for(
            "SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        )
        other.execute(f"UPDATE {names['operations']} SET state = 'done', fence = fence + 1")
        other.execute(f"UPDATE {names['migrations']} SET state = 'applied'")
    assert late.result(15).state is OperationState.DONE
    assert postgres.value(f"SELECT state FROM {names['migrations']}") == "applied"
