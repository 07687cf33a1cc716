"""MongoDB, as one worker thread sees it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

from bson import Binary

from dharma_tasks.databases.base import Database, Fault
from dharma_tasks.databases.freeing import ended
from dharma_tasks.databases.mongodb import faults
from dharma_tasks.databases.mongodb.connection import Connection, Handle, operations
from dharma_tasks.databases.mongodb.examine import examine
from dharma_tasks.databases.mongodb.journal import MongodbJournal
from dharma_tasks.databases.mongodb.strain import strain
from dharma_tasks.databases.mongodb.watch import Onlooker
from dharma_tasks.databases.watch import Watcher
from dharma_tasks.findings import Finding
from dharma_tasks.migration import JSON
from dharma_tasks.records import Owner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount


class MongodbDatabase(Database[Handle]):
    """One client and session for the work and its journal, and one client that is patient."""

    name: ClassVar[str] = "mongodb"

    def __init__(self, settings: Settings) -> None:
        """Remember where the database is; connect on first use."""
        self._connection = Connection(settings)
        self._most_lag = settings.max_lag_seconds
        self._watcher = Watcher()
        self._onlooker = Onlooker(self._connection)
        self._journal = MongodbJournal(self._connection, settings.namespace, self.free)

    @property
    def journal(self) -> MongodbJournal:
        """The journal in this database."""
        return self._journal

    @property
    def handle(self) -> Handle:
        """The database outside any transaction."""
        return self._connection.handle()

    @property
    def transactions(self) -> bool:
        """Not on a standalone server."""
        return self._connection.transactions

    def whereabouts(self) -> str:
        """By the database's name, and the process that is the primary, or the sharded cluster."""
        return self._connection.whereabouts()

    def resources(self) -> JSON:
        """The session in which this worker's transactions run."""
        return {"session": self._session_id().as_uuid().hex}

    def free(self, owner: Owner) -> None:
        """Kill the former owner's session: its transaction and its locks go with it.

        An index that it was building goes on being built, for its successor (see
        `operations/mongodb/create_index.py`).
        """
        if "session" not in owner.resources:
            return
        theirs = Binary.from_uuid(uuid.UUID(owner.resources["session"]))
        if theirs == self._session_id():
            return
        admin = self._connection.client.admin
        admin.command({"killSessions": [{"id": theirs}]})
        if not ended(lambda: self._open(theirs)):
            msg = f"the session {theirs.as_uuid()} of {owner.worker} has not ended"
            raise faults.StillOpen(msg)

    def count(self, names: Sequence[str]) -> dict[str, int | None]:
        """From the collections' metadata. A view has none."""
        database = self._connection.database
        listed = database.list_collections(filter={"name": {"$in": list(names)}})
        types = {each["name"]: each["type"] for each in listed}
        return {
            name: database[name].estimated_document_count() if kind == "collection" else None
            for name, kind in types.items()
        }

    def strain(self, warn: Callable[[str], None]) -> str | None:  # noqa: ARG002
        """A secondary that lags."""
        if not self.transactions:
            return None
        return strain(self._connection.client, self._most_lag)

    def examine(self) -> list[Finding]:
        """Server, replica set, and what the user may do."""
        return list(examine(self._connection.client, self._connection.name))

    def classify(self, error: BaseException) -> Fault:
        """By the server's code and the driver's labels; a lost connection is passing."""
        return faults.classify(error)

    def describe(self, error: BaseException) -> str:
        """The server's message with its code, and the document it is about."""
        return faults.describe(error)

    def watched(self, alive: Callable[[Amount | None], None]) -> AbstractContextManager[Any]:
        """Ask `$currentOp` about our statements once a second, and how far an index is."""
        return self._watcher.watching(self._onlooker.works, alive)

    def interrupt(self) -> None:
        """Leave an index build to the server: the command of whoever comes next joins it.

        Where it is not to go on either, `halt` of its operation ends it.
        """
        self._connection.leave()

    def recover(self) -> None:
        """Drop the session. What it left open is freed at the next take-over: it is journalled."""
        self._connection.forget()

    def close(self) -> None:
        """Close both clients."""
        self._watcher.close()
        self._connection.close()

    def _session_id(self) -> Binary:
        found: Binary = Binary(self._connection.session.session_id["id"], 4)
        return found

    def _open(self, session: Binary) -> bool:
        return bool(operations(self._connection.client, {"lsid.id": session}))
