"""The migrations that README and docs/recipes.md show, carried out on what they build upon."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import documents
import psycopg
import pytest
from elasticsearch import Elasticsearch
from place import Place
from pymongo import MongoClient

NOTES = [{"mail": f"Ann{number}@example.org"} for number in range(20)]


@pytest.fixture
def search(place: Place) -> Iterator[Elasticsearch]:
    """Elasticsearch; its names belong to all, so those of the pages are freed."""
    with Elasticsearch(place.url("elasticsearch")) as client:
        yield client
        client.indices.delete(index="projects_v1,projects_v2", ignore_unavailable=True)


@pytest.fixture
def mongodb(place: Place) -> Iterator[Any]:
    """The test's own database."""
    with MongoClient[dict[str, Any]](place.url("mongodb")) as client:
        yield client.get_default_database()


@pytest.fixture
def postgresql(place: Place) -> Iterator[psycopg.Connection]:
    """The test's own database."""
    with psycopg.connect(place.url("postgresql"), autocommit=True) as connection:
        yield connection


@pytest.fixture
def before(
    place: Place, mongodb: Any, postgresql: psycopg.Connection, search: Elasticsearch
) -> None:
    """What the application has had so far: users with a `mail`, projects, and their index."""
    first = {"version": "1.0.0"}
    users = [{"type": "create_collection", "collection": "users"}]
    index = [
        {"type": "create_index", "index": "projects_v1"},
        {"type": "create_alias", "index": "projects_v1", "alias": "projects"},
    ]
    table = "CREATE TABLE projects (id bigint PRIMARY KEY, title text NOT NULL);\n"
    place.write("mongodb", "001_users", first | {"operations": users})
    place.write("elasticsearch", "001_projects", first | {"operations": index})
    place.write("postgresql", "001_projects", first, table)
    place.submit("--inline")
    mongodb["users"].insert_many(NOTES)
    postgresql.execute("INSERT INTO projects SELECT n, 'Title ' || n FROM generate_series(1, 20) n")
    for number in range(20):
        search.index(index="projects_v1", id=str(number), document={"title": "Häuser bauen"})
    search.indices.refresh(index="projects_v1")


def write(place: Place, page: str) -> None:
    """Write the files of a page, in which no check finds anything, squawk neither."""
    for name, text in documents.files(page).items():
        path = place.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    place.dharma("check", "--strict")


def test_readme(
    place: Place, before: None, mongodb: Any, postgresql: psycopg.Connection, search: Elasticsearch
) -> None:
    """One of each database, as they stand there."""
    postgresql.execute("ALTER TABLE projects ADD slug text")
    write(place, "README.md")
    place.submit("--inline")
    assert mongodb["users"].count_documents({"karma": 10}) == len(NOTES)
    assert postgresql.execute("SELECT slug FROM projects WHERE id = 7").fetchone() == ("title 7",)
    assert search.count(index="projects")["count"] == 20
    assert [*search.indices.get_alias(name="projects")] == ["projects_v2"]


def test_recipes(
    place: Place, before: None, mongodb: Any, postgresql: psycopg.Connection, search: Elasticsearch
) -> None:
    """Every step of every recipe, in the order of its versions; the MAJOR ones with their word."""
    write(place, "docs/recipes.md")
    refused = place.submit("--inline", check=False)
    assert (refused.returncode, "Releases before 3 read mail." in refused.stderr) == (2, True)
    place.submit("--inline", "--allow-major")
    assert mongodb["users"].count_documents({"mail": {"$exists": True}}) == 0
    assert mongodb["users"].count_documents({"email": "ann7@example.org"}) == 1
    assert mongodb["users"].index_information()["email_1"]["unique"] is True
    (required,) = postgresql.execute(
        "SELECT is_nullable = 'NO' FROM information_schema.columns WHERE column_name = 'slug'"
    ).fetchall()
    checks = postgresql.execute(
        "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = 'projects'::regclass"
    ).fetchall()
    assert (required, checks) == ((True,), [])
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'projects_slug'::regclass"
    assert postgresql.execute(valid).fetchone() == (True,)
    assert [*search.indices.get(index="projects_*")] == ["projects_v2"]
    search.indices.refresh(index="projects")
    found = search.count(index="projects", query={"term": {"title.exact": "Häuser bauen"}})
    assert found["count"] == 20
