"""What `dharma doctor` looks at in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from dharma_tasks.findings import Finding, problem, warning

_OLDEST = 120000

_WHERE = """
SELECT current_database(), quote_ident(current_user),
    coalesce(host(inet_server_addr()) || ':' || inet_server_port(), 'a local socket'),
    current_setting('server_version'), current_setting('server_version_num')::int
"""
_JOURNAL = """
WITH journal AS (SELECT to_regclass(%(journal)s) AS head, to_regnamespace('public') AS public)
SELECT CASE WHEN head IS NULL
    THEN has_schema_privilege(public, 'USAGE') AND has_schema_privilege(public, 'CREATE')
    ELSE has_table_privilege(head, 'INSERT') AND has_table_privilege(head, 'UPDATE') END
FROM journal
"""
"""NULL where there is no such schema."""
_OTHERS = """
SELECT count(*), string_agg(DISTINCT quote_ident(pg_get_userbyid(relowner)), ', ')
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND nspname NOT LIKE 'pg\\_%%' AND nspname <> 'information_schema'
    AND NOT pg_has_role(relowner, 'USAGE')
"""
_MONITOR = "SELECT pg_has_role('pg_monitor', 'USAGE')"


class _Query(Protocol):
    def __call__(self, text: str, **values: Any) -> list[tuple[Any, ...]]: ...


def examine(query: _Query, journal: str) -> Iterator[Finding]:
    """Look at the server, and at what the role may do; `journal` is a table of the journal."""
    ((database, role, where, version, number),) = query(_WHERE)
    yield Finding(check="connection", what=f"the database {database} at {where}, as {role}")
    if number < _OLDEST:
        yield warning("version", f"{version} is older than what is promised", "Upgrade to 12.")
    else:
        yield Finding(check="version", what=version)
    yield from _permission(query, role, journal)
    ((sees,),) = query(_MONITOR)
    if not sees:
        yield warning(
            "monitoring",
            f"{role} cannot see how far standbys are: bulk work waits for none that lags",
            f"GRANT pg_monitor TO {role}",
        )


def _permission(query: _Query, role: str, journal: str) -> Iterator[Finding]:
    ((writes,),) = query(_JOURNAL, journal=journal)
    if not writes:
        yield problem(
            "permission",
            f"{role} may not write the journal, which is in the schema public",
            f"GRANT USAGE, CREATE ON SCHEMA public TO {role}",
        )
    ((count, owners),) = query(_OTHERS)
    if count:
        yield warning(
            "ownership",
            f"tables that {role} cannot alter, for they belong to {owners}: {count}",
            f"GRANT {owners} TO {role}, where migrations are to change them.",
        )
    elif writes:
        yield Finding(check="permission", what=f"{role} may write the journal and alter all tables")
