"""One connection to PostgreSQL: how text is sent, what a transaction is, what a clean session is.

Text from migration files goes through the simple protocol, as bytes, so that the server sees
the file and nothing else: no placeholders, no quoting, several statements at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.errors import Diagnostic, error_from_result
from psycopg.generators import execute
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.rows import TupleRow
from pydantic import SecretStr

from dharma_tasks.databases.postgresql.connection import Connection
from dharma_tasks.errors import OperationFailed, Problem, Refused
from dharma_tasks.settings import Settings
from dharma_tasks.urls import misread

_PARAMETERS = {
    "client_encoding": "UTF8",
    "connect_timeout": "10",
    # A black hole is noticed after 30 s, whichever side was speaking (Law 8, FAULTS 18).
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
    # With several hosts in the URL: not a standby, also after a failover.
    "target_session_attrs": "primary",
}

_OURS = """
SET LOCAL SESSION AUTHORIZATION DEFAULT;
SET LOCAL role TO DEFAULT;
SET LOCAL search_path = pg_catalog
"""
"""Before the journal's own writes (FAULTS 14). It is RESET ROLE, which knows the role of ALTER
ROLE … SET role, but LOCAL: what the file has set for its session comes back with the COMMIT,
for its next statement."""

_CLEAN = """
CLOSE ALL;
SET SESSION AUTHORIZATION DEFAULT;
RESET ROLE;
RESET ALL;
UNLISTEN *;
SELECT pg_catalog.pg_advisory_unlock_all();
DISCARD TEMP;
DISCARD SEQUENCES;
"""
"""What DISCARD ALL does by its manual, without the loss of the journal's prepared statements,
and back to the role that ALTER ROLE … SET role has given."""

_SPOILING = {"PREPARE", "DEALLOCATE", "DEALLOCATE ALL", "DISCARD ALL"}
"""After these in a file, the session is not cleaned but made anew."""

_BACKSLASHES = "standard_conforming_strings"
"""With it off, a backslash in a plain string hides the quote after it: what was checked as a
string could be a COMMIT to the server."""

_PATIENCE_IN_LEASES = 3
"""How long a server may be silent that nobody sees working for us."""

_TRANSACTION_TIMEOUT_SINCE = 170000
_IDLE_SESSION_TIMEOUT_SINCE = 140000
_CANCEL_SECONDS = 5


class Session:
    """A connection that is made when it is needed, and again after it was lost.

    `fresh` says that no statement of a migration has run in it since it was last clean: an
    operation that goes on in the middle of a file replays the file's settings then
    (FAULTS 15).
    """

    def __init__(self, settings: Settings) -> None:
        """Remember where the database is."""
        self._settings = settings
        self._lock_timeout = int(settings.lock_timeout_seconds * 1000)
        self._connection: Connection | None = None
        self._start = ""
        self._notices: list[str] = []
        self._used = self._spoilt = False
        self.fresh = True

    # --- the connection ---

    @property
    def connection(self) -> Connection:
        """The driver's connection, in autocommit mode: transactions are begun by hand."""
        if self._connection is None or self._connection.closed:
            self._connection = self._connect()
        return self._connection

    @property
    def identity(self) -> dict[str, Any]:
        """The server process behind this session: its pid and when it began."""
        connection = self.connection
        return {"pid": connection.info.backend_pid, "start": self._start}

    def _connect(self) -> Connection:
        connection = connect(self._settings)
        connection.add_notice_handler(self._notice)
        connection.execute(self._setup(connection))
        row = connection.execute(
            "SELECT extract(epoch FROM backend_start)::text FROM pg_stat_activity"
            " WHERE pid = pg_backend_pid()"
        ).fetchone()
        self._start = row[0] if row else ""
        self._used = self._spoilt = False
        self.fresh = True
        return connection

    def _setup(self, connection: Connection) -> str:
        """What each migration finds set, whatever the role's or the database's defaults are.

        By SET and not in the connection's `options`, which poolers refuse.
        """
        version = connection.info.server_version
        return (
            f"SET lock_timeout = {self._lock_timeout};"
            "SET statement_timeout = 0;"
            "SET idle_in_transaction_session_timeout = 0;"
            f"SET {_BACKSLASHES} = on;"
            + ("SET transaction_timeout = 0;" if version >= _TRANSACTION_TIMEOUT_SINCE else "")
            + ("SET idle_session_timeout = 0;" if version >= _IDLE_SESSION_TIMEOUT_SINCE else "")
            # The journal is durable when a call returns, whatever the role prefers.
            + "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )

    @property
    def alive(self) -> bool:
        """Whether the connection was not lost, as far as can be told without asking."""
        return self._connection is not None and not self._connection.closed

    def heard(self) -> None:
        """Note that the server was seen working for us. Called from another thread."""
        connection = self._connection
        if connection is not None:
            connection.heard = time.monotonic()

    def recover(self) -> None:
        """Drop the connection unless it is known to be alive and outside any transaction."""
        connection = self._connection
        if connection is None:
            return
        status = connection.pgconn.transaction_status
        if connection.pgconn.status != ConnStatus.OK or status != TransactionStatus.IDLE:
            self.close()

    def cancel(self) -> None:
        """Cancel the statement at work, from another thread; harmless where there is none."""
        connection = self._connection
        if connection is not None:
            connection.cancel_safe(timeout=_CANCEL_SECONDS)

    def close(self) -> None:
        """Close the connection. Harmless when repeated."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    # --- a clean session for each migration ---

    def clean(self) -> None:
        """Take away what an earlier migration has left: settings, roles, temporary objects."""
        connection = self.connection
        if connection.pgconn.transaction_status != TransactionStatus.IDLE or self._spoilt:
            self.close()
        elif self._used:
            connection.execute(_CLEAN + self._setup(connection))
        self._used = self._spoilt = False
        self.fresh = True

    def replay(self, statements: Sequence[bytes]) -> None:
        """Run settings outside of the open transaction, which must still be empty."""
        inside = self.connection.pgconn.transaction_status != TransactionStatus.IDLE
        if inside:
            self.rollback()
        for statement in statements:
            self.run(statement)
        if inside:
            self.begin()

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Wait for locks without a limit, unless the file has set its own.

        For CONCURRENTLY: no traffic queues behind it, while to give up throws the work away.
        """
        rows = self.query("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'lock_timeout'")
        ours = int(rows[0][0]) == self._lock_timeout
        if ours:
            self.connection.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            if ours and self.alive:
                self.connection.execute(f"SET lock_timeout = {self._lock_timeout}")

    # --- transactions ---

    def begin(self) -> None:
        """Begin a transaction; nothing else goes before a file's first statement."""
        self.connection.execute("BEGIN")

    def become_ours(self) -> None:
        """For the rest of the transaction: the role and the names of the journal."""
        self.connection.execute(_OURS)

    def commit(self) -> None:
        """Commit. Where the connection breaks here, the result is not known."""
        self.connection.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the open transaction, if there is one and the server can still be told."""
        connection = self._connection
        if connection is None or connection.pgconn.status != ConnStatus.OK:
            return
        if connection.pgconn.transaction_status != TransactionStatus.IDLE:
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                self.close()  # the server rolls back what its client leaves

    # --- running text ---

    def run(self, text: bytes) -> list[str]:
        """Run a migration's text as it is. Returns the command tags, one a statement.

        Raises:
            OperationFailed: it would be read otherwise than it was checked.
            psycopg.Error: with `statement_index`, the number (from 0) of the statement.
        """
        connection = self._for_text()
        connection.pgconn.send_query(text)
        return self._results(connection)

    def run_typed(self, text: bytes, values: Sequence[str], oids: Sequence[int]) -> int:
        """Run one statement with the parameters $1, $2, … of the types `oids`, given as text.

        Returns the number of rows affected.

        Raises:
            OperationFailed: as `run`.
        """
        connection = self._for_text()
        connection.pgconn.send_query_params(
            text, [value.encode() for value in values], param_types=oids
        )
        (tag,) = self._results(connection)
        last = tag.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0

    def _for_text(self) -> Connection:
        """The connection, which is not clean any more, and reads text as the parser does."""
        self._used, self.fresh = True, False
        connection = self.connection
        if connection.info.parameter_status(_BACKSLASHES) == "off":
            raise OperationFailed(
                f"{_BACKSLASHES} is off: the file would be read otherwise than it was checked",
                "Leave it on, and write E'…' where a backslash is an escape",
            )
        return connection

    def _results(self, connection: Connection) -> list[str]:
        tags = []
        for index, result in enumerate(connection.wait(execute(connection.pgconn))):
            if result.status == ExecStatus.FATAL_ERROR:
                error = error_from_result(result, connection.info.encoding)
                error.statement_index = index  # type: ignore[attr-defined]
                raise error
            if result.status != ExecStatus.EMPTY_QUERY:
                tags.append((result.command_status or b"").decode())
        self._spoilt = self._spoilt or not _SPOILING.isdisjoint(tags)
        return tags

    def query(self, text: str, **values: Any) -> list[TupleRow]:
        """Run a query of our own, with `%(name)s` parameters, and return its rows."""
        return self.connection.execute(text, values).fetchall()

    def journal(self, text: str, **values: Any) -> list[TupleRow]:  # the driver's types
        """As `query`, for the journal's statements: planned once, for they take that long."""
        prepare = not self._spoilt
        return self.connection.execute(text, values, prepare=prepare).fetchall()

    # --- what the server says beside its answers ---

    def _notice(self, diagnostic: Diagnostic) -> None:
        if diagnostic.severity_nonlocalized == "WARNING":
            self._notices.append(diagnostic.message_primary or "")

    def warnings(self) -> list[str]:
        """The server's warnings since the last call."""
        notices, self._notices = self._notices, []
        return notices


def connect(settings: Settings) -> Connection:
    """Connect with time limits on everything.

    Raises:
        Refused: the URL cannot be read.
        psycopg.OperationalError: the server does not answer, or does not let us in.
    """
    given = _given(settings.postgresql_url)
    name = f"dharma:{settings.namespace}"
    parameters = {**_PARAMETERS, **given, "application_name": name}
    # Statements are prepared where the code says so, and never because they come often.
    made = Connection.connect(
        make_conninfo("", **parameters), autocommit=True, prepare_threshold=sys.maxsize
    )
    # Several leases: by then somebody else has the work. The journal's writes may wait for a lock.
    made.patience = max(
        _PATIENCE_IN_LEASES * settings.lease_seconds,
        settings.lock_timeout_seconds + settings.lease_seconds,
    )
    return made


def _given(url: SecretStr | None) -> dict[str, Any]:
    """The parameters in the URL, or connection string. Libpq takes a # as it is."""
    text = url.get_secret_value() if url else ""
    try:
        if not misread(text, ends="/?"):
            return conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        pass  # its message quotes the part of the URL that may be the password
    what = "DHARMA_POSTGRESQL_URL is not a PostgreSQL URL or connection string"
    todo = "Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with % codes where needed."
    raise Refused([Problem("", "", what, todo)])
