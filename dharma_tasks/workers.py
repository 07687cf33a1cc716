"""The workers that are alive, as they announce themselves in Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from redis import Redis


class Worker(BaseModel):
    """One live worker: its name and the databases that it serves."""

    model_config = ConfigDict(frozen=True)

    name: str
    databases: tuple[str, ...]


class Workers:
    """The live workers of one namespace."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        """`redis` answers with text."""
        # redis-py's annotations say "bytes or str" whatever was asked for.
        self._redis: Any = redis
        self._namespace = namespace
        self._names = f"{namespace}:workers"
        self._prefix = f"{namespace}:worker:"

    def announce(self, worker: Worker, seconds: float) -> None:
        """Say that `worker` is alive; it counts as gone `seconds` later unless it says so again."""
        with self._redis.pipeline() as pipe:
            pipe.set(self._prefix + worker.name, worker.model_dump_json(), px=int(seconds * 1000))
            pipe.sadd(self._names, worker.name)
            pipe.execute()

    def leave(self, name: str) -> None:
        """Say that the worker `name` is gone."""
        with self._redis.pipeline() as pipe:
            pipe.delete(self._prefix + name)
            pipe.srem(self._names, name)
            pipe.execute()

    def alive(self) -> list[Worker]:
        """Every live worker; names that ran out are forgotten."""
        names = sorted(self._redis.smembers(self._names))
        if not names:
            return []
        found = self._redis.mget([self._prefix + name for name in names])
        gone = [name for name, text in zip(names, found, strict=True) if text is None]
        if gone:
            self._redis.srem(self._names, *gone)
        return [Worker.model_validate_json(text) for text in found if text is not None]

    def waiting(self, queue: str) -> int:
        """How many messages wait in a queue for any of them to be free."""
        return int(self._redis.llen(f"{self._namespace}:{queue}"))

    def served(self) -> set[str]:
        """The databases that any live worker serves."""
        return {database for worker in self.alive() for database in worker.databases}
