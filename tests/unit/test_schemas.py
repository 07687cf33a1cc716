"""The JSON Schemas and the reference: made from the models, and as strict as one file can be."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fake_folder import Migrations
from jsonschema import Draft7Validator
from pydantic import BaseModel, ValidationError
from test_loader_catalogues import LISTED, ODD, RIGHT, misspelt

from dharma_tasks import schemas
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Refused
from dharma_tasks.keys import MigrationKeys
from dharma_tasks.loader import load
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue
from dharma_tasks.reference import __main__ as writing
from dharma_tasks.reference import docstrings

ROOT = Path(__file__).parents[2]
MADE = writing.made()
EXAMPLES = sorted((ROOT / "migrations").glob("[!.]*/*.json"))
HEAD = {"version": "1.0.0", "name": "a", "migration_type": "schema"}


@cache
def validator(database: str) -> Draft7Validator:
    """Of the schema that the package has."""
    name = schemas.file_name(database)
    return Draft7Validator(json.loads((Path(schemas.__file__).parent / name).read_text()))


def refused(content: JSON) -> list[str]:
    """Where an editor would mark the file."""
    errors = validator(content["database_type"]).iter_errors(content)
    return sorted("/".join(map(str, error.absolute_path)) for error in errors)


def file(database: str, **keys: Any) -> JSON:
    """A file's content."""
    return HEAD | {"database_type": database} | keys


@pytest.mark.parametrize("path", MADE, ids=lambda path: path.name)
def test_made_anew_it_is_the_same(path: Path) -> None:
    """What the models say by now is what is in the sources: run `make reference`."""
    assert path.read_text() == MADE[path]


@pytest.mark.parametrize("database", NAMES)
def test_it_is_a_schema(database: str) -> None:
    """Of the draft that it names."""
    Draft7Validator.check_schema(validator(database).schema)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples(path: Path) -> None:
    """Each file of the example fits, and leads an editor to the schema of this release."""
    content = json.loads(path.read_text())
    assert refused(content) == []
    named = path.parent / content["$schema"]
    assert named.read_text() == MADE[named.resolve()]


@pytest.mark.parametrize("database", LISTED)
def test_every_operation_fits(database: str) -> None:
    """Those that the loader takes."""
    assert refused(file(database, operations=RIGHT[database])) == []


@pytest.mark.parametrize(("database", "operation", "there", "meant"), list(misspelt()))
def test_every_misspelt_key_is_marked(
    database: str, operation: JSON, there: str, meant: str
) -> None:
    """Each key of each operation, and its type."""
    del there, meant
    marked = refused(file(database, operations=[RIGHT[database][0], operation]))
    assert marked
    assert all(place.startswith("operations/1") for place in marked)


@pytest.mark.parametrize("database", LISTED)
def test_it_refuses_nothing_that_is_right(database: str) -> None:
    """Whatever an operation takes for a parameter, the schema does too."""
    wrong = []
    taken = 0
    for operation in RIGHT[database]:
        for key, value in itertools.product([*operation, "filter", "options", "query"], ODD):
            changed = operation | {key: value}
            try:
                if catalogue(database).parse(changed).problems():
                    continue
            except (KeyError, TypeError, ValidationError):
                continue
            taken += 1
            if refused(file(database, operations=[changed])):
                wrong.append((operation["type"], key, value))
    assert taken > 20
    assert wrong == []


@pytest.mark.parametrize("database", LISTED)
def test_a_value_may_stand_for_every_parameter(database: str) -> None:
    """And not for the type."""
    value = {"$value": "NAME", "default": 1}
    for operation in RIGHT[database]:
        for key in operation:
            changed = operation | {key: value}
            expected = [] if key != "type" else ["operations/0/type"]
            assert refused(file(database, operations=[changed])) == expected, (operation, key)


def wrong_files() -> Iterator[tuple[JSON, str]]:
    """A file, and where it is wrong."""
    right = RIGHT["mongodb"]
    yield file("mongodb"), ""
    yield file("mongodb", operations=[]), "operations"
    yield file("mongodb", operations=right, version="1.0"), "version"
    yield file("mongodb", operations=right, version="0.0.0"), "version"
    yield file("mongodb", operations=right, name=" "), "name"
    yield file("mongodb", operations=right, migration_type="both"), "migration_type"
    yield file("mongodb", operations=right, dependencies=["mysql:1.0.0"]), "dependencies/0"
    yield file("mongodb", operations=right, transactional=False), ""
    yield file("mongodb", operations=[{"collection": "a"}]), "operations/0"
    yield file("mongodb", operations=[{"type": "create_index", "collection": "a"}]), "operations/0"
    for database, kind, changes, where in [
        ("mongodb", "create_index", {"index": "email"}, "index"),
        ("mongodb", "create_index", {"index": [["email", "up"]]}, "index"),
        ("mongodb", "create_index", {"options": {"uniqe": True}}, "options"),
        ("mongodb", "create_collection", {"collection": "system.users"}, "collection"),
        ("mongodb", "add_field", {"field": "$set"}, "field"),
        ("mongodb", "add_field", {"field": "_id"}, "field"),
        ("mongodb", "update_documents", {"update": "$inc"}, "update"),
        ("mongodb", "update_documents", {"batch": {"max": 0}}, "batch"),
        ("mongodb", "update_documents", {"batch": {"most": 5}}, "batch"),
        ("mongodb", "update_documents", {"throttle": 0}, "throttle"),
        ("elasticsearch", "reindex", {"source": {"indx": "a"}}, "source"),
        ("elasticsearch", "reindex", {"max_failures": 101}, "max_failures"),
        ("elasticsearch", "create_alias", {"exclusive": "yes"}, "exclusive"),
    ]:
        (found,) = (each for each in RIGHT[database] if each["type"] == kind)
        yield file(database, operations=[found | changes]), f"operations/0/{where}"
    batch = {"table": "a", "key": "id"}
    yield file("postgresql", transactional="no"), "transactional"
    yield file("postgresql", operations=[]), ""
    yield file("postgresql", batch={"table": "a"}), "batch"
    yield file("postgresql", batch=batch | {"key": ["a", "b", "c", "d"]}), "batch/key"
    yield file("postgresql", batch=batch | {"sql": "SELECT 1"}), "batch"


@pytest.mark.parametrize(("content", "where"), list(wrong_files()))
def test_wrong_files(migrations: Migrations, content: JSON, where: str) -> None:
    """Marked where they are wrong, and refused by the loader as well."""
    assert refused(content) == [where]
    database = content["database_type"]
    migrations.text(f"{database}/001_a.json", json.dumps(content))
    migrations.text("postgresql/001_a.sql", "SELECT :batch_start, :batch_end\n")
    with pytest.raises(Refused):
        load(migrations.path)


def test_batch_of_postgresql() -> None:
    """All that may stand there."""
    pace = {"min": 1, "max": 10, "seconds": 0.5, "throttle": 100, "size": 5}
    content = file("postgresql", transactional=True, batch={"table": "a", "key": ["a", "b"]} | pace)
    assert refused(content) == []


@pytest.mark.parametrize(
    "model",
    [MigrationKeys, *(kind for name in NAMES for kind in catalogue(name).operations.values())],
    ids=lambda model: model.__name__,
)
def test_everything_is_described(model: type[BaseModel]) -> None:
    """An operation says what it does, and of each of its parameters what it is."""
    assert docstrings.of_class(model)
    assert docstrings.of_fields(model).keys() == model.model_fields.keys()


def test_it_does_not_count_in_the_checksum(migrations: Migrations) -> None:
    """An applied file may get a `$schema`, or lose it."""
    migrations.write("mongodb/001_a.json")
    (before,) = load(migrations.path).migrations
    migrations.write("mongodb/001_a.json", **{"$schema": schemas.reference("mongodb")})
    (after,) = load(migrations.path).migrations
    assert after.checksum == before.checksum


def test_they_are_put_into_the_folder(migrations: Migrations) -> None:
    """Those of another release are replaced, and the loader does not look at them."""
    schemas.put(migrations.path)
    path = migrations.path / ".dharma" / schemas.file_name("mongodb")
    path.write_text("{}")
    schemas.put(migrations.path)
    assert json.loads(path.read_text()) == validator("mongodb").schema
    assert load(migrations.path).migrations == ()
