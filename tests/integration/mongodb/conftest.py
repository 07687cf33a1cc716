"""A database of MongoDB for each test, and workers on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guarded import guarded_server
from mongodb_hand import Hand
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database
from three_members import Three, three_members

from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.local import LocalEngines
from dharma_tasks.settings import Settings


@pytest.fixture
def settings(engines: LocalEngines, unique: str) -> Settings:
    """Settings for MongoDB alone, with a database of the test's own."""
    url = engines.environment()["DHARMA_MONGODB_URL"].replace("/dharma", f"/{unique}", 1)
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        mongodb_url=SecretStr(url),
        namespace=unique,
    )


@pytest.fixture
def documents(settings: Settings, unique: str) -> Iterator[Database[Any]]:
    """The database through a client of the test's own; dropped at the end."""
    assert settings.mongodb_url is not None
    url = settings.mongodb_url.get_secret_value()
    with MongoClient[dict[str, Any]](url, uuidRepresentation="standard") as client:
        yield client[unique]
        client.drop_database(unique)


@pytest.fixture
def hands(settings: Settings, documents: Database[Any]) -> Iterator[Callable[..., Hand]]:
    """Makes workers, each with a connection of its own, in a run that is open."""
    made: list[Hand] = []

    def make(name: str = "first") -> Hand:
        made.append(Hand(MongodbDatabase(settings), name))
        made[-1].begin()
        return made[-1]

    yield make
    for each in made:
        each.database.close()


@pytest.fixture
def hand(hands: Callable[..., Hand]) -> Hand:
    """One worker."""
    return hands()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    """A replica set of three members, of the test's own."""
    with three_members(tmp_path) as found:
        yield found


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoClient[Any]]:
    """A server on which users may not do everything, of the module's own."""
    with guarded_server(tmp_path_factory.mktemp("guarded")) as client:
        yield client
