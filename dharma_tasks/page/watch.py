"""Keeps what the page shows up to date while somebody looks, once for all who look."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from threading import Event, Thread

from dharma_tasks.logs import get_logger, stack_of
from dharma_tasks.page.lines import Lines
from dharma_tasks.page.making import Facts, make
from dharma_tasks.page.shown import Shown
from dharma_tasks.reading import Send
from dharma_tasks.settings import Settings
from dharma_tasks.watching.sight import Sight

__all__ = ["Watch"]

log = get_logger()

_EVERY_SECONDS = 0.7
"""How often Redis is read while somebody looks."""
_IDLE_SECONDS = 15
"""After so long without a look nothing is read any more."""
_ENTRIES = 50
"""How many entries of each audit trail are read."""


class Watch:
    """What the page shows. Its own thread reads; whoever asks for it waits for nobody."""

    def __init__(self, settings: Settings, send: Send) -> None:
        """Read nothing yet; `send` asks workers."""
        self._sight = Sight(settings, send, _ENTRIES)
        self._lines = Lines()
        self._shown: Shown | None = None
        self._looked = float("-inf")
        self._wanted = Event()
        self._thread: Thread | None = None

    def shown(self) -> Shown | None:
        """The newest there is, and let it be kept up to date; None before the first."""
        if time.monotonic() - self._looked > _IDLE_SECONDS:
            self._shown = None  # nobody has kept it up to date
        self._looked = time.monotonic()
        if self._thread is None:
            self._thread = Thread(target=self._keep, name="migrations-page", daemon=True)
            self._thread.start()
        self._wanted.set()
        return self._shown

    def _keep(self) -> None:
        while True:
            self._wanted.wait()
            if time.monotonic() - self._looked > _IDLE_SECONDS:
                self._wanted.clear()
                continue
            try:
                self._shown = self.look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the page says it
                log.error("migrations_page_stands_still", **stack_of(error))
                self._shown = self._stands_still(error)
            time.sleep(_EVERY_SECONDS)

    def _stands_still(self, error: Exception) -> Shown:
        """What was shown before, and why it is no longer kept up to date."""
        now = datetime.now(UTC)
        before = self._shown or Shown(at=now)
        why = f"This page has a fault, {type(error).__name__}: Flower's log says more"
        return before.model_copy(update={"lost": why, "lost_since": before.lost_since or now})

    def look(self) -> Shown:
        """Make what is shown now."""
        seen = self._sight.look()
        lines = self._lines.put_together(seen.known, seen.submissions)
        return make(Facts(seen, lines))
