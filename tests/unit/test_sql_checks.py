"""What a .sql file may hold: found before anything runs, with its line."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dharma_tasks.errors import Problem
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.postgresql.parsing import NotSql, batched, parse


def problems(sql: str, kind: str = "sql", **parameters: Any) -> list[Problem]:
    """The problems of a file."""
    return catalogue("postgresql").parse({"type": kind, "sql": sql, **parameters}).problems()


def only(sql: str, kind: str = "sql", **parameters: Any) -> Problem:
    """The one problem of a file."""
    (problem,) = problems(sql, kind, **parameters)
    assert problem.file == ""
    assert problem.todo
    return problem


OUTSIDE = [
    "CREATE INDEX CONCURRENTLY i ON t (a)",
    "DROP INDEX CONCURRENTLY i",
    "REINDEX TABLE CONCURRENTLY t",
    "REINDEX (VERBOSE, CONCURRENTLY) INDEX i",
    "REINDEX SCHEMA s",
    "REINDEX DATABASE",
    "REINDEX SYSTEM d",
    "VACUUM",
    "VACUUM (FULL) t",
    "CLUSTER",
    "ALTER SYSTEM SET work_mem = '1MB'",
]
NEVER_AGAIN = [
    "CREATE DATABASE d",
    "DROP DATABASE d",
    "ALTER DATABASE d SET TABLESPACE s",
    "CREATE TABLESPACE s LOCATION '/x'",
    "DROP TABLESPACE s",
    "ALTER TABLE t DETACH PARTITION p CONCURRENTLY",
    "CREATE SUBSCRIPTION s CONNECTION 'c' PUBLICATION p",
    "ALTER SUBSCRIPTION s REFRESH PUBLICATION",
    "ALTER SUBSCRIPTION s SET PUBLICATION p",
    "DROP SUBSCRIPTION s",
    "DISCARD ALL",
]


@pytest.mark.parametrize("statement", OUTSIDE + NEVER_AGAIN)
def test_what_cannot_be_in_a_transaction(statement: str) -> None:
    """Is refused at load, at its line, with what to do."""
    problem = only(f"-- é\nSELECT 1;\n\n/* here */ {statement};\nSELECT 2")
    assert problem.place == "line 4"
    assert "cannot run in a transaction" in problem.what


@pytest.mark.parametrize("statement", OUTSIDE)
def test_a_file_without_transaction_may_hold_it(statement: str) -> None:
    """Alone, but not inside a block."""
    assert problems(statement, "sql_statements") == []
    problem = only(f"BEGIN;\n{statement};\nCOMMIT", "sql_statements")
    assert problem.place == "line 2"


@pytest.mark.parametrize("statement", NEVER_AGAIN)
def test_what_cannot_be_taken_up_again(statement: str) -> None:
    """Is refused in a file without a transaction, too, by its name."""
    assert only(f"SELECT 1;\n{statement}", "sql_statements").place == "line 2"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE INDEX i ON t (a)",
        "REINDEX (CONCURRENTLY false) INDEX i",
        "ANALYZE t",
        "CLUSTER t",
        "SELECT 'VACUUM; COMMIT'",
        "ALTER DATABASE d SET work_mem = '1MB'",
        "CREATE SUBSCRIPTION s CONNECTION 'c' PUBLICATION p WITH (create_slot = false)",
        "ALTER SUBSCRIPTION s SET PUBLICATION p WITH (refresh = off)",
        "ALTER TABLE t DETACH PARTITION p",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY v",
        "SAVEPOINT a; RELEASE a",
        "DISCARD TEMP",
        "DO $$ BEGIN PERFORM 1; END $$",
        "COPY t FROM '/file'",
        "SELECT " + " || ".join(["'a'"] * 500),
    ],
)
def test_what_may_run(statement: str) -> None:
    """In a transaction and without one."""
    assert problems(statement) == []
    assert problems(statement, "sql_statements") == []


@pytest.mark.parametrize(
    ("sql", "kind", "place", "said"),
    [
        ("SELECT 1;\nBEGIN", "sql", "line 2", "BEGIN of its own"),
        ("SELECT 1;\n\nCOMMIT", "sql", "line 3", "COMMIT of its own"),
        ("ROLLBACK", "sql", "line 1", "ROLLBACK of its own"),
        ("PREPARE TRANSACTION 'x'", "sql", "line 1", "outlives"),
        ("COPY t FROM STDIN", "sql", "line 1", "FROM STDIN"),
        ("COPY t TO STDOUT", "sql_statements", "line 1", "TO STDOUT"),
        ("COMMIT", "sql_statements", "line 1", "without a BEGIN"),
        ("SELECT 1;\nBEGIN;\nSELECT 2", "sql_statements", "line 2", "without a COMMIT"),
        ("BEGIN;\nSELECT 2;\nROLLBACK", "sql_statements", "line 3", "ends with ROLLBACK"),
        ("BEGIN;\nBEGIN;\nCOMMIT", "sql_statements", "line 2", "inside a block"),
        ("BEGIN READ ONLY; COMMIT", "sql_statements", "line 1", "access mode"),
        ("CREATE INDEX CONCURRENTLY ON t (a)", "sql_statements", "line 1", "without a name"),
        ("DROP INDEX CONCURRENTLY a, b", "sql_statements", "line 1", "one index at a time"),
        ("CREATE TEMP TABLE x (a int)", "sql_statements", "line 1", "temporary"),
        ("SELECT 1 AS a INTO TEMP x", "sql_statements", "line 1", "temporary"),
        ("\n\\connect other", "sql", "line 2, column 1", 'at or near "\\"'),
        ("SELECT 1;\nSELEC 2", "sql", "line 2, column 1", 'syntax error at or near "SELEC"'),
        ("-- éé\nSELECT 'é' 2", "sql", "line 2, column 12", 'syntax error at or near "2"'),
        ("SELECT 'no end", "sql", "line 1, column 8", "unterminated quoted string"),
        ("SELECT :name", "sql", "line 1, column 8", 'at or near ":"'),
        ("COPY t FROM STDIN;\n1\t2\n\\.", "sql", "line 2, column 1", "syntax error"),
    ],
)
def test_what_is_refused(sql: str, kind: str, place: str, said: str) -> None:
    """At its line, and in PostgreSQL's own words where they are PostgreSQL's."""
    problem = only(sql, kind)
    assert problem.place == place
    assert said in problem.what


def test_advice_for_what_is_not_sql() -> None:
    """Psql's own commands and variables, and the data of COPY, are common in dumps."""
    assert "psql" in only("\\restrict abc").todo
    assert "psql" in only("SELECT :name").todo
    assert '"batch"' in only("SELECT :batch_start").todo
    assert "COPY" in only("COPY t (a) FROM stdin;\n1\n\\.\n").todo


def test_a_block_may_have_a_temporary_table() -> None:
    """It is gone with the block, as it would be without a crash."""
    sql = "BEGIN; CREATE TEMP TABLE x (a int) ON COMMIT DROP; COMMIT"
    assert problems(sql, "sql_statements") == []


@pytest.mark.parametrize("sql", ["", "  \n", "-- c", "/* ; */ ; ;"])
def test_a_file_without_a_statement(sql: str) -> None:
    """Is a warning, in both kinds of file."""
    for kind in ("sql", "sql_statements"):
        operation = catalogue("postgresql").parse({"type": kind, "sql": sql})
        assert operation.problems() == []
        assert [warning.place for warning in operation.warnings()] == ["line 1"]
        assert operation.summary == "no statement"


def test_a_setting_without_effect_is_a_warning() -> None:
    """SET LOCAL outside of a block, as psql would warn of it."""
    sql = "SELECT 1;\nSET LOCAL a.b = 1;\nBEGIN; SET LOCAL a.b = 1; COMMIT"
    operation = catalogue("postgresql").parse({"type": "sql_statements", "sql": sql})
    assert [warning.place for warning in operation.warnings()] == ["line 2"]


def test_a_summary_shows_no_values() -> None:
    """Names are shown; what may be a secret is not."""
    operation = catalogue("postgresql").parse(
        {"type": "sql", "sql": "ALTER ROLE bob PASSWORD 'hush'; SELECT 1"}
    )
    assert operation.summary == "ALTER ROLE bob PASSWORD … and 1 more"


# --- batches ---

BATCH = {"kind": "sql_batch", "table": "t", "key": "k"}


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE t SET a = 1", ":batch_start and :batch_end missing"),
        ("UPDATE t SET a = ':batch_end' WHERE k > :batch_start", ":batch_end missing"),
        ("-- nothing", "one statement, this one 0"),
        ("DELETE FROM t WHERE k BETWEEN :batch_start AND :batch_end; SELECT 1", "this one 2"),
        ("UPDATE t SET k = 1 WHERE k BETWEEN :batch_start AND :batch_end", "changes k"),
        ("DO $$ BEGIN END $$; -- :batch_start", "missing"),
        ("SELECT $1, :batch_start, :batch_end", "$1 stands for nothing"),
        ("UPDATE t SET a = {1} WHERE k BETWEEN :batch_start AND :batch_end", "syntax error"),
    ],
)
def test_what_a_batch_cannot_be(sql: str, said: str) -> None:
    """One statement with both marks, that leaves the key alone."""
    assert said in only(sql, **BATCH).what


def test_marks_become_parameters_in_their_places() -> None:
    """Outside of strings and comments; nothing else moves."""
    sql = "/* :batch_end é */ SELECT ':batch_start', $$:batch_end$$, :batch_start::int, a[1:2]"
    found = batched(sql)
    assert found.text == sql.replace(":batch_start::", "$1          ::")
    assert found.marks == {":batch_start"}


def test_marks_of_a_key_of_several_columns() -> None:
    """They become rows, which fit in their place, and PostgreSQL's parser takes them there."""
    sql = "DELETE FROM t WHERE (a, b, c) BETWEEN :batch_start AND :batch_end"
    found = batched(sql, 3)
    assert found.text == sql.replace(":batch_start", "($1,$2,$3)  ").replace(
        ":batch_end", "($4,$5,$6)"
    )
    assert len(found.text) == len(sql)
    assert parse(found.text)


@given(
    st.lists(
        st.sampled_from(
            ["SELECT 1", "-- é;\n", "'a;b'", ";", "\n", "$$ ; $$", "/* ; */", " ü ", "VALUES (1)"]
        )
    )
)
def test_statements_are_where_they_are_said_to_be(pieces: list[str]) -> None:
    """The characters from start to end are the statement, whatever stands between."""
    sql = "".join(pieces)
    try:
        statements = parse(sql)
    except NotSql:  # most mixtures are none
        return
    for statement in statements:
        assert sql[statement.start : statement.end] == statement.text
        assert statement.text.startswith(("SELECT", "VALUES"))
        assert statement.line == sql.count("\n", 0, statement.start) + 1


def test_a_deeply_nested_file_has_its_places_too() -> None:
    """Where the parser's tree cannot be read whole, statements are read one by one."""
    deep = " || ".join(["'é'"] * 500)
    sql = f"SELECT 1;\n-- c\nSELECT {deep};\n\nVACUUM;\nSELECT 2"
    statements = parse(sql)
    assert [statement.line for statement in statements] == [1, 3, 5, 6]
    for statement in statements:
        assert sql[statement.start : statement.end] == statement.text
    assert only(sql).place == "line 5"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1" + "+1" * 100_000,
        "SELECT 1, 2" + " UNION ALL SELECT 1, 2" * 100_000,
        "SELECT 1" + " + f(1, 1)" * 100_000,
        "SELECT " + "(" * 100 + "1" + (" + 1" * 1_000 + ")") * 100,
        "SELECT a" + "::int" * 100_000,
        "SELECT 1;" + "SELECT " + "NOT " * 100_000 + "true",
        "SELECT " + "(" * 100_000 + "1" + ")" * 100_000,
    ],
    ids=["sum", "union", "calls", "brackets", "casts", "not", "only brackets"],
)
def test_what_would_end_the_parser(sql: str) -> None:
    """Statements so deep that the parser's stack would end, and the process with it."""
    problem = only(sql)
    assert "levels" in problem.what or "memory exhausted" in problem.what


def test_what_is_long_and_flat() -> None:
    """Many rows, columns and statements are no depth."""
    rows = ", ".join(f"(-{n}, f(a + 1, 'x' || 'y'), NULL)" for n in range(10_000))
    columns = ", ".join(f"c{n} int NOT NULL DEFAULT -1" for n in range(5_000))
    statements = "UPDATE t SET a = a + 1 WHERE b IN (SELECT 1);\n" * 5_000
    for sql in (f"INSERT INTO t VALUES {rows}", f"CREATE TABLE t ({columns})", statements):
        assert problems(sql) == []
