"""Splitting a script against what PostgreSQL itself does with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dharma_tasks.errors import MigrationFailed
from dharma_tasks.operations.postgresql.parsing import NotSql, parse
from dharma_tasks.operations.postgresql.parts import split

PIECES = st.sampled_from(
    ["a", ";", "'", '"', "''", '""', "\\", "$$", "$q$", "$1", "/*", "*/", "--", "\n", "\r", " ",
     "é", "E'", "\\'", "U&", "\ufeff", "\U0001d4b3", "()", "BEGIN", "::", "$$;$$"]
)  # fmt: skip
INSIDE = st.lists(PIECES, max_size=8).map("".join)


def _dollar(text: str) -> str:
    return text.replace("$", "€")


VALUES = (
    INSIDE.map(lambda text: "'" + text.replace("'", "''") + "'")
    | INSIDE.map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'")
    | INSIDE.map(lambda text: f"$q$ {_dollar(text)} $q$")
    | INSIDE.map(lambda text: f"$$ {_dollar(text)} $$")
    | INSIDE.map(lambda text: "U&'" + text.replace("\\", "\\\\").replace("'", "''") + "'")
    | INSIDE.map(lambda text: "'a'\n '" + text.replace("'", "''") + "'")
)
SPACES = (
    st.sampled_from([" ", "\n", "\t", "\r\n", " -- ; ' $$ /*\n", "/* ; ' */", "/* /* ; */ $$ ' */"])
)  # fmt: skip
STATEMENTS = (
    VALUES.map("INSERT INTO t (v) VALUES ({});".format)
    | VALUES.map("INSERT INTO t (v) SELECT {} || ';';".format)
    | VALUES.map('INSERT INTO t (v) SELECT x FROM (SELECT {} AS x) AS "; "" \' $$";'.format)
    | VALUES.map(
        lambda value: f"DO $d$ BEGIN INSERT INTO t (v) VALUES ({value}); END $d$;"
    )
    | st.sampled_from(
        [
            ";",
            "CREATE OR REPLACE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END;",
            "INSERT INTO t (v) SELECT CASE WHEN true THEN 'c;' END;",
            "SET standard_conforming_strings = on;",
        ]
    )
)  # fmt: skip
SCRIPTS = st.lists(st.tuples(SPACES, STATEMENTS), min_size=1, max_size=6).map(
    lambda pairs: "".join(space + statement for space, statement in pairs)
)


@pytest.fixture(scope="module")
def server(one_database: str) -> Iterator[psycopg.Connection]:
    """A session with a table of its own."""
    with psycopg.connect(one_database, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE t (id int GENERATED ALWAYS AS IDENTITY, v text)")
        yield connection


def stored(server: psycopg.Connection, texts: list[str]) -> list[str]:
    """What is in the table after these were sent, by the simple protocol, one after the other."""
    server.execute("TRUNCATE t")
    for text in texts:
        result = server.pgconn.exec_(text.encode())
        assert result.error_message == b"", text
    return [v for (v,) in server.execute("SELECT v FROM t ORDER BY id").fetchall()]


@settings(max_examples=150)
@given(script=SCRIPTS)
def test_statement_by_statement(server: psycopg.Connection, script: str) -> None:
    """A script leaves the same behind as its statements and as its parts do, one by one."""
    whole = stored(server, [script])
    assert stored(server, [each.text for each in parse(script)]) == whole
    parts, problems = split(script)
    assert problems == ()
    assert stored(server, [script[part.start : part.end] for part in parts]) == whole
    for statement in parse(script):
        assert script[statement.start : statement.end] == statement.text


@settings(max_examples=150)
@given(text=st.lists(PIECES | STATEMENTS, max_size=6).map("".join))
def test_what_does_not_parse(server: psycopg.Connection, text: str) -> None:
    """The server finds a syntax error where we find one, and nowhere else."""
    try:
        parse(text)
        ours = True
    except NotSql:
        ours = False
    server.execute("BEGIN")
    try:
        state = server.pgconn.exec_(text.encode())
        code = state.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    finally:
        server.pgconn.exec_(b"ROLLBACK")
    assert ours == (code not in {b"42601", b"22025", b"42622"}), (text, code)


HIDDEN = "CREATE TABLE t (v text); SELECT '\\''; COMMIT; SELECT 1/0; --'"
"""One string for who reads backslashes as they are; for others a COMMIT stands in it."""


def test_a_database_that_reads_backslashes_otherwise(postgres: Any) -> None:
    """Its files are read as they were checked, whatever the default of the database is."""
    name = postgres.see.info.dbname
    postgres.see.execute(f"ALTER DATABASE {name} SET standard_conforming_strings = off")
    assert postgres.run(HIDDEN).over
    assert postgres.value("SELECT count(*) FROM t") == 0


def test_a_file_that_reads_backslashes_otherwise(postgres: Any) -> None:
    """Nothing is sent any more once a file has changed how it is read."""
    off = "SET standard_conforming_strings = off;\n"
    assert postgres.run(off + "CREATE TABLE a (v text)").over
    with pytest.raises(MigrationFailed, match="_strings is off"):
        postgres.run(off + HIDDEN, "sql_statements")
    assert postgres.value("SELECT to_regclass('t') IS NULL")
    assert postgres.run("CREATE TABLE t (v text)").over
