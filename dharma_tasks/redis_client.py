"""The one way to connect to Redis."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from dharma_tasks.certificates import Trust
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.settings import Settings
from dharma_tasks.urls import misread

ANSWER_SECONDS = 3
"""How long Redis may take to answer; a hung Redis must not hang a worker (Law 8)."""
_PART_OF_LEASE = 0.3
"""And no longer than this: who cannot renew in time must find out before the lease is over."""
_TRUST = Trust(
    setting="DHARMA_REDIS_URL",
    authority="ssl_ca_certs=FILE in DHARMA_REDIS_URL",
    client="ssl_certfile=FILE&ssl_keyfile=FILE in DHARMA_REDIS_URL",
)


def redis_url(settings: Settings) -> str:
    """Where Redis is, for its own client and for Celery's.

    With `rediss://` both check the server's certificate and its name, unless the URL itself says
    otherwise: Kombu alone would check neither.

    Raises:
        Refused: it is not a URL of Redis.
    """
    url = settings.redis_url.get_secret_value()
    parts = _parts(url)
    if parts.scheme != "rediss":
        return url
    query = dict(parse_qsl(parts.query))
    query.setdefault("ssl_cert_reqs", "required")
    if query["ssl_cert_reqs"] != "none":
        query.setdefault("ssl_check_hostname", "true")
    return urlunsplit(parts._replace(query=urlencode(query, safe="/")))


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:  # a bracket that is not closed
        parts = urlsplit("")
    if misread(url) or parts.scheme not in {"redis", "rediss", "unix"}:
        # Nothing of it is quoted: it may be a part of the password.
        todo = "Write redis://USER:PASSWORD@HOST:PORT/0, with % codes where needed."
        raise Refused([Problem("", "", "DHARMA_REDIS_URL is not a URL of Redis", todo)])
    return parts


def connect_redis(settings: Settings) -> Redis:
    """Make a client that answers with text and tries a lost connection again once.

    Raises:
        Refused: the URL cannot be read.
    """
    seconds = min(ANSWER_SECONDS, _PART_OF_LEASE * settings.lease_seconds)
    return Redis.from_url(
        redis_url(settings),
        decode_responses=True,
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
        socket_keepalive=True,
        health_check_interval=15,
        retry=Retry(ExponentialBackoff(cap=0.2, base=0.05), 1),
        retry_on_error=[RedisConnectionError],
    )


def lost(error: Exception, what: str = "Redis cannot be used any more") -> Unreachable:
    """Say that Redis, which has answered before, does not any more."""
    return Unreachable(f"{what}: {_with_advice(error, 'Try again when it is back')}")


def _with_advice(error: Exception, otherwise: str) -> str:
    why = str(error).rstrip(".")
    return f"{why}. {_TRUST.advice(why) or otherwise}"


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
        why = _with_advice(error, "Start it, or set DHARMA_REDIS_URL to where it is")
        msg = f"Redis at {where} cannot be used: {why}"
        raise Unreachable(msg) from error
    return redis
