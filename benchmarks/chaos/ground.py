"""Where a campaign takes place: engines, settings, folders, and plain clients of each engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from elasticsearch import Elasticsearch
from pymongo import MongoClient
from redis import Redis

from dharma_tasks.lease import Held
from dharma_tasks.local import LocalEngines
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.settings import Settings

Document = dict[str, Any]
DATABASES = ("mongodb", "postgresql", "elasticsearch")


@dataclass
class Ground:
    """Everything that the parts of a campaign share. `folder` holds migrations and logs."""

    engines: LocalEngines
    settings: Settings
    folder: Path
    findings: list[str] = field(default_factory=list)
    """What was found that must not be: any of them makes the campaign fail."""
    begun: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        """Make the folders and the clients, which connect on first use."""
        for folder in (self.logs, self.migrations):
            folder.mkdir(parents=True, exist_ok=True)
        self.redis: Redis = connect_redis(self.settings)
        self.mongodb: MongoClient[Document] = MongoClient(
            self._url("mongodb"), serverSelectionTimeoutMS=2000, socketTimeoutMS=20_000
        )
        self.elasticsearch = Elasticsearch(
            self._url("elasticsearch"), request_timeout=20, max_retries=0
        )

    @property
    def logs(self) -> Path:
        """What workers and submits say, and what was going on when something was found."""
        return self.folder / "logs"

    @property
    def batches(self) -> Path:
        """The batches that the workers have begun: see `batches.py`."""
        return self.folder / "batches"

    @property
    def migrations(self) -> Path:
        """The migrations folder."""
        return self.folder / "migrations"

    @property
    def namespace(self) -> str:
        """In front of every name in Redis and Elasticsearch, and of the journals'."""
        return self.settings.namespace

    @property
    def environment(self) -> dict[str, str]:
        """The environment of workers and submits."""
        urls = {f"DHARMA_{name.upper()}_URL": self._url(name) for name in (*DATABASES, "redis")}
        clean = {k: v for k, v in os.environ.items() if not k.startswith("DHARMA_")}
        settings = {
            "DHARMA_NAMESPACE": self.namespace,
            "DHARMA_LEASE_SECONDS": str(self.settings.lease_seconds),
            "DHARMA_RESCUE_SECONDS": str(self.settings.rescue_seconds),
            "DHARMA_BATCH_SECONDS": str(self.settings.batch_seconds),
            "DHARMA_MIGRATIONS_DIR": str(self.migrations),
        }
        return {**clean, **urls, **settings}

    def postgresql(self, *, timeout: int = 2) -> psycopg.Connection[Any]:
        """A new connection that commits each statement; PostgreSQL's clients do not reconnect."""
        url = self._url("postgresql")
        return psycopg.connect(url, autocommit=True, connect_timeout=timeout)

    def held(self) -> dict[str, Held]:
        """The leases by operation (`postgresql:1.0.0#1`), also those of the dead."""
        prefix = f"{self.namespace}:lease:"
        names: Any = sorted(self.redis.scan_iter(f"{prefix}*", count=1000))
        values: Any = self.redis.mget(names) if names else []
        return {
            name.removeprefix(prefix): Held.model_validate_json(value)
            for name, value in zip(names, values, strict=True)
            if value
        }

    def keys(self) -> list[str]:
        """All that Redis holds of this namespace."""
        names: Any = self.redis.scan_iter(f"{self.namespace}:*", count=1000)
        return sorted(names)

    def kept(self) -> list[str]:
        """Those of them that never expire."""
        return [name for name in self.keys() if self.redis.ttl(name) == -1]

    def say(self, text: str) -> None:
        """Print a line with the time since the campaign began."""
        print(f"{time.monotonic() - self.begun:7.1f} s  {text}", flush=True)

    def found(self, text: str) -> None:
        """Note something that must not be."""
        if text not in self.findings:
            self.findings.append(text)
            self.say(f"FOUND: {text}")

    def close(self) -> None:
        """Close the clients."""
        self.redis.close()
        self.mongodb.close()
        self.elasticsearch.close()

    def _url(self, name: str) -> str:
        url = self.settings.url(name)
        if url is None:
            msg = f"a campaign needs {name}"
            raise ValueError(msg)
        return url.get_secret_value()


def wait_for(condition: Callable[[], Any], seconds: float) -> bool:
    """Wait until `condition` is true; False where it never was."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True
