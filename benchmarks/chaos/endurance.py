"""Twenty workers on one run with as many batches as one of hours has: nothing grows, nothing lost.

A batch of a real run takes about a second, so as many of them as a run of eight hours has are done
in some minutes where each is of a few documents only.
"""

from __future__ import annotations

import json
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
from pymongo.collection import Collection

from benchmarks.chaos.crew import Crew
from benchmarks.chaos.ground import Document, Ground

_HOURS = 8
_BATCH = 20
"""Documents, or rows, in a batch."""
_ROWS = _HOURS * 3600 * _BATCH // 2
"""Of each of two databases."""
_RANGES = 4
_LOOK_SECONDS = 2.0
_SETTLED = 0.2
"""How much of the run is done when everything is loaded that will be."""
_GROWS_MB = 50
"""So much more memory a process, or Redis, may have at the end."""
_MOST_KEYS = 100
"""So many keys may be in Redis at any time: some for the run, for each worker, range and queue."""
_SECONDS = 3600
"""How long the run may take."""


@dataclass
class Endurance:
    """What was seen; memory in MB. `keys` are Redis' at each look, `kept` what never expires."""

    workers: int
    seconds: float = 0
    once: dict[str, bool] = field(default_factory=dict)
    memory: list[dict[int, float]] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    redis: list[float] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)

    @property
    def grown(self) -> float:
        """How much the process has grown that has grown most, since all is loaded."""
        settled = self.memory[int(len(self.memory) * _SETTLED) :]
        before: dict[int, float] = {}
        for seen in reversed(settled):
            before |= seen
        last = {pid: mb for seen in settled for pid, mb in seen.items()}
        return max((last[pid] - before[pid] for pid in last), default=0.0)

    @property
    def redis_grown(self) -> float:
        """How much Redis has grown since all is loaded."""
        settled = self.redis[int(len(self.redis) * _SETTLED) :]
        return settled[-1] - settled[0] if settled else 0.0

    @property
    def unbounded(self) -> list[str]:
        """What never expires, of the run and of its workers."""
        return [name for name in self.kept if ":run:" in name or ":lease:" in name]

    def __str__(self) -> str:
        largest = max((mb for seen in self.memory for mb in seen.values()), default=0.0)
        settled, batches = int(len(self.keys) * _SETTLED), 2 * _ROWS // _BATCH
        keys = f"{self.keys[settled]}, {max(self.keys)} at most, {self.keys[-1]} at the end"
        lines = [
            f"{self.workers} workers on one run, {self.seconds:.0f} s, {batches:,} batches",
            f"  changed exactly once      {self.once}",
            f"  largest process           {largest:.0f} MB, grown by {self.grown:.0f} MB at most",
            f"  Redis' memory             {self.redis[settled]:.1f} MB, {self.redis[-1]:.1f} MB",
            f"  keys in Redis             {keys}",
            f"  without expiry            {' '.join(self.kept)}",
        ]
        return "\n".join(lines)


def endurance(ground: Ground, workers: int) -> Endurance:
    """Let so many workers carry the run out, and look at them all the while."""
    _seed(ground)
    _write(ground)
    found = Endurance(workers)
    crew = Crew(ground, 0, tuple(f"w{number}" for number in range(1, workers + 1)))
    begun = time.monotonic()
    try:
        submit = crew.submit()
        _watch(ground, crew, submit, found)
        found.seconds = time.monotonic() - begun
        found.kept = ground.kept()
    finally:
        crew.close()
    found.once = {"mongodb": _mongodb_once(ground), "postgresql": _postgresql_once(ground)}
    _judge(ground, found)
    return found


def _collection(ground: Ground) -> Collection[Document]:
    return ground.mongodb.get_default_database()["endurance"]


def _seed(ground: Ground) -> None:
    documents = _collection(ground)
    for start in range(0, _ROWS, 10_000):
        numbers = range(start, min(start + 10_000, _ROWS))
        documents.insert_many([{"_id": n, "n": 0} for n in numbers])
    with ground.postgresql() as connection:
        connection.execute("CREATE TABLE endurance (id int PRIMARY KEY, n int NOT NULL)")
        rows = "INSERT INTO endurance SELECT id, 0 FROM generate_series(1, %s) AS id"
        connection.execute(rows, [_ROWS])


def _write(ground: Ground) -> None:
    small = {"min": _BATCH, "max": _BATCH}
    update = {
        "type": "update_documents",
        "collection": "endurance",
        "filter": {},
        "update": {"$inc": {"n": 1}},
        "batch": small,
        "parallel": _RANGES,
    }
    rows = {"table": "endurance", "key": "id", "size": _BATCH, "parallel": _RANGES}
    sql = "UPDATE endurance SET n = n + 1 WHERE id BETWEEN :batch_start AND :batch_end;\n"
    _file(ground, "mongodb", {"operations": [update]})
    _file(ground, "postgresql", {"batch": rows}, sql)


def _file(ground: Ground, database: str, more: Document, sql: str = "") -> None:
    folder = ground.migrations / database
    folder.mkdir(parents=True, exist_ok=True)
    keys = {"version": "1.0.0", "name": "endurance", "migration_type": "data"}
    content = json.dumps({**keys, "database_type": database, **more})
    (folder / "001_endurance.json").write_text(content)
    if sql:
        (folder / "001_endurance.sql").write_text(sql)


def _watch(ground: Ground, crew: Crew, submit: subprocess.Popen[bytes], found: Endurance) -> None:
    redis: Any = ground.redis
    until = time.monotonic() + _SECONDS
    while submit.poll() is None and time.monotonic() < until:
        found.memory.append(_memory(crew))
        found.keys.append(redis.dbsize())
        found.redis.append(redis.info("memory")["used_memory"] / 2**20)
        time.sleep(_LOOK_SECONDS)
    if submit.poll() is None:
        submit.kill()
        submit.wait()
    if submit.returncode != 0:
        ground.found(f"the submit ended with {submit.returncode} (it may take {_SECONDS} s)")


def _memory(crew: Crew) -> dict[int, float]:
    found = {}
    for worker in crew.running():
        for process in crew.family(worker):
            with suppress(psutil.NoSuchProcess):
                found[process.pid] = process.memory_info().rss / 2**20
    return found


def _mongodb_once(ground: Ground) -> bool:
    documents = _collection(ground)
    once = documents.count_documents({"n": 1}) == _ROWS == documents.count_documents({})
    documents.drop()
    return once


def _postgresql_once(ground: Ground) -> bool:
    with ground.postgresql(timeout=10) as connection:
        counted = connection.execute("SELECT count(*), min(n), max(n) FROM endurance").fetchone()
        connection.execute("DROP TABLE endurance")
    return counted == (_ROWS, 1, 1)


def _judge(ground: Ground, found: Endurance) -> None:
    for database, once in found.once.items():
        if not once:
            ground.found(f"{database}: something was lost or changed twice")
    if found.grown > _GROWS_MB:
        ground.found(f"a process has grown by {found.grown:.0f} MB")
    if found.redis_grown > _GROWS_MB:
        ground.found(f"Redis has grown by {found.redis_grown:.0f} MB")
    if max(found.keys, default=0) > _MOST_KEYS:
        ground.found(f"there were {max(found.keys)} keys in Redis")
    if found.unbounded:
        ground.found(f"keys without expiry: {' '.join(found.unbounded)}")
