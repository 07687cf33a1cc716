"""What Redis says now, beside what the journals said last; what is away stays as it was."""

from __future__ import annotations

import time
from collections.abc import Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from redis.exceptions import RedisError

from dharma_tasks import report
from dharma_tasks.databases import NAMES
from dharma_tasks.reading import Relayed, Send
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.report import Row, View
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.status import Pulse, feel
from dharma_tasks.watching.known import Journals, Known
from dharma_tasks.watching.submissions import Submission, Submissions

__all__ = ["Seen", "Sight"]


@dataclass(frozen=True)
class Seen:
    """All that is known at `now` (seconds since 1970).

    `pulse` is what Redis said last; if it has an error, that was before `lost`. `busy` is when an
    open run was last seen to have a database: what its journal said before is not the end of it.
    """

    now: float
    pulse: Pulse
    known: Mapping[str, Known]
    submissions: Mapping[str, Submission] = field(default_factory=dict)
    lost: float | None = None
    busy: Mapping[str, float] = field(default_factory=dict)

    def rows(self) -> dict[str, Row]:
        """What `submit` would show of each database at this moment."""
        unserved = frozenset(NAMES) - self.pulse.served
        found: dict[str, Row] = {}
        for name, submission in self.submissions.items():
            view = View(
                snapshot=submission.snapshot,
                now=self.now,
                plan=submission.plan,
                migrations=submission.migrations,
                surveyed=submission.surveyed,
                unserved=unserved,
            )
            found |= {row.database: row for row in report.rows(view) if row.database == name}
        return found


class Sight:
    """Looks again and again, for one who watches; a look waits for Redis, and for nobody else."""

    def __init__(self, settings: Settings, send: Send, entries: int = 0) -> None:
        """Read nothing yet; `send` asks workers. `entries` of each audit trail are read too."""
        self._settings = settings
        self._send = send
        self._redis = connect_redis(settings)
        self._submissions = Submissions(Runs(self._redis, settings.namespace))
        pool = ThreadPoolExecutor(len(NAMES), "journal")
        self._journals = Journals(settings, send, pool, self._queued, entries)
        self._pulse = Pulse()
        self._lost: float | None = None
        self._busy: dict[str, float] = {}
        self._found: dict[str, Submission] = {}

    def look(self) -> Seen:
        """Read what Redis says now, and ask the journals again where that is due."""
        self._feel()
        known = self._journals.known()
        self._journals.refresh(self._relayed(), self._marks())
        busy = dict(self._busy)
        return Seen(time.time(), self._pulse, known, self._found, self._lost, busy)

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
