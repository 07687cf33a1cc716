"""What a worker takes of its machine: its main process, and its children together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psutil
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

_LABEL = ("processes",)
_MAIN, _CHILDREN = "main", "children"


class Usage(Collector):
    """Reads it from the kernel whenever it is asked for."""

    def __init__(self) -> None:
        """Of this process, and those that it forks."""
        self._main = psutil.Process()
        self._children_seconds = 0.0

    def collect(self) -> Iterator[Metric]:
        """Processor time, and memory that is counted once however many processes share it."""
        children = self._main.children()
        spent = self._main.cpu_times()
        live = sum(_seconds(child) for child in children)
        # A child that ends between two looks is for a moment in neither sum.
        ended = spent.children_user + spent.children_system
        self._children_seconds = max(self._children_seconds, ended + live)
        seconds = CounterMetricFamily(
            "dharma_worker_cpu_seconds", "Processor time of this worker.", labels=_LABEL
        )
        seconds.add_metric([_MAIN], spent.user + spent.system)
        seconds.add_metric([_CHILDREN], self._children_seconds)
        yield seconds
        memory = GaugeMetricFamily(
            "dharma_worker_memory_bytes",
            "Memory of this worker; what processes share is divided between them.",
            labels=_LABEL,
        )
        memory.add_metric([_MAIN], _bytes([self._main]))
        memory.add_metric([_CHILDREN], _bytes(children))
        yield memory
        yield GaugeMetricFamily(
            "dharma_worker_children", "Processes that carry out operations.", len(children)
        )


def _seconds(process: psutil.Process) -> float:
    try:
        spent = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(spent.user + spent.system + spent.children_user + spent.children_system)


def _bytes(processes: Iterable[psutil.Process]) -> float:
    return sum(_memory(process) for process in processes)


def _memory(process: psutil.Process) -> float:
    try:
        found = process.memory_full_info()
    except psutil.Error:
        return 0.0
    return float(getattr(found, "pss", found.rss))  # Linux alone knows what is shared
