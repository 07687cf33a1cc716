"""A PostgreSQL statement that stands still until the test lets it go on."""

from __future__ import annotations

import psycopg
from place import Place

WAITING = """
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.05); END LOOP;
END $$;
"""
"""The statement, for a migration's file."""


class Gate:
    """The table that `WAITING` looks at, in the test's own database."""

    def __init__(self, place: Place) -> None:
        """Make it, closed."""
        self._url = place.url("postgresql")
        with psycopg.connect(self._url) as connection:
            connection.execute("CREATE TABLE go ()")

    def backend(self) -> int | None:
        """The server process that carries out `WAITING`."""
        with psycopg.connect(self._url) as connection:
            row = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE query LIKE '%FROM go%'"
                " AND pid <> pg_backend_pid() AND state = 'active'"
                " AND datname = current_database()"
            ).fetchone()
        return int(row[0]) if row else None

    def open(self) -> None:
        """Let `WAITING` end, now and whenever it comes again."""
        with psycopg.connect(self._url) as connection:
            connection.execute("INSERT INTO go DEFAULT VALUES")
