"""Leases in Redis keep workers apart in the usual case; the journal's fence makes it certain.

A lease lives as long as its holder gives signs of life. It names the holder's node, boot, pid
and start, so that a neighbour on that node sees at once that the holder is dead (Law 6).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict
from redis.exceptions import RedisError

from dharma_tasks.errors import LeaseHeld, LeaseLost
from dharma_tasks.identity import is_dead
from dharma_tasks.migration import Key
from dharma_tasks.records import Owner

if TYPE_CHECKING:
    from redis import Redis

# A lease that ran out while nobody wanted it is ours again: the fence decides, not the lease.
_RENEW = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""
_RELEASE = """
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0
"""
_TAKE_FROM = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""


class Held(BaseModel):
    """The value of a lease: who holds it, and a token that no other lease has.

    A `broken` one was taken from its holder on purpose. It stays for the time of a lease, so
    that the holder's next sign of life meets it and not a free place, and anybody may take it.
    """

    model_config = ConfigDict(frozen=True)

    holder: Owner
    token: str
    run: str
    broken: bool = False

    @property
    def free(self) -> bool:
        """Whether another worker may take it at once."""
        return self.broken or is_dead(self.holder)


class Lease:
    """A lease that this worker holds. `renew` and `confirm` may be called from any thread."""

    def __init__(self, leases: Leases, name: str, held: Held) -> None:
        """Begin from a lease that was taken this moment."""
        self._leases = leases
        self._name = name
        self._value = held.model_dump_json()
        self._renewed = time.monotonic()

    def renew(self) -> None:
        """Give a sign of life. Call it only when work really moved (Law 8).

        While Redis does not answer the lease is ours until its time is over.

        Raises:
            LeaseLost: somebody else has it, or Redis was out of reach for too long.
        """
        try:
            self._extend()
        except RedisError as error:
            if time.monotonic() - self._renewed < self._leases.seconds:
                return
            msg = f"Redis could not be reached for {self._leases.seconds:g} s: {error}"
            raise LeaseLost(msg) from error

    def confirm(self) -> None:
        """Make sure that the lease is ours at this moment, for a command without a transaction.

        Raises:
            LeaseLost: it is not, or Redis does not answer, so nobody can tell.
        """
        try:
            self._extend()
        except RedisError as error:
            msg = f"the lease cannot be confirmed: {error}"
            raise LeaseLost(msg) from error

    def _extend(self) -> None:
        asked = time.monotonic()
        if not self._leases.renew(self._name, self._value):
            msg = "another worker has the lease now, or somebody broke it (dharma unlock)"
            raise LeaseLost(msg)
        self._renewed = asked

    def release(self) -> None:
        """Give it up. Harmless when it is not ours any more, or when Redis is out of reach."""
        try:
            self._leases.release(self._name, self._value)
        except RedisError:
            return


class Leases:
    """The leases of one namespace."""

    def __init__(self, redis: Redis, namespace: str, seconds: float) -> None:
        """`seconds` is how long a lease lives without a sign of life."""
        self._redis = redis
        self._prefix = f"{namespace}:lease:"
        self.seconds = seconds
        self._renew = redis.register_script(_RENEW)
        self._release = redis.register_script(_RELEASE)
        self._take_from = redis.register_script(_TAKE_FROM)

    @property
    def _milliseconds(self) -> int:
        return int(self.seconds * 1000)

    def acquire(self, key: Key, holder: Owner, run: str) -> Lease:
        """Take the lease on one operation; from a dead neighbour at once.

        Raises:
            LeaseHeld: a worker that is alive, or on another node, has it.
        """
        name = f"{self._prefix}{key}"
        held = Held(holder=holder, token=uuid.uuid4().hex, run=run)
        value = held.model_dump_json()
        if self._redis.set(name, value, nx=True, px=self._milliseconds):
            return Lease(self, name, held)
        current = self._redis.get(name)
        if current is None:
            return self.acquire(key, holder, run)
        other = Held.model_validate_json(current)
        if other.free and self._take_from(keys=[name], args=[current, value, self._milliseconds]):
            return Lease(self, name, held)
        msg = f"{key} is held by {other.holder.worker} (pid {other.holder.pid})"
        raise LeaseHeld(msg)

    def live(self, keys: Iterable[Key]) -> int:
        """How many of these have a lease that somebody holds."""
        return int(self._redis.exists(*(f"{self._prefix}{key}" for key in keys)))

    def holder(self, key: Key) -> Owner | None:
        """Who holds the lease and is not known to be dead."""
        held = self.held(key)
        return None if held is None or held.free else held.holder

    def held(self, key: Key) -> Held | None:
        """The lease as it stands, whoever's it is."""
        current = self._redis.get(f"{self._prefix}{key}")
        return Held.model_validate_json(current) if current else None

    def break_(self, key: Key, token: str) -> bool:
        """Take the lease `token` from its holder; False where it is another one by now."""
        name = f"{self._prefix}{key}"
        current = self._redis.get(name)
        if current is None:
            return False
        held = Held.model_validate_json(current)
        if held.token != token:
            return False
        broken = held.model_copy(update={"broken": True}).model_dump_json()
        return bool(self._take_from(keys=[name], args=[current, broken, self._milliseconds]))

    def renew(self, name: str, value: str) -> bool:
        """Extend the lease `name` if it is still `value`, or nobody's."""
        return bool(self._renew(keys=[name], args=[value, self._milliseconds]))

    def release(self, name: str, value: str) -> None:
        """Delete the lease `name` if it is still `value`."""
        self._release(keys=[name], args=[value])
