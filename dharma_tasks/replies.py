"""Answers of workers to whoever waits for one: a list in Redis for each question."""

from __future__ import annotations

import time
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis import Redis

_KEPT_SECONDS = 60
"""How long an answer waits to be fetched."""
_LOOK_SECONDS = 0.05


def new_reply(namespace: str) -> str:
    """Name the list for one answer."""
    return f"{namespace}:reply:{uuid.uuid4().hex}"


def answer(redis: Redis, reply: str, text: str) -> None:
    """Put an answer there."""
    with redis.pipeline() as pipe:
        pipe.rpush(reply, text)
        pipe.expire(reply, _KEPT_SECONDS)
        pipe.execute()


def fetch(redis: Redis, reply: str, until: float) -> str | None:
    """Wait for an answer until then (monotonic clock); None where none has come.

    Asked for again and again: a read that blocks would meet the client's own timeout, which is
    short where leases are.
    """
    found: Any
    while (found := redis.lpop(reply)) is None and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
    return None if found is None else str(found)
