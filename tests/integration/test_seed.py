"""The data that the demo begins with."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from elasticsearch import Elasticsearch
from pymongo import MongoClient

from dharma_tasks.local.seed import seed
from dharma_tasks.settings import Settings

SIZE = 2_500
"""Not a whole number of portions."""


def _url(settings: Settings, database: str) -> str:
    found = settings.url(database)
    assert found is not None
    return found.get_secret_value()


@pytest.fixture
def search(settings: Settings) -> Iterator[Elasticsearch]:
    """Elasticsearch without the example's index; it has no databases of a test's own."""
    with Elasticsearch(_url(settings, "elasticsearch")) as client:
        client.indices.delete(index="projects_v1", ignore_unavailable=True)
        yield client
        client.indices.delete(index="projects_v1", ignore_unavailable=True)


def _counts(settings: Settings, search: Elasticsearch) -> list[int]:
    with MongoClient[dict[str, object]](_url(settings, "mongodb")) as client:
        users = client.get_default_database()["users"].count_documents({})
    with psycopg.connect(_url(settings, "postgresql")) as connection:
        row = connection.execute("SELECT count(*) FROM projects").fetchone()
    assert row is not None
    return [users, row[0], search.count(index="projects")["count"]]


def test_every_database_is_filled_once(settings: Settings, search: Elasticsearch) -> None:
    """Seeding twice is as good as once, and the second time leaves changes alone."""
    seed(settings, SIZE)
    assert _counts(settings, search) == [SIZE, SIZE, SIZE]
    with psycopg.connect(_url(settings, "postgresql")) as connection:
        connection.execute("DELETE FROM projects WHERE id = 1")
    said: dict[str, str] = {}
    seed(settings, SIZE, said.__setitem__)
    assert _counts(settings, search) == [SIZE, SIZE - 1, SIZE]
    assert set(said.values()) == {"is there already"}


def test_an_interrupted_seeding_is_finished(settings: Settings, search: Elasticsearch) -> None:
    """What an interrupted one left is completed, not taken for the whole."""

    def interrupt(name: str, _what: str) -> None:
        if name == "postgresql":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seed(settings, SIZE, interrupt)
    with MongoClient[dict[str, object]](_url(settings, "mongodb")) as client:
        database = client.get_default_database()
        database["users"].rename("users_seed_unfinished")
    search.indices.create(index="projects_v1")
    search.index(index="projects_v1", id="1", document={"title": "Half a project"})
    seed(settings, SIZE)
    assert _counts(settings, search) == [SIZE, SIZE, SIZE]
