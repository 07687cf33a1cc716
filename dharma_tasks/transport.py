"""Kombu's Redis transport, so that a worker outlives a restart of Redis, and garbage in it.

When the connection is lost, a task that ends late acknowledges on a channel that is closed
already. Kombu 5.7 meets that with an AttributeError, which Celery takes for a fault of the
program: it ends the worker ("Unrecoverable error"). It is a lost connection, and is named so
here; Celery then connects again, and what was not acknowledged is sent again, harmlessly
(Law 6). The same was reported for other ends of a channel: celery/kombu#582, celery/kombu#970.

An entry of a queue that is no message, or one that Celery can make nothing of, ends a worker as
well, which has taken it by then. It is thrown away: else it would go back to the queue and end the
next worker, or stay with this one, which would take no more when it has as many as it may have.
"""

from __future__ import annotations

from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError

from dharma_tasks.logs import get_logger

_NO_MESSAGE = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DataError)
"""How Kombu, Celery and Redis' client meet what is not formed like a message."""

log = get_logger()


class Channel(redis.Channel):
    """A channel that says so when it is closed, and reads on after what is no message."""

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # noqa: FBT001, FBT002 - Kombu's
        self._confirm_open()
        found: dict[str, Any] = super()._connparams(asynchronous)  # type: ignore[misc]  # not in the stubs
        return found

    def _brpop_read(self, **options: Any) -> Any:
        before = self._delivered
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]  # not in the stubs
        except _NO_MESSAGE as error:
            self._confirm_open()
            log.warning("thrown_away", reason=f"an entry of a queue is no message: {error!r}")
            self._reject_since(before)
            raise Empty from None

    @property
    def _delivered(self) -> dict[str, Any]:
        """What was taken, by its tag, and is not known to be acknowledged."""
        return dict(self.qos._delivered or {})  # noqa: SLF001 - nothing else says it

    def _reject_since(self, before: dict[str, Any]) -> None:
        """Drop what was delivered after `before`, also where it has the tag of what was there."""
        for tag, message in self._delivered.items():
            if before.get(tag) is not message:
                self.qos.reject(tag)

    def _confirm_open(self) -> None:
        if self.connection is None or self.connection.client is None:
            msg = "the channel is closed: its connection was lost"
            raise RedisConnectionError(msg)


class Transport(redis.Transport):
    """The transport of the URLs that begin with `redis://` and `rediss://`."""

    Channel = Channel


def install() -> None:
    """Let Kombu use this transport in the whole process."""
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), f"{__name__}:Transport"))
