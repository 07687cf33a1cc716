"""A .sql file as statements with their places, by PostgreSQL's own parser (`postgast`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import postgast
from google.protobuf.message import DecodeError
from postgast import pg_query_pb2

from dharma_tasks.errors import Problem
from dharma_tasks.operations.postgresql.depth import LEVELS, too_deep

START = ":batch_start"
END = ":batch_end"

_COMMENTS = {"SQL_COMMENT", "C_COMMENT"}
_NAMES = {number: name for name, number in pg_query_pb2.Token.items()}


class NotSql(Exception):
    """The text does not parse; `problem` says where and why."""

    def __init__(self, problem: Problem) -> None:
        """Carry `problem`."""
        self.problem = problem
        super().__init__(str(problem))


@dataclass(frozen=True)
class Token:
    """A word of the text; `start` and `end` count characters from 0."""

    name: str
    start: int
    end: int


@dataclass(frozen=True)
class Statement:
    """One statement of a file.

    `start` and `end` count the file's characters from 0, without comments before it and
    without the semicolon. `kind` is the parser's word (`index_stmt`), `node` its tree; kind
    is "" where the tree is nested too deeply to be read, which only expressions can be.
    """

    text: str
    start: int
    end: int
    line: int
    kind: str
    node: Any

    def words(self, count: int) -> str:
        """The first words, in capitals, to name the statement in a message."""
        tokens = tokenize(self.text)[:count]
        return " ".join(self.text[token.start : token.end] for token in tokens).upper()


def line_of(sql: str, position: int) -> int:
    """The line, from 1, of the character at `position` (from 0)."""
    return sql.count("\n", 0, position) + 1


@lru_cache(maxsize=4)
def parse(sql: str) -> tuple[Statement, ...]:
    """Split `sql` into its statements.

    Raises:
        NotSql: it does not parse.
    """
    try:
        if (position := too_deep(sql)) is not None:
            line = sql.encode()[:position].count(b"\n") + 1
            todo = "Divide it, or write it flatter: VALUES, IN (…), = ANY (ARRAY[…])."
            what = f"a statement of more than {LEVELS:,} levels"
            raise NotSql(Problem("", f"line {line}", what, todo))
        return tuple(_statements(sql, 0, postgast.parse(sql)))
    except postgast.PgQueryError as error:
        raise NotSql(_syntax(sql, error)) from error
    except DecodeError:  # protobuf reads at most 100 levels: 'a' || 'b' || … of 50 terms
        return tuple(_one_by_one(sql))


def _statements(sql: str, base: int, tree: postgast.ParseResult) -> Iterator[Statement]:
    data = sql.encode()
    characters = position = 0
    for raw in tree.stmts:
        length = raw.stmt_len or len(data) - raw.stmt_location
        characters += len(data[position : raw.stmt_location].decode())
        position = raw.stmt_location
        text = data[position : position + length].decode()
        kind = raw.stmt.WhichOneof("node") or ""
        start = base + characters
        node = getattr(raw.stmt, kind, None)
        yield Statement(text, start, start + len(text), line_of(sql, characters), kind, node)


def _one_by_one(sql: str) -> Iterator[Statement]:
    position = 0
    for piece in postgast.split(sql, method="scanner"):
        position = sql.index(piece, position)
        before = sql.count("\n", 0, position)
        try:
            found = list(_statements(piece, position, postgast.parse(piece)))
        except DecodeError:
            first = tokenize(piece)[0].start
            line = line_of(piece, first)
            end = position + len(piece)
            found = [Statement(piece[first:], position + first, end, line, "", None)]
        for one in found:
            yield Statement(one.text, one.start, one.end, one.line + before, one.kind, one.node)
        position += len(piece)


def tokenize(sql: str) -> list[Token]:
    """The words of `sql`, without comments.

    Raises:
        NotSql: a string or a comment does not end.
    """
    try:
        scanned = postgast.scan(sql).tokens
    except postgast.PgQueryError as error:
        raise NotSql(_syntax(sql, error)) from error
    data = sql.encode()
    tokens = []
    characters = position = 0
    for token in scanned:
        characters += len(data[position : token.start].decode())
        length = len(data[token.start : token.end].decode())
        position, start = token.end, characters
        characters += length
        name = _NAMES.get(token.token, "")  # a character that SQL has no use for has none
        if name not in _COMMENTS:
            tokens.append(Token(name, start, start + length))
    return tokens


@dataclass(frozen=True)
class Batched:
    """A statement whose batch marks are parameters now: $1 is the start, $2 the end.

    With a key of two columns the start is `($1,$2)`, the end `($3,$4)`. Everything else, and the
    place of everything else, is as in the file.
    """

    text: str
    marks: frozenset[str]


@lru_cache(maxsize=4)
def batched(sql: str, columns: int = 1) -> Batched:
    """Put parameters in the place of the marks, outside strings, comments and `::` casts.

    As many for each mark as the key has `columns`, of which there is room for three.

    Raises:
        NotSql: it cannot be read, or has parameters of its own.
    """
    text, marks = sql, set()
    tokens = tokenize(sql)
    for colon, word in pairwise(tokens):
        mark = sql[colon.start : word.end]
        if mark in (START, END) and colon.name == "ASCII_58":
            parameter = _row(1 if mark == START else columns + 1, columns)
            text = text[: colon.start] + parameter.ljust(len(mark)) + text[word.end :]
            marks.add(mark)
    for token in tokens:
        if token.name == "PARAM":
            place = f"line {line_of(sql, token.start)}"
            what = f"{sql[token.start : token.end]} stands for nothing"
            raise NotSql(Problem("", place, what, f"Write {START} and {END}."))
    return Batched(text, frozenset(marks))


def _row(first: int, columns: int) -> str:
    parameters = ",".join(f"${first + n}" for n in range(columns))
    return parameters if columns == 1 else f"({parameters})"


def _syntax(sql: str, error: postgast.PgQueryError) -> Problem:
    """PostgreSQL's own message with line and column, and what is usually meant by it."""
    position = max(error.cursorpos - 1, 0)  # in characters, whatever postgast's manual says
    line = line_of(sql, position)
    column = position - (sql.rfind("\n", 0, position) + 1) + 1
    place = f"line {line}, column {column}"
    return Problem("", place, error.message, _advice(sql, position))


def _advice(sql: str, position: int) -> str:
    at = sql[position:]
    if at.startswith("\\"):
        return (
            "psql's own commands (\\i, \\set, \\copy, \\restrict, …) are not SQL: remove them "
            "(pg_dump writes some at the top and the end of its output)."
        )
    if at.startswith(":"):
        return (
            f'{START} and {END} belong to a file with "batch" in its JSON; psql\'s variables '
            "(:name) are not filled in."
        )
    if _follows_copy(sql, position):
        return "COPY … FROM STDIN and its data cannot be in a migration: write INSERT."
    return "Correct the SQL."


def _follows_copy(sql: str, position: int) -> bool:
    before = sql[:position].upper()
    copy = before.rfind("COPY ")
    return copy >= 0 and "FROM STDIN" in before[copy:]
