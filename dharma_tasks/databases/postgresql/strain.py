"""Why bulk work should wait: standbys that do not keep up, and sessions that wait for locks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dharma_tasks.settings import Settings

_LAGS = """
SELECT coalesce(nullif(application_name, ''), host(client_addr), 'pid ' || pid), state IS NULL,
    coalesce(extract(epoch FROM greatest(replay_lag,
        CASE WHEN replay_lsn < pg_catalog.pg_current_wal_lsn()
            THEN pg_catalog.clock_timestamp() - reply_time END)), 0)::float8
FROM pg_catalog.pg_stat_replication
WHERE state IS NULL OR state IN ('streaming', 'catchup')
ORDER BY 3 DESC
"""
"""A standby that is stopped answers no more: then its last answer counts, if it lacks anything.

Of who may not see it, everything but the name is NULL."""

_WAITS = """
SELECT count(DISTINCT l.pid) FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a USING (pid)
WHERE NOT l.granted AND a.datname = pg_catalog.current_database()
"""

_HIDDEN = (
    "the replication lag of PostgreSQL cannot be seen, and is not waited for "
    "(GRANT pg_monitor to this role)"
)


def strain(
    query: Callable[[str], list[tuple[Any, ...]]], settings: Settings, warn: Callable[[str], None]
) -> str | None:
    """The standby that is furthest behind, or how many sessions wait, if that is too much."""
    lags = query(_LAGS)
    if any(hidden for _, hidden, _ in lags):
        warn(_HIDDEN)
    for name, _, lag in lags[:1]:
        if lag > settings.max_lag_seconds:
            limit = f"DHARMA_MAX_LAG_SECONDS: {settings.max_lag_seconds:g}"
            return f"the standby {name} is {lag:.0f} s behind ({limit})"
    ((waits,),) = query(_WAITS)
    if waits > settings.max_lock_waits:
        limit = f"DHARMA_MAX_LOCK_WAITS: {settings.max_lock_waits}"
        return f"sessions of PostgreSQL that wait for a lock: {waits} ({limit})"
    return None
