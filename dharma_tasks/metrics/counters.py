"""What one worker has done since it was started, as Prometheus' counters."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from dharma_tasks.measures import Measure, Measured

_OPERATION = ("database", "operation", "direction")
_BATCH_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 120, 600, 3600)
"""The usual batch takes about a second (DHARMA_BATCH_SECONDS); an index build is one batch."""


class Counters:
    """Counts what was measured. The labels have as many values as there are operations, no more."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """`registry` gets the counters."""
        self._batches = Histogram(
            "dharma_batch_seconds",
            "How long batches took, each with its checkpoint.",
            _OPERATION,
            registry=registry,
            buckets=_BATCH_SECONDS,
        )

        def counter(name: str, text: str, *more: str) -> Counter:
            return Counter(name, text, (*_OPERATION, *more), registry=registry)

        self._counters = {
            Measure.DOCUMENTS: counter(
                "dharma_documents", "Documents, rows or statements that were worked through."
            ),
            Measure.WAITED: counter(
                "dharma_waited_seconds",
                "Time that workers have waited with an operation in hand.",
                "reason",
            ),
            Measure.RETRY: counter(
                "dharma_retries", "Passing errors, after which the operation went on.", "fault"
            ),
            Measure.END: counter(
                "dharma_operations_ended", "Operations that a worker was through with.", "outcome"
            ),
        }

    def take(self, measured: Measured) -> None:
        """Count it."""
        labels = [measured.database, measured.operation, measured.direction]
        if measured.measure == Measure.BATCH:
            self._batches.labels(*labels).observe(measured.amount)
        else:
            detail = [measured.detail] if measured.detail else []
            counter = self._counters[Measure(measured.measure)]
            counter.labels(*labels, *detail).inc(measured.amount)
