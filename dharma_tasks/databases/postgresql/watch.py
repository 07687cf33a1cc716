"""What is seen beside the work: whether the server works on a statement of ours, and how it is."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import TupleRow

from dharma_tasks.databases.postgresql.connection import Connection
from dharma_tasks.databases.postgresql.session import connect
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount

_WORKING = """
SELECT CASE WHEN p.phase LIKE '%%loading tuples%%' THEN p.tuples_done ELSE p.blocks_done END,
    CASE WHEN p.phase LIKE '%%loading tuples%%' THEN p.tuples_total ELSE p.blocks_total END
FROM pg_catalog.pg_stat_activity
LEFT JOIN pg_catalog.pg_stat_progress_create_index p USING (pid)
WHERE pid = %(pid)s AND extract(epoch FROM backend_start)::text = %(start)s
    AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Client'
"""
"""A process that waits for its client does not work for it. An index is built in phases: of most
the server counts the blocks that are read, of one the entries that are written."""

_ANSWER_SECONDS = 5


class Onlooker:
    """A connection that looks on; made when a statement is long, or many rows are to come."""

    def __init__(self, settings: Settings) -> None:
        """Remember where the database is."""
        self._settings = settings
        self._connection: Connection | None = None

    def works(self, identity: dict[str, Any]) -> Amount | bool:
        """Whether the server process `identity` works on a statement; False if in doubt.

        Of an index it says how far it is in the phase of now.
        """
        try:
            found = self.query(_WORKING, identity)
        except psycopg.Error:
            return False
        if not found:
            return False
        done, total = found[0]
        return Amount(done, total) if total else True

    def query(self, text: str, values: dict[str, Any] | None = None) -> list[TupleRow]:
        """Ask the server. After an error the connection is made anew."""
        try:
            if self._connection is None:
                self._connection = connect(self._settings)
                self._connection.patience = _ANSWER_SECONDS
            return self._connection.execute(text, values).fetchall()
        except psycopg.Error:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. Harmless when repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
