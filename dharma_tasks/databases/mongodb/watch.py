"""Whether the server works on a statement of ours, as `$currentOp` shows it."""

from __future__ import annotations

import pymongo
from pymongo.errors import PyMongoError

from dharma_tasks.databases.mongodb.connection import Connection, operating

_ANSWER_SECONDS = 5


def works(connection: Connection) -> bool:
    """Whether a statement of this connection's clients is being worked on; False if in doubt.

    The drivers' own "hello" waits all the time: it belongs to no session. This question
    itself is an aggregate on no collection.
    """
    ours = {
        "appName": connection.application,
        "active": True,
        "lsid": {"$exists": True},
        "command.aggregate": {"$ne": 1},
    }
    try:
        with pymongo.timeout(_ANSWER_SECONDS):
            return operating(connection.patient, ours)
    except PyMongoError:
        return False
