"""The loader with the real operations of each database."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_folder import Migrations

from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Refused
from dharma_tasks.loader import load
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue

RIGHT: dict[str, list[JSON]] = {
    "mongodb": [
        {"type": "create_collection", "collection": "users"},
        {
            "type": "modify_collection",
            "collection": "users",
            "validator": {"$jsonSchema": {"required": ["email"]}},
            "level": "moderate",
            "action": "warn",
        },
        {"type": "drop_collection", "collection": "visitors", "if_exists": True},
        {"type": "create_index", "collection": "users", "index": [["email", 1]]},
        {"type": "drop_index", "collection": "users", "index": "email_1"},
        {
            "type": "insert_documents",
            "collection": "roles",
            "documents": [{"_id": "lead", "since": {"$date": "2000-01-01T00:00:00Z"}}],
        },
        {"type": "add_field", "collection": "users", "field": "active", "value": True},
        {"type": "remove_field", "collection": "users", "field": "age"},
        {"type": "rename_field", "collection": "users", "old_name": "a", "new_name": "b"},
        {
            "type": "update_documents",
            "collection": "users",
            "filter": {"born": {"$lt": {"$date": "2000-01-01T00:00:00Z"}}},
            "update": {"$inc": {"seen": 1}},
        },
    ],
    "elasticsearch": [
        {"type": "create_index", "index": "users_v1", "mapping": {}, "settings": {}},
        {"type": "update_mapping", "index": "users_v1", "mapping": {"properties": {}}},
        {"type": "update_settings", "index": "users_v1", "settings": {"refresh_interval": "5s"}},
        {"type": "create_alias", "index": "users_v1", "alias": "users", "exclusive": True},
        {"type": "delete_alias", "alias": "all", "index": "users_v1", "if_exists": True},
        {"type": "reindex", "source": {"index": "users_v1"}, "dest": "users_v2"},
        {"type": "update_by_query", "index": "users_v1", "query": {"term": {"active": True}}},
        {"type": "delete_index", "index": "users_v0", "if_exists": True},
    ],
}
LISTED = sorted(RIGHT)


def said(migrations: Migrations) -> list[str]:
    """What a refusal says."""
    with pytest.raises(Refused) as caught:
        load(migrations.path)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("database", LISTED)
def test_every_operation_is_taken(migrations: Migrations, database: str) -> None:
    """The issue's formats, word for word, and none that is not tried here."""
    kinds = {operation["type"] for operation in RIGHT[database]}
    assert kinds == set(catalogue(database).operations)
    migrations.write(f"{database}/001_a.json", operations=RIGHT[database])
    (loaded,) = load(migrations.path).migrations
    assert loaded.operations == tuple(RIGHT[database])


def misspelt() -> Iterator[tuple[str, JSON, str, str]]:
    """Each operation with each of its keys misspelt: what stands there, and where it is said."""
    for database, operations in RIGHT.items():
        for operation in operations:
            for key in list(operation)[1:]:
                wrong = {k + "x" if k == key else k: value for k, value in operation.items()}
                yield database, wrong, f"operations[1].{key}x: unknown key '{key}x'", f"'{key}'"
            wrong = operation | {"type": operation["type"] + "s"}
            there = f"operations[1].type: no such operation: {wrong['type']!r}"
            yield database, wrong, there, f"'{operation['type']}'"


@pytest.mark.parametrize(("database", "operation", "there", "meant"), list(misspelt()))
def test_every_misspelt_key_is_named(
    migrations: Migrations, database: str, operation: JSON, there: str, meant: str
) -> None:
    """With its place, its line and the key that was meant."""
    right = RIGHT[database][0]
    path = migrations.write(f"{database}/001_a.json", operations=[right, operation])
    (problem,) = [problem for problem in said(migrations) if there in problem]
    assert problem.endswith(f"Did you mean {meant}?")
    line = int(problem.partition("line ")[2].partition(",")[0])
    word = operation["type"] if "operation:" in there else there.split("'")[1]
    assert json.dumps(word) in path.read_text().splitlines()[line - 1]


ODD: list[object] = [
    *(None, True, 5, 2**70, 1.5, "", "\x00", "$x", [], [[]], [None], {}, {"": 1}, {"a\x00b": 1}),
    *({"$date": "x"}, {"$oid": "z"}, {"$a": {"$b": 1}}, [["a"]], {"$numberLong": "9" * 30}),
    {"$regularExpression": {"pattern": "(", "options": "zz"}},
    {"$binary": {"base64": "!!", "subType": "zz"}},
]


@pytest.mark.parametrize("database", LISTED)
def test_no_value_breaks_the_loader(migrations: Migrations, database: str) -> None:
    """Whatever stands for a parameter is taken or refused, and nothing else is raised."""
    refusals: list[str] = []
    for operation in RIGHT[database]:
        for key, value in itertools.product([*operation, "filter", "options", "query"], ODD):
            migrations.write(f"{database}/001_a.json", operations=[operation | {key: value}])
            try:
                load(migrations.path)
            except Refused as refusal:
                refusals += map(str, refusal.problems)
    assert len(refusals) > len(ODD)
    assert all(text.startswith(f"{database}/001_a.json, line ") for text in refusals)
    assert "".join(refusals).encode()


def test_sql_is_checked_with_its_lines(migrations: Migrations) -> None:
    """PostgreSQL's own parser says what is wrong; the line is the .sql file's."""
    for number, (sql, keys) in enumerate(
        [
            ("SELECT 1;\n\nSELEC 2;\n", {}),
            ("SELECT 1;\nCREATE INDEX CONCURRENTLY a ON b (c);\n", {}),
            ("BEGIN;\nSELECT 1;\nCOMMIT;\n", {}),
            ("UPDATE a SET b = 1 WHERE id BETWEEN :batch_start AND :batch_end", {"batch": {}}),
            ("SELECT 1", {"transactionl": False}),
        ]
    ):
        file = f"postgresql/00{number}_a.json"
        migrations.write(file, f"1.{number}.0", **keys)
        migrations.text(file.replace(".json", ".sql"), sql)
    problems = said(migrations)
    for start in (
        "postgresql/000_a.sql, line 3",
        "postgresql/001_a.sql, line 2",
        "postgresql/002_a.sql, line 1",
        "postgresql/003_a.json, line 6, batch",
        (
            "postgresql/004_a.json, line 6, transactionl: unknown key 'transactionl'. Did you mean "
            "'transactional'?"
        ),
    ):
        assert any(problem.startswith(start) for problem in problems), (start, problems)


def test_sql_of_comments_is_a_warning(migrations: Migrations) -> None:
    """It occurs in real projects, and is applied."""
    migrations.write("postgresql/001_a.json")
    migrations.text("postgresql/001_a.sql", "-- nothing any more\n")
    loaded = load(migrations.path)
    assert len(loaded.migrations) == 1
    (warning,) = loaded.warnings
    assert warning.file.startswith("postgresql/001_a.")


def test_catalogues_agree_with_their_names() -> None:
    """What the loader looks up is what an operation calls itself, in its own database."""
    for database in NAMES:
        found = catalogue(database)
        assert found.database == database
        assert all(kind.kind == name for name, kind in found.operations.items())


def test_the_example_is_right(pytestconfig: pytest.Config) -> None:
    """`migrations/` of this project loads without a problem."""
    folder = Path(pytestconfig.rootpath) / "migrations"
    assert load(folder).migrations
