"""Keeps what the page shows up to date while somebody looks, once for all who look."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

import structlog
from redis.exceptions import RedisError

from dharma_tasks.databases import NAMES
from dharma_tasks.page.known import Journals, Known
from dharma_tasks.page.lines import Lines
from dharma_tasks.page.making import Facts, make
from dharma_tasks.page.shown import Shown
from dharma_tasks.page.submissions import Submission, Submissions
from dharma_tasks.reading import Relayed, Send
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.status import Pulse, feel

__all__ = ["Watch"]

log = structlog.get_logger()

_EVERY_SECONDS = 0.7
"""How often Redis is read while somebody looks."""
_IDLE_SECONDS = 15
"""After so long without a look nothing is read any more."""


class Watch:
    """What the page shows. Its own thread reads; whoever asks for it waits for nobody."""

    def __init__(self, settings: Settings, send: Send) -> None:
        """Read nothing yet; `send` asks workers."""
        self._settings = settings
        self._send = send
        self._redis = connect_redis(settings)
        self._submissions = Submissions(Runs(self._redis, settings.namespace))
        pool = ThreadPoolExecutor(len(NAMES), "journal")
        self._journals = Journals(settings, send, pool, self._queued)
        self._lines = Lines()
        self._pulse = Pulse()
        self._lost: float | None = None
        self._busy: dict[str, float] = {}
        self._found: dict[str, Submission] = {}
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
            except Exception as error:
                log.exception("migrations_page_stands_still")
                self._shown = self._stands_still(error)
            time.sleep(_EVERY_SECONDS)

    def _stands_still(self, error: Exception) -> Shown:
        """What was shown before, and why it is no longer kept up to date."""
        now = datetime.now(UTC)
        before = self._shown or Shown(at=now)
        why = f"This page has a fault, {type(error).__name__}: Flower's log says more"
        return before.model_copy(update={"lost": why, "lost_since": before.lost_since or now})

    def look(self) -> Shown:
        """Read what Redis says now, and put it together with what the journals said last."""
        self._feel()
        known = self._journals.known()
        self._journals.refresh(self._relayed(), self._marks())
        lines = self._lines.put_together(known, self._found)
        now = time.time()
        return make(Facts(now, self._pulse, known, lines, self._found, self._lost, self._busy))

    def _feel(self) -> None:
        """Read Redis; without it what was read last stays, and is shown as that."""
        try:
            pulse = feel(self._redis, self._settings)
            last = {name: _last(known) for name, known in self._journals.known().items()}
            self._found = self._submissions.by_database(pulse.snapshots, last)
            self._pulse, self._lost = pulse, None
            busy = {name for found in pulse.snapshots for name in found.run.databases}
            self._busy |= dict.fromkeys(busy, time.time())
        except RedisError as error:
            said = f"Redis cannot be read: {str(error).rstrip('.')}"
            self._pulse = replace(self._pulse, error=said, redis=None, leases=None)
            self._lost = self._lost or time.time()

    def _queued(self, database: str) -> int:
        redis: Any = self._redis
        try:
            return int(redis.llen(f"{self._settings.namespace}:{database}"))
        except RedisError:
            return 0

    def _relayed(self) -> Relayed:
        return Relayed(self._pulse.redis, self._pulse.served, self._send)

    def _marks(self) -> Mapping[str, Hashable]:
        """What changes in Redis when something ends that the journals have to tell of."""
        marks: dict[str, Hashable] = {}
        for found in self._pulse.snapshots:
            for name in found.run.databases:
                working = found.working.get(name)
                at = (working.version, working.until) if working else None
                progress = found.progress.get(name)
                waits = progress is not None and progress.waiting is not None
                marks[name] = (found.run.id, found.state, found.done.get(name), at, waits)
        return marks


def _last(known: Known) -> str | None:
    """The run that the journal was opened by last."""
    return known.survey.head.run if known.survey and known.survey.head else None
