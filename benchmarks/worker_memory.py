"""How much memory a worker takes for a small and for a large collection."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from pymongo import MongoClient

from benchmarks.place import Place
from benchmarks.table import Check, Table
from dharma_tasks.local.seed import seed

DATABASE = "mongodb"
SIZES = (10_000, 1_000_000)
_UPDATE = {"type": "update_documents", "collection": "users", "filter": {}}


def run(place: Place) -> Iterator[Table]:
    """A new worker for each size; the peak is its largest process's own, by the kernel."""
    rows, peaks, loads = [], [], []
    for number, size in enumerate(map(place.size, SIZES), start=1):
        client: MongoClient[dict[str, Any]]
        with MongoClient(place.url) as client:
            client.get_default_database().drop_collection("users")
        project = place.project("memory")
        seed(project.settings, size)
        project.add(number, operations=[_UPDATE | {"update": {"$inc": {"karma": 1}}}])
        loads.append(os.getloadavg()[0])
        with project.worker() as worker:
            project.submit()
            peaks.append(max(_peak(pid) for pid in _pids(worker.pid)))
        rows.append([f"{size:,} documents", f"{peaks[-1]:.0f} MB"])
    grown = peaks[-1] - peaks[0]
    yield Table(
        "Memory of a worker under update_documents",
        ["collection", "peak of its largest process"],
        rows,
        checks=[Check("more for the larger one", grown, 50, at_most=True, unit=" MB")],
        loads=loads,
    )


def _pids(worker: int) -> list[int]:
    return [worker, *(child.pid for child in psutil.Process(worker).children(recursive=True))]


def _peak(pid: int) -> float:
    """The most memory a process ever had, in MB."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024
