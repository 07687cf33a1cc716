"""How a database is: what bulk work asks between its batches, and waits for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from dharma_tasks.databases.base import Database, Fault
from dharma_tasks.logs import get_logger

log = get_logger()

LOOK_SECONDS = 2
"""How often it is looked at, and so for how long bulk work waits at least."""


class Health:
    """Of one database, for one operation. `warn` shows a person what cannot be seen."""

    def __init__(self, database: Database[Any], warn: Callable[[str], None]) -> None:
        """Nothing was looked at yet."""
        self._database = database
        self._warn = warn
        self._told: set[str] = set()
        self._looked: float | None = None
        self._reason: str | None = None

    def strain(self) -> str | None:
        """Why bulk work is to wait, as of not long ago. What may not be seen is no reason."""
        now = time.monotonic()
        if self._looked is None or now - self._looked >= LOOK_SECONDS:
            before, self._reason = self._reason, self._look()
            self._looked = now
            if self._reason and not before:
                log.warning("waits", reason=self._reason)
        return self._reason

    def _look(self) -> str | None:
        try:
            return self._database.strain(self._unseen)
        except Exception as error:
            if self._database.classify(error) is not Fault.LASTING:
                raise
            said = self._database.describe(error)
            name = self._database.name
            self._unseen(f"how {name} is cannot be seen, and is not waited for: {said}")
            return None

    def _unseen(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            self._warn(what)
