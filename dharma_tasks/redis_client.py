"""The one way to connect to Redis."""

from __future__ import annotations

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry

from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.settings import Settings

ANSWER_SECONDS = 3
"""How long Redis may take to answer; a hung Redis must not hang a worker (Law 8)."""
_PART_OF_LEASE = 0.3
"""And no longer than this: who cannot renew in time must find out before the lease is over."""


def connect_redis(settings: Settings) -> Redis:
    """Make a client that answers with text and tries a lost connection again once.

    Raises:
        Refused: the URL cannot be read.
    """
    seconds = min(ANSWER_SECONDS, _PART_OF_LEASE * settings.lease_seconds)
    try:
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
    except ValueError:
        # Not the driver's own message: it quotes what may be a part of the password.
        what = "DHARMA_REDIS_URL is not a URL of Redis"
        todo = "Write redis://USER:PASSWORD@HOST:PORT/0, with % codes where needed."
        raise Refused([Problem("", "", what, todo)]) from None


def lost(error: RedisError) -> Unreachable:
    """Say that Redis, which has answered before, does not any more."""
    return Unreachable(f"Redis cannot be used any more: {error}. Try again when it is back.")


def require_redis(settings: Settings) -> Redis:
    """Connect, and make sure that Redis answers.

    Raises:
        Unreachable: it does not.
        Refused: the URL cannot be read.
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
