"""The worked example and its guide: what the format has, both of them show."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dharma_tasks.databases import NAMES
from dharma_tasks.loader import Loaded, load
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Operation

FOLDER = Path(__file__).parents[2] / "migrations"
LISTED = [
    pytest.param(heading, kind, id=f"{database}-{kind.kind}")
    for heading, database in (("MongoDB", "mongodb"), ("Elasticsearch", "elasticsearch"))
    for kind in catalogue(database).operations.values()
]


@pytest.fixture(scope="module")
def example() -> Loaded:
    """The example, loaded once."""
    return load(FOLDER)


def test_nothing_to_complain_of(example: Loaded) -> None:
    """Newcomers do not begin with a warning."""
    assert example.warnings == ()


@pytest.mark.parametrize("database", NAMES)
def test_every_operation_occurs(example: Loaded, database: str) -> None:
    """Each database has at least four versions, which use all of its operations."""
    migrations = [each for each in example.migrations if each.database == database]
    used = {operation["type"] for each in migrations for operation in each.operations}
    assert len(migrations) >= 4
    assert used == set(catalogue(database).operations)


@pytest.mark.parametrize("database", NAMES)
def test_each_database_waits_for_another(example: Loaded, database: str) -> None:
    """Dependencies go in several directions."""
    needed = {
        name.partition(":")[0]
        for each in example.migrations
        if each.database == database
        for name in each.dependencies
    }
    assert needed - {database}


@pytest.mark.parametrize("database", NAMES)
def test_a_rollback_file_is_shown(example: Loaded, database: str) -> None:
    """Each database has an example of a rollback file."""
    assert any(each.rollback for each in example.migrations if each.database == database)


@pytest.mark.parametrize(("heading", "kind"), LISTED)
def test_the_guide_names_every_operation(heading: str, kind: type[Operation[Any]]) -> None:
    """In its database's section; the parameters are in the reference, which is made from them."""
    guide = (FOLDER / "README.md").read_text()
    section = guide.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert f"`{kind.kind}`" in section
