"""PostgreSQL, as one worker thread sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import psycopg

from dharma_tasks.databases.base import Database, Fault
from dharma_tasks.databases.freeing import FREE_SECONDS, ended
from dharma_tasks.databases.postgresql import faults
from dharma_tasks.databases.postgresql.examine import examine
from dharma_tasks.databases.postgresql.journal import PostgresqlJournal
from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.databases.postgresql.strain import strain
from dharma_tasks.databases.postgresql.watch import Onlooker
from dharma_tasks.databases.watch import Watcher
from dharma_tasks.findings import Finding
from dharma_tasks.migration import JSON
from dharma_tasks.records import Owner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount

_SAME = """
FROM pg_catalog.pg_stat_activity
WHERE pid = %(pid)s AND extract(epoch FROM backend_start)::text = %(start)s
    AND pid <> pg_catalog.pg_backend_pid()
"""
"""Pids are used again: only the start tells that it is the same process."""

_COUNT = """
WITH RECURSIVE tables AS (
    SELECT pg_catalog.to_regclass(%(name)s)::oid AS oid
    UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN tables ON i.inhparent = tables.oid
), counted AS (
    SELECT coalesce(
        CASE WHEN c.reltuples > 0 THEN c.reltuples::bigint END,
        nullif(pg_catalog.pg_stat_get_live_tuples(oid), 0),
        CASE WHEN c.reltuples = 0 THEN 0 END
    ) AS rows
    FROM pg_catalog.pg_class c JOIN tables USING (oid)
    WHERE c.relkind IN ('r', 'm', 'f')
)
SELECT pg_catalog.to_regclass(%(name)s) IS NOT NULL,
    CASE WHEN count(rows) = count(*) THEN sum(rows)::bigint END
FROM counted
"""
"""As VACUUM or ANALYZE has found it (-1 for never), else as the statistics have seen it grow."""


_WHEREABOUTS = """
SELECT pg_catalog.format(
    '%%s (%%s) of the server that was started at %%s UTC', datname, oid,
    pg_catalog.to_char(
        pg_catalog.pg_postmaster_start_time() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US'
    )
)
FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()
"""


class PostgresqlDatabase(Database[Session]):
    """One connection for the work and its journal, and one that watches it."""

    name: ClassVar[str] = "postgresql"

    def __init__(self, settings: Settings) -> None:
        """Remember where the database is; connect on first use."""
        self._settings = settings
        self._session = Session(settings)
        self._watcher = Watcher()
        self._onlooker = Onlooker(settings)
        self._journal = PostgresqlJournal(self._session, settings.namespace, self.free)

    @property
    def journal(self) -> PostgresqlJournal:
        """The journal in this database."""
        return self._journal

    @property
    def handle(self) -> Session:
        """The session, outside any transaction."""
        return self._session

    def whereabouts(self) -> str:
        """By the database's number, and the microsecond in which its server was started."""
        self._session.clean()
        ((found,),) = self._session.query(_WHEREABOUTS)
        return str(found)

    def resources(self) -> JSON:
        """The server process that works for this worker."""
        return self._session.identity

    def free(self, owner: Owner) -> None:
        """End the former owner's server process: its transaction and its locks go with it."""
        if "pid" not in owner.resources:
            return
        process = owner.resources
        self._session.query(f"SELECT pg_catalog.pg_terminate_backend(pid) {_SAME}", **process)
        if not ended(lambda: self._session.query(f"SELECT 1 {_SAME}", **process)):
            whose = f"the server process {process['pid']} of {owner.worker}"
            msg = f"{whose} has not ended in {FREE_SECONDS} s"
            raise faults.StillThere(msg)

    def count(self, names: Sequence[str]) -> dict[str, int | None]:
        """From the server's catalogue, partitions included.

        None for a view, and for a table at which the server has not looked yet.
        """
        self._session.clean()
        found = {}
        for name in names:
            try:
                ((is_there, rows),) = self._session.query(_COUNT, name=name)
            except (psycopg.ProgrammingError, psycopg.NotSupportedError):
                continue  # it cannot be a name, or is not for us to look at
            if is_there:
                found[name] = rows
        return found

    def strain(self, warn: Callable[[str], None]) -> str | None:
        """A standby that lags, or sessions that wait for locks."""
        return strain(self._onlooker.query, self._settings, warn)

    def examine(self) -> list[Finding]:
        """Server, and what the role may do."""
        self._session.clean()
        return list(examine(self._session.query, f"public.{self._settings.namespace}_head"))

    def classify(self, error: BaseException) -> Fault:
        """By SQLSTATE; a lost connection is passing."""
        return faults.classify(error)

    def describe(self, error: BaseException) -> str:
        """The server's message with its code, detail, hint, context and the file's line."""
        return faults.describe(error)

    def watched(self, alive: Callable[[Amount | None], None]) -> AbstractContextManager[Any]:
        """Ask `pg_stat_activity` about our process once a second, and how far an index is."""
        identity = self._session.identity

        def works() -> Amount | bool:
            seen = self._onlooker.works(identity)
            if seen:
                self._session.heard()
            return seen

        return self._watcher.watching(works, alive)

    def interrupt(self) -> None:
        """Cancel the statement: its transaction rolls back, and whoever comes next runs it."""
        self._session.cancel()

    def recover(self) -> None:
        """Drop the connection unless it is known to be alive and in no transaction."""
        self._session.recover()

    def close(self) -> None:
        """Close both connections."""
        self._watcher.close()
        self._onlooker.close()
        self._session.close()
