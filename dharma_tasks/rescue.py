"""Every worker is a rescuer (Law 5): it looks for work that nobody does, and sends it again.

A message in a dead worker's unacknowledged set does not count as queued, and Redis may have
lost the queue; so what counts is: the run says that an operation is next, no live lease is on
it, and its queue is empty. A duplicate steps aside, so being wrong costs only a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from redis import Redis

from dharma_tasks.lease import Leases
from dharma_tasks.logs import get_logger, stack_of
from dharma_tasks.messages import Chain, operation_chain, orphans
from dharma_tasks.run import Snapshot
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings

log = get_logger()


class Rescuer:
    """Looks after the databases that one worker serves."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        databases: Iterable[str],
        queued: Callable[[str], int],
    ) -> None:
        """`queued` says how many messages wait in a database's queue."""
        self._runs = Runs(redis, settings.namespace)
        self._leases = Leases(redis, settings.namespace, settings.lease_seconds)
        self._databases = tuple(databases)
        self._queued = queued
        self._interval = settings.rescue_seconds
        self._absent: set[str] | None = None
        """What had no live lease at the last look: an operation that just ends has none either.

        None before the first look: a worker that starts finds what the last one left."""

    def look(self) -> list[Chain]:
        """Return the chains to send again: each once an interval, over all workers."""
        absent: set[str] = set()
        chains: list[Chain] = []
        for snapshot in self._runs.open():
            try:
                chains += self._of(snapshot, absent)
            except (LookupError, ValueError) as error:
                # What one run's record says must not stop the rest.
                log.error("not_rescued", run=snapshot.run.id, **stack_of(error))
        self._absent = absent
        return chains

    def _of(self, snapshot: Snapshot, absent: set[str]) -> Iterator[Chain]:
        """Of one run; what has no live lease now is added to `absent`."""
        yield from self._advanced(snapshot)
        for name, chain in self._orphans(snapshot):
            absent.add(name)
            seen = self._absent is None or name in self._absent
            if seen and self._runs.claim_rescue(name, self._interval):
                log.warning("rescue", run=snapshot.run.id, what=name)
                yield chain

    def _advanced(self, snapshot: Snapshot) -> list[Chain]:
        """What is ready and was not started: who was to do it died before."""
        ready = self._runs.advance(snapshot.run)
        return [operation_chain(self._runs, snapshot.run, upcoming) for upcoming in ready]

    def _orphans(self, snapshot: Snapshot) -> Iterator[tuple[str, Chain]]:
        quiet = [database for database in self._databases if not self._queued(database)]
        return orphans(self._runs, self._leases, snapshot, quiet)
