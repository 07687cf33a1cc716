"""What `dharma doctor` looks at in Redis."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from dharma_tasks.findings import Finding, problem, warning

_OLDEST = (6, 2)
_CLOCK_SECONDS = 2
"""Times of heartbeats, and windows, are by the clocks of those who take part."""


def examine(redis: Redis, namespace: str) -> Iterator[Finding]:
    """Look at the server behind `redis`; one key is written, and deleted again.

    Raises:
        redis.exceptions.RedisError: it cannot be reached any more.
    """
    kwargs = redis.connection_pool.connection_kwargs
    where = kwargs.get("path") or f"{kwargs.get('host')}:{kwargs.get('port')}"
    yield Finding(check="connection", what=f"database {kwargs.get('db') or 0} at {where}")
    try:
        found: Any = redis.info("everything")
    except ResponseError as error:  # an ACL
        yield warning("server", f"nothing of it can be seen: {error}", "Allow this user INFO.")
    else:
        yield _version(found["redis_version"])
        yield _eviction(found)
        yield _persistence(redis, found)
    yield _writing(redis, namespace)
    yield _clock(redis)


def _version(found: str) -> Finding:
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        return warning("version", f"{found} is older than what is promised", "Upgrade to 6.2.")
    return Finding(check="version", what=found)


def _eviction(found: dict[str, Any]) -> Finding:
    policy = found["maxmemory_policy"]
    todo = "Set maxmemory-policy to noeviction: a broker's keys must not be thrown away."
    if policy == "noeviction":
        return Finding(check="eviction", what=policy)
    if found["maxmemory"]:
        return problem("eviction", f"{policy}: queues and leases may be thrown away", todo)
    return warning("eviction", f"{policy}, which counts as soon as maxmemory is set", todo)


def _persistence(redis: Redis, found: dict[str, Any]) -> Finding:
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if found.get(name, "ok") != "ok"
    ]
    if failed:
        what = f"Redis could not write to its disk ({', '.join(failed)}), and may refuse writes"
        return problem("persistence", what, "See its log: often the disk is full.")
    if found.get("aof_enabled"):
        return Finding(check="persistence", what="append-only file")
    saves = _saves(redis)
    if saves is None:
        return Finding(check="persistence", what="no append-only file; snapshots are not shown")
    if saves:
        return Finding(check="persistence", what=f"snapshots ({saves})")
    return warning(
        "persistence",
        "none: after a restart of Redis the runs are gone; a submit goes on from the journals",
        "Set appendonly to yes.",
    )


def _saves(redis: Redis) -> str | None:
    """When snapshots are made; None where a user, or a hosted Redis, may not be asked."""
    try:
        found: Any = redis.config_get("save")
    except ResponseError:
        return None
    return str(found.get("save", ""))


def _writing(redis: Redis, namespace: str) -> Finding:
    try:
        key = f"{namespace}:doctor"
        redis.set(key, "", ex=1)
        redis.delete(key)
    except ResponseError as error:  # a replica, an ACL, no memory left
        return problem("writing", str(error), "Let this URL lead to a primary with room in it.")
    return Finding(check="writing", what="works")


def _clock(redis: Redis) -> Finding:
    before = time.time()
    found: Any = redis.time()
    there = found[0] + found[1] / 1_000_000
    apart = max(before - there, there - time.time(), 0.0)
    if apart > _CLOCK_SECONDS:
        what = f"that of Redis and the one here are {apart:.0f} s apart"
        return warning("clock", what, "Let both follow a time server (NTP).")
    return Finding(check="clock", what="as the one here")
