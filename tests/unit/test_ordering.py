"""Indexes that a migration builds before its bulk work: what `dharma check` and `plan` advise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fake_folder import Migrations

from dharma_tasks.loader import load
from dharma_tasks.operations import catalogue
from dharma_tasks.ordering import built_too_early

INDEX = {"type": "create_index", "collection": "users", "index": [["a.b", 1], ["c", -1]]}


def early(database: str, operations: Sequence[dict[str, Any]]) -> list[str]:
    """What is said of operations of one migration."""
    parse = catalogue(database).parse
    parsed = [(f"operations[{at}]", parse(each)) for at, each in enumerate(operations)]
    return [f"{place}: {problem.what}" for place, problem in built_too_early(parsed)]


def update(change: Any, **others: Any) -> dict[str, Any]:
    """A bulk update of the collection."""
    usual = {"type": "update_documents", "collection": "users", "filter": {}}
    return {**usual, "update": change, **others}


SLOWED = {
    "a field": {"type": "add_field", "collection": "users", "field": "c", "value": 1},
    "what is above": {"type": "remove_field", "collection": "users", "field": "a"},
    "what is below": update({"$set": {"c.d": 1}}),
    "the new name": {
        "type": "rename_field",
        "collection": "users",
        "old_name": "x",
        "new_name": "a.b",
    },
    "$rename": update({"$rename": {"x": "c"}}),
    "in an array": update({"$inc": {"z": 1, "a.$[x].b": 1}}, array_filters=[{"x": 1}]),
    "a pipeline": update([{"$set": {"z": 1}}, {"$unset": ["y", "c"]}]),
    "one field less": update([{"$unset": "c"}]),
    "whole documents": update([{"$replaceWith": {"z": 1}}]),
}


@pytest.mark.parametrize("later", SLOWED.values(), ids=SLOWED)
def test_an_index_over_what_is_written_later(later: dict[str, Any]) -> None:
    """Whatever way the operation has to write to the field."""
    (said,) = early("mongodb", [INDEX, later])
    assert said.startswith("operations[0]: the index users.a.b_1_c_-1 is built before ")
    assert f"{later['type']} (operations[1])" in said
    assert early("mongodb", [later, INDEX]) == []


FINE = {
    "another field": update({"$set": {"a.c": 1, "cc": 1, "z.c": 1}}),
    "other fields": update([{"$set": {"a.z": 1}}, {"$addFields": {"d": 1}}]),
    "another collection": update({"$set": {"c": 1}}, collection="others"),
    "few documents": {
        "type": "insert_documents",
        "collection": "users",
        "documents": [{"_id": 1, "c": 1}],
    },
    "another index": {**INDEX, "index": [["c", 1]]},
}


@pytest.mark.parametrize("later", FINE.values(), ids=FINE)
def test_an_index_that_is_no_hindrance(later: dict[str, Any]) -> None:
    """MongoDB leaves an index alone whose fields stay as they are."""
    assert early("mongodb", [INDEX, later]) == []


def test_unusual_indexes() -> None:
    """Over all fields; over documents of a kind; several operations are counted."""
    wild = {**INDEX, "index": [["$**", "text"]]}
    (said,) = early("mongodb", [wild, update({"$set": {"x": 1}}), update({"$set": {"y": 1}})])
    assert "before update_documents (operations[1]) and 1 more" in said
    partly = {**INDEX, "options": {"partialFilterExpression": {"active": True}, "name": "mine"}}
    (said,) = early("mongodb", [partly, update({"$set": {"active": True}})])
    assert "the index users.mine is" in said


BULK = [
    "UPDATE t SET a = 1",
    "UPDATE ONLY t AS u SET a = 1 FROM o WHERE o.z = u.z",
    "INSERT INTO t (a) SELECT g FROM generate_series(1, 9) g",
    "INSERT INTO t TABLE o",
    "COPY t FROM '/data/t.csv'",
    "MERGE INTO t USING o ON t.z = o.z WHEN MATCHED THEN UPDATE SET a = 1",
]


@pytest.mark.parametrize("kind", ["sql", "sql_statements"])
@pytest.mark.parametrize("statement", BULK)
def test_statements_that_write_many_rows(statement: str, kind: str) -> None:
    """The index is named with its line, and so is the statement."""
    text = f"CREATE INDEX i ON t (a, lower(b)) WHERE c > 1;\n\n{statement};"
    ((place, problem),) = built_too_early(
        [("", catalogue("postgresql").parse({"type": kind, "sql": text}))]
    )
    word = statement.split(maxsplit=1)[0]
    assert (place, problem.place) == ("", "line 1")
    assert problem.what.startswith(f"the index i is built before the {word} of line 3")
    assert (
        early("postgresql", [{"type": kind, "sql": f"{statement};CREATE INDEX i ON t (a);"}]) == []
    )


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE t SET z = 1 WHERE a = 5",
        "UPDATE t SET z = 1 FROM o WHERE lower(t.b) = o.b",
        "UPDATE t SET z = 1 FROM o JOIN p ON o.c = p.c",
        "MERGE INTO t USING o ON t.a = o.a WHEN MATCHED THEN UPDATE SET z = 1",
        "INSERT INTO t (a) SELECT 1 ON CONFLICT (a) DO NOTHING",
        "INSERT INTO t (a) VALUES (1), (2)",
        "INSERT INTO t DEFAULT VALUES",
        "INSERT INTO other SELECT * FROM t",
        "DELETE FROM t",
        "COPY t TO '/data/t.csv'",
        "UPDATE s.t SET a = 1",
    ],
)
def test_statements_that_need_it_or_do_not_write_to_it(statement: str) -> None:
    """Few rows, other tables, deletes; rows that are found by it."""
    text = f"CREATE UNIQUE INDEX i ON t (a, lower(b)) WHERE c > 1; {statement};"
    assert early("postgresql", [{"type": "sql", "sql": text}]) == []


def test_said_with_its_line_and_no_warning(migrations: Migrations) -> None:
    """Who submits an applied migration every day is not told; in rollback files too."""
    migrations.write("mongodb/001_a.json", operations=[INDEX])
    migrations.write("mongodb/001_a_rollback.json", operations=[INDEX, SLOWED["a field"]])
    migrations.write("postgresql/001_b.json", operations=None)
    migrations.text("postgresql/001_b.sql", "-- b\nCREATE INDEX ON t (a);\nUPDATE t SET a = 1;\n")
    loaded = load(migrations.path)
    assert loaded.warnings == ()
    first, second = loaded.advice
    assert (first.file, first.place) == ("mongodb/001_a_rollback.json", "line 7, operations[0]")
    assert (second.file, second.place) == ("postgresql/001_b.sql", "line 2")
    assert "the index on t is built before the UPDATE of line 3" in second.what
