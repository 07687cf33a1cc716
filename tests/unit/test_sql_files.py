"""From NNN_name.json and NNN_name.sql to one operation."""

from __future__ import annotations

from typing import Any

import pytest

from dharma_tasks.operations.postgresql.files import read

SQL = "UPDATE t SET a = 1\r\nWHERE id BETWEEN :batch_start AND :batch_end\n"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({}, {"type": "sql", "sql": SQL}),
        ({"transactional": True}, {"type": "sql", "sql": SQL}),
        ({"transactional": False}, {"type": "sql_statements", "sql": SQL}),
        (
            {"batch": {"table": "t", "key": "id"}},
            {"type": "sql_batch", "sql": SQL, "table": "t", "key": "id"},
        ),
        (
            {"batch": {"table": "s.t", "key": "id", "size": 10}},
            {"type": "sql_batch", "sql": SQL, "table": "s.t", "key": "id", "size": 10},
        ),
    ],
)
def test_the_file_becomes_one_operation(content: Any, expected: Any) -> None:
    """With its text as it is, line ends included."""
    assert read(content, SQL.encode()) == ([expected], [])


@pytest.mark.parametrize(
    ("content", "place", "said"),
    [
        ({"transactional": "no"}, "transactional", "true or false"),
        ({"transactional": None}, "transactional", "true or false"),
        ({"batch": "t"}, "batch", "an object"),
        ({"batch": None}, "batch", "an object"),
        ({"batch": {"table": "t"}}, "batch", "'key' is missing"),
        ({"batch": {"table": "t", "key": "id", "sise": 1}}, "batch.sise", "unknown key"),
        ({"batch": {"table": "t", "key": "id", "sql": "x"}}, "batch.sql", "unknown key"),
        ({"batch": {"table": "t", "key": []}}, "batch.key", "at least 1"),
        ({"batch": {"table": "t", "key": ["a", "b", "c", "d"]}}, "batch.key", "at most 3"),
        ({"batch": {"table": "t", "key": 5}}, "batch.key", "list"),
        ({"batch": {"table": "t", "key": "id", "size": 0}}, "batch.size", "greater than"),
        (
            {"transactional": False, "batch": {"table": "t", "key": "id"}},
            "transactional",
            "does not fit",
        ),
    ],
)
def test_wrong_keys(content: Any, place: str, said: str) -> None:
    """Each is refused at its place in the JSON."""
    _, problems = read(content, SQL.encode())
    assert [problem.place for problem in problems][:1] == [place]
    assert said in problems[0].what
    assert problems[0].todo
    assert problems[0].file == ""


@pytest.mark.parametrize(
    ("data", "place", "said"),
    [
        (b"SELECT 1;\n-- \xe9\n", "line 2", "not UTF-8 (byte 0xe9)"),
        (b"\xef\xbb\xbfSELECT 1", "line 1", "byte order mark"),
        (b"SELECT\n'\x00'", "line 2", "NUL"),
    ],
)
def test_wrong_bytes(data: bytes, place: str, said: str) -> None:
    """The line is named."""
    _, (problem,) = read({}, data)
    assert problem.place == place
    assert said in problem.what
