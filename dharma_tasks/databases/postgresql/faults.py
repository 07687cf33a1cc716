"""What an error of PostgreSQL means, and how it is told (Law 10)."""

from __future__ import annotations

import psycopg

from dharma_tasks.certificates import Trust
from dharma_tasks.databases.base import Fault

_TRUST = Trust(
    setting="DHARMA_POSTGRESQL_URL",
    authority="sslrootcert=FILE in DHARMA_POSTGRESQL_URL",
    client="sslcert=FILE&sslkey=FILE in DHARMA_POSTGRESQL_URL",
)

_CONFLICTS = {
    "40001",  # serialization_failure
    "40P01",  # deadlock_detected
    "55P03",  # lock_not_available: a row that lock_timeout was too short for; a file is no batch
    "25P04",  # transaction_timeout
}
"""A smaller batch gets through."""

_PASSING = {
    "40003",  # statement_completion_unknown
    "53300",  # too_many_connections
    "57P01",  # admin_shutdown, and what pg_terminate_backend says
    "57P02",  # crash_shutdown
    "57P03",  # cannot_connect_now
    "57P05",  # idle_session_timeout
    "25P03",  # idle_in_transaction_session_timeout
}
"""https://www.postgresql.org/docs/current/errcodes-appendix.html; class 08 is added below."""


class StillThere(psycopg.OperationalError):
    """The former owner's server process has not ended in time: tried again."""


def classify(error: BaseException) -> Fault:
    """Say what an exception of the driver means; see `Database.classify`."""
    if not isinstance(error, psycopg.Error):
        return Fault.LASTING
    state = error.sqlstate
    if state in _CONFLICTS:
        return Fault.CONFLICT
    if state in _PASSING or (state or "").startswith("08"):
        return Fault.PASSING
    # The connection, not a statement: it was lost, could not be made, or was closed.
    lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return Fault.PASSING if lost and error.diag.sqlstate is None else Fault.LASTING


def describe(error: BaseException) -> str:
    """Give the server's own message, with its code and all of its parts."""
    diagnostic = error.diag if isinstance(error, psycopg.Error) else None
    notes = getattr(error, "__notes__", [])
    if diagnostic is None or diagnostic.message_primary is None:
        return "\n".join([_TRUST.explained(str(error) or type(error).__name__), *notes])
    first = f"{diagnostic.severity} {diagnostic.sqlstate}: {diagnostic.message_primary}"
    parts = {
        "DETAIL": diagnostic.message_detail,
        "HINT": diagnostic.message_hint,
        "CONTEXT": diagnostic.context,
    }
    return "\n".join([first, *(f"{name}: {text}" for name, text in parts.items() if text), *notes])
