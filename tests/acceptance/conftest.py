"""One test's corner of the engines, with worker processes of its own."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from failing import FailingMongod
from place import Place
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database

from dharma_tasks.local import LocalEngines
from dharma_tasks.local.mongodb import MongodbEngine
from dharma_tasks.settings import Settings


@pytest.fixture
def place(engines: LocalEngines, settings: Settings, tmp_path: Path) -> Iterator[Place]:
    """A folder, a namespace and databases of the test's own; ends the workers it started."""
    logs = tmp_path / "logs"
    logs.mkdir()
    key = SecretStr(secrets.token_hex(32))
    mine = settings.model_copy(update={"migrations_dir": tmp_path, "signing_key": key})
    made = Place(mine, tmp_path / "migrations", logs)
    yield made
    for worker in made.workers:
        if worker.poll() is None:
            os.killpg(worker.pid, 9)
            worker.wait()


@pytest.fixture
def mongodb(place: Place) -> Iterator[Database[dict[str, Any]]]:
    """The test's own database, by a client of its own."""
    with MongoClient[dict[str, Any]](place.url("mongodb")) as client:
        yield client.get_default_database()


@pytest.fixture(scope="session")
def failing_mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FailingMongod]:
    """A mongod beside the others that can be told to fail; it starts in about a second."""
    local = LocalEngines(tmp_path_factory.mktemp("failing"))
    patch = pytest.MonkeyPatch()
    usual = MongodbEngine.command

    def command(self: MongodbEngine, place: Any) -> list[str]:
        return [*usual(self, place), "--setParameter", "enableTestCommands=1"]

    patch.setattr(MongodbEngine, "command", command)
    try:
        addresses = local.up(only=["mongodb"])
    finally:
        patch.undo()
    try:
        yield FailingMongod(addresses["DHARMA_MONGODB_URL"])
    finally:
        local.delete()
