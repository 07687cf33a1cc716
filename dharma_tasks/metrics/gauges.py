"""How the runs stand, for Prometheus: every worker says the same of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dharma_tasks.databases import NAMES
from dharma_tasks.metrics.standing import Position, Seen, Standing
from dharma_tasks.run import RunState

_OPEN = tuple(state for state in RunState if not state.over)
_OVER = tuple(state for state in RunState if state.over)


class Gauges(Collector):
    """Shows what was seen last, until that is too old to be true."""

    def __init__(self, keep_seconds: float) -> None:
        """What is older than `keep_seconds` is not shown: it is said that Redis is away."""
        self._keep_seconds = keep_seconds
        self._seen: Seen | None = None

    def show(self, seen: Seen) -> None:
        """Show this from now on."""
        self._seen = seen

    def collect(self) -> Iterator[Metric]:
        """Of each open run, of how the others have ended, and of the workers."""
        seen = self._seen
        fresh = seen is not None and time.monotonic() - seen.at < self._keep_seconds
        yield GaugeMetricFamily(
            "dharma_redis_up", "Whether this worker has read Redis just now.", float(fresh)
        )
        if seen is not None and fresh:
            yield from _runs(seen)
            yield from _databases(seen)
            yield from _positions(seen.positions)


def _runs(seen: Seen) -> Iterator[Metric]:
    runs = GaugeMetricFamily("dharma_runs", "Open runs.", labels=["state"])
    for state in _OPEN:
        runs.add_metric([state], sum(each.state is state for each in seen.snapshots))
    yield runs
    ended = CounterMetricFamily(
        "dharma_runs_ended", "Runs that are over, since Redis has kept count.", labels=["state"]
    )
    for state in _OVER:
        ended.add_metric([state], seen.ended.counts.get(state, 0))
    yield ended


def _databases(seen: Seen) -> Iterator[Metric]:
    last = GaugeMetricFamily(
        "dharma_last_run",
        "1 for how the last run ended that was to change the database.",
        labels=["database", "state"],
    )
    for name, state in seen.ended.last.items():
        last.add_metric([name, state], 1)
    yield last
    workers = GaugeMetricFamily(
        "dharma_workers", "Live workers that serve the database.", labels=["database"]
    )
    operations = GaugeMetricFamily(
        "dharma_operations",
        "Operations that are next in an open run.",
        labels=["database", "state"],
    )
    for name in NAMES:
        workers.add_metric([name], seen.serving.get(name, 0))
        position = seen.positions.get(name)
        for standing in Standing:
            is_it = position is not None and position.standing is standing
            operations.add_metric([name, standing], float(is_it))
    yield workers
    yield operations


def _positions(positions: Mapping[str, Position]) -> Iterator[Metric]:
    """Of what is at work. What rests, or is paused, gives no signs of life on purpose."""
    moving = {name: each for name, each in positions.items() if each.standing.moves}
    known = {name: each.progress for name, each in moving.items() if each.progress}
    yield _by_database(
        "dharma_lease_age_seconds",
        "Since the lease was renewed last.",
        {name: each.lease for name, each in moving.items()},
    )
    now = time.time()
    yield _by_database(
        "dharma_heartbeat_age_seconds",
        "Since the operation gave its last sign of life.",
        {name: max(now - each.heartbeat, 0) for name, each in known.items()},
    )
    yield _by_database(
        "dharma_stuck_seconds",
        "For how long passing errors have kept the operation from moving.",
        {name: each.stuck_for for name, each in known.items()},
    )
    yield _by_database(
        "dharma_operation_documents",
        "What the operation has worked through.",
        {name: each.done for name, each in known.items()},
    )
    yield _by_database(
        "dharma_operation_documents_expected",
        "What it has to work through, where that is known.",
        {name: each.total for name, each in known.items()},
    )


def _by_database(name: str, text: str, values: Mapping[str, Any]) -> Metric:
    found = GaugeMetricFamily(name, text, labels=["database"])
    for database, value in values.items():
        if value is not None:
            found.add_metric([database], value)
    return found
