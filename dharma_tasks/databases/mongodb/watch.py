"""Whether the server works on a statement of ours, as `$currentOp` shows it, and how far it is."""

from __future__ import annotations

import pymongo
from pymongo.errors import OperationFailure, PyMongoError

from dharma_tasks.databases.mongodb.connection import Connection, Document, operations
from dharma_tasks.work import Amount

_ANSWER_SECONDS = 5
_UNAUTHORIZED = 13
_SECOND_PHASE = "inserting keys"


class Onlooker:
    """Looks at the statements of a connection's clients."""

    def __init__(self, connection: Connection) -> None:
        """Ask for nothing yet."""
        self._connection = connection
        self._may_see_builds = True

    def works(self) -> Amount | bool:
        """Whether a statement of ours is being worked on; False if in doubt.

        The drivers' own "hello" waits all the time: it belongs to no session. This question
        itself is an aggregate on no collection.
        """
        ours = {
            "appName": self._connection.application,
            "active": True,
            "lsid": {"$exists": True},
            "command.aggregate": {"$ne": 1},
        }
        try:
            with pymongo.timeout(_ANSWER_SECONDS):
                found = operations(self._connection.patient, ours)
                commands = [each["command"] for each in found if "command" in each]
                builds = [each for each in commands if "createIndexes" in each]
                return (self._built(builds[0]) if builds else None) or bool(found)
        except PyMongoError:
            return False

    def _built(self, command: Document) -> Amount | None:
        """How far the server is with the index of `command`, where we may see that.

        The build is the server's own, on each shard: our command only waits for it. First all
        documents are read, then as many keys or more are written.
        """
        if not self._may_see_builds:
            return None
        matching = {
            "ns": f"{command['$db']}.{command['createIndexes']}",
            "command.indexes.name": command["indexes"][0]["name"],
            "progress.total": {"$gt": 0},
        }
        try:
            builds = operations(self._connection.patient, matching, everyone=True)
        except PyMongoError as error:
            # Asked again every second, it would fill the log of a server that audits.
            refused = isinstance(error, OperationFailure) and error.code == _UNAUTHORIZED
            self._may_see_builds = not refused
            return None
        parts = [(each["progress"], _SECOND_PHASE in each["msg"]) for each in builds]
        total = sum(2 * part["total"] for part, _ in parts)
        done = sum(part["done"] + second * part["total"] for part, second in parts)
        return Amount(done, total) if total else None
