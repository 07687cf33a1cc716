"""The one way to connect to Redis."""

from __future__ import annotations

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from dharma_tasks.errors import Unreachable
from dharma_tasks.settings import Settings

ANSWER_SECONDS = 3
"""How long Redis may take to answer; a hung Redis must not hang a worker (Law 8)."""
_PART_OF_LEASE = 0.3
"""And no longer than this: who cannot renew in time must find out before the lease is over."""


def connect_redis(settings: Settings) -> Redis:
    """Make a client that answers with text and tries a lost connection again once."""
    seconds = min(ANSWER_SECONDS, _PART_OF_LEASE * settings.lease_seconds)
    return Redis.from_url(
        settings.redis_url.get_secret_value(),
        decode_responses=True,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        retry_on_error=[RedisConnectionError],
    )


def lost(error: RedisError) -> Unreachable:
    """Say that Redis, which has answered before, does not any more."""
    return Unreachable(f"Redis cannot be used any more: {error}. Try again when it is back.")


def require_redis(settings: Settings) -> Redis:
    """Connect, and make sure that Redis answers.

    Raises:
        Unreachable: it does not.
    """
    redis = connect_redis(settings)
    try:
        redis.ping()
    except Exception as error:
        kwargs = redis.connection_pool.connection_kwargs
        where = kwargs.get("path") or f"{kwargs.get('host')}:{kwargs.get('port')}"
        msg = (
            f"Redis at {where} cannot be used: {str(error).rstrip('.')}. Start it, or set "
            "DHARMA_REDIS_URL to where it is"
        )
        raise Unreachable(msg) from error
    return redis
