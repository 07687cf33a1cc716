"""What the three kinds share: running text of the file, and telling where in it an error is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import Problem
from dharma_tasks.operations.postgresql.parsing import NotSql, Statement, line_of, parse, tokenize
from dharma_tasks.work import Work

_SHOWN_WORDS = 4


def checked(sql: str) -> tuple[tuple[Statement, ...], list[Problem]]:
    """The statements of `sql`, or why it does not parse."""
    try:
        return parse(sql), []
    except NotSql as error:
        return (), [error.problem]


def only_comments(sql: str) -> list[Problem]:
    """Warn of a file without a statement: it happens in real projects, and is applied."""
    statements, problems = checked(sql)
    if statements or problems:
        return []
    return [Problem("", "line 1", "the file holds no statement", "It is applied as it is.")]


def summary(sql: str) -> str:
    """The first words of the first statement, without any value, and how many follow."""
    statements, _ = checked(sql)
    if not statements:
        return "no statement"
    first = statements[0].text
    words = []
    for token in tokenize(first)[:_SHOWN_WORDS]:
        if token.name in ("SCONST", "USCONST", "XCONST", "BCONST", "FCONST", "ICONST"):
            break
        words.append(first[token.start : token.end])
    more = f" and {len(statements) - 1} more" if len(statements) > 1 else ""
    return " ".join(words).replace("\n", " ") + " …" + more


def run(work: Work[Session], sql: str, start: int, end: int) -> list[str]:
    """Run the file's characters from `start` to `end`; errors say the line of the file."""
    try:
        with located(sql, start, end):
            return work.handle.run(sql[start:end].encode())
    finally:
        for warning in work.handle.warnings():
            work.warn(warning)


def set_transaction(work: Work[Session], modes: str) -> None:
    """Give the transaction that has just begun the modes of the file's own BEGIN."""
    work.handle.run(f"SET TRANSACTION {modes}".encode())


@contextmanager
def located(sql: str, start: int, end: int) -> Iterator[None]:
    """Add to an error of the server its line in the file."""
    try:
        yield
    except psycopg.Error as error:
        line = _line(error, sql, start, end)
        if line:
            error.add_note(f"line {line} of the .sql file")
        raise


def _line(error: psycopg.Error, sql: str, start: int, end: int) -> int | None:
    """By the server's position; without one, the line of the statement that failed."""
    position = error.diag.statement_position
    if position:
        return line_of(sql, start + int(position) - 1)
    index = getattr(error, "statement_index", None)
    if index is None:
        return None
    statements = [each for each in checked(sql)[0] if start <= each.start < end]
    return statements[index].line if index < len(statements) else None
