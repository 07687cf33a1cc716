"""A mongod that fails, or stands still, on command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from place import Place
from pydantic import SecretStr
from pymongo import MongoClient


@dataclass(frozen=True)
class FailingMongod:
    """One that was started with `enableTestCommands`."""

    url: str

    def serve(self, place: Place) -> None:
        """Let it be the MongoDB of this test, in a database of the test's own."""
        url = SecretStr(self.url.replace("/dharma?", f"/{place.settings.namespace}?"))
        place.settings = place.settings.model_copy(update={"mongodb_url": url})

    @contextmanager
    def fails(self, point: str, mode: Any = "alwaysOn", **data: Any) -> Iterator[None]:
        """Turn a fail point on, and off again."""
        with MongoClient[dict[str, Any]](self.url) as client:
            client.admin.command({"configureFailPoint": point, "mode": mode, "data": data})
            try:
                yield
            finally:
                client.admin.command({"configureFailPoint": point, "mode": "off"})
