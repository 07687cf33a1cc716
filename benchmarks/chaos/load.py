"""Healthy workers while every processor is busy with something else: no lease may be lost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from benchmarks.chaos.crew import Crew
from benchmarks.chaos.generations import ElasticsearchPart, File, MongodbPart, Part
from benchmarks.chaos.generations import PostgresqlPart as Postgresql
from benchmarks.chaos.ground import Document, Ground
from benchmarks.chaos.journals import Journals

_LOOPS_EACH = 2
"""Busy loops for each processor: a worker gets a third of one at best."""
_SECONDS_A_COPY = 6


class _LongStatement(Postgresql):
    """One statement without batches: only the server's own word shows that it is alive."""

    def seed(self) -> None:
        """It needs no data."""

    def files(self) -> Iterable[File]:
        """One file."""
        yield File("long", {}, f"SELECT pg_sleep({self.scale});\n")

    def drop(self) -> None:
        """There is nothing."""


class _SlowWalk(MongodbPart):
    """One update in batches of about a second, five milliseconds for each document."""

    _slow: ClassVar[Document] = {
        "$expr": {
            "$function": {"body": "function() { sleep(5); return true; }", "args": [], "lang": "js"}
        }
    }

    @property
    def _counts(self) -> tuple[int, int]:
        return 0, int(200 * self.scale)

    def files(self) -> Iterable[File]:
        """One file."""
        yield File("slowly", {"operations": [self._once(self._plain, "a", self._slow)]})


class _ManyCopies(ElasticsearchPart):
    """Short copies, one of the other."""

    @property
    def _copies(self) -> int:  # type: ignore[override]
        return max(1, int(self.scale / _SECONDS_A_COPY))

    @property
    def _count(self) -> int:
        return 5_000

    def needs(self, *others: str) -> Document:
        """No other database."""
        del others
        return {}


@dataclass
class Load:
    """What was seen. `shortest` is the least time that a lease had left, in seconds."""

    seconds: float = 0
    operations: int = 0
    shortest: float = float("inf")
    taken_over: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [
            f"{self.operations} operations by two workers under full load, {self.seconds:.0f} s",
            f"  operations taken over     {len(self.taken_over)} {' '.join(self.taken_over)}",
            f"  shortest rest of a lease  {self.shortest:.1f} s",
        ]
        return "\n".join(lines)


def under_load(ground: Ground, seconds: float) -> Load:
    """Let two workers work for `seconds` at least while every processor is busy."""
    parts: list[Part] = [kind(ground, 1, seconds) for kind in (_LongStatement, _SlowWalk)]
    parts.append(_ManyCopies(ground, 1, seconds))
    for part in parts:
        part.seed()
    versions = {part.database: part.write() for part in parts}
    found = Load()
    crew = Crew(ground, 0)
    begun = time.monotonic()
    try:
        with _busy():
            _watch(ground, crew.submit(), found)
        found.seconds = time.monotonic() - begun
    finally:
        crew.close()
    for database, wanted in versions.items():
        for (version, number), entry in Journals(ground).read(database, wanted).items():
            found.operations += 1
            if entry.fence != 1 or entry.attempts > 1 or entry.state != "done":
                found.taken_over.append(f"{database} {version}#{number}: {entry}")
    for part in parts:
        part.drop()
    return found


def _watch(ground: Ground, submit: subprocess.Popen[bytes], found: Load) -> None:
    """Look at the leases until the submit is done."""
    redis: Any = ground.redis
    names = f"{ground.namespace}:lease:*"
    while submit.poll() is None:
        for name in redis.scan_iter(names, count=1000):
            left = redis.pttl(name)
            if left >= 0:  # that is: it was not released just now
                found.shortest = min(found.shortest, left / 1000)
        time.sleep(0.05)
    if submit.returncode != 0:
        ground.found(f"the submit under load ended with {submit.returncode}")


@contextmanager
def _busy() -> Iterator[None]:
    """Keep every processor busy, with more than it can do."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"])
        for _ in range(_LOOPS_EACH * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
