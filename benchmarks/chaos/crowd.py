"""Many submitters of one folder at once: each ends well, each migration is applied once."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass, field

import psycopg

from benchmarks.chaos.crew import Crew
from benchmarks.chaos.ground import Ground

_MIGRATIONS = 20
_SECONDS = 300
"""How long the slowest submit may take."""


@dataclass
class Crowd:
    """What was seen. `kept` are Redis keys that never expire."""

    submitters: int
    seconds: float = 0
    ended: dict[str, int] = field(default_factory=dict)
    applied: int = 0
    keys: int = 0
    kept: list[str] = field(default_factory=list)

    @property
    def well(self) -> bool:
        """Nothing lost, nothing doubled, no submitter turned away."""
        return self.ended == {"0": self.submitters} and self.applied == _MIGRATIONS

    def __str__(self) -> str:
        lines = [
            f"{self.submitters} submitters at once, {self.seconds:.0f} s",
            f"  ended with                {self.ended}",
            f"  migrations applied once   {self.applied} of {_MIGRATIONS}",
            f"  keys in Redis after       {self.keys}, without expiry: {' '.join(self.kept)}",
        ]
        return "\n".join(lines)


def crowd(ground: Ground, submitters: int) -> Crowd:
    """Let so many submit the same folder at the same time, to two workers."""
    _write(ground)
    found = Crowd(submitters)
    crew = Crew(ground, 0)
    begun = time.monotonic()
    try:
        processes = [crew.submit() for _ in range(submitters)]
        for process in processes:
            status = _status(process, begun + _SECONDS)
            found.ended[status] = found.ended.get(status, 0) + 1
        found.seconds = time.monotonic() - begun
        _look(ground, found)
    finally:
        crew.close()
    if not found.well:
        ground.found("the submitters' migrations were not applied once, or one was turned away")
    return found


def _status(process: subprocess.Popen[bytes], until: float) -> str:
    """What it ended with; one that does not end in time is ended."""
    try:
        return str(process.wait(max(1.0, until - time.monotonic())))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return f"nothing within {_SECONDS} s"


def _write(ground: Ground) -> None:
    folder = ground.migrations / "postgresql"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(1, _MIGRATIONS + 1):
        name = folder / f"{number:03d}_crowd"
        keys = {"version": f"1.{number}.0", "name": "crowd", "migration_type": "data"}
        name.with_suffix(".json").write_text(json.dumps(keys | {"database_type": "postgresql"}))
        table = "CREATE TABLE IF NOT EXISTS crowd (n int);\n"
        name.with_suffix(".sql").write_text(f"{table}INSERT INTO crowd VALUES ({number});\n")


def _look(ground: Ground, found: Crowd) -> None:
    url = ground.settings.postgresql_url
    with psycopg.connect(url.get_secret_value() if url else "") as connection:
        counts = connection.execute("SELECT n, count(*) FROM crowd GROUP BY n").fetchall()
        connection.execute("DROP TABLE crowd")
    found.applied = sum(count == 1 for _, count in counts)
    found.keys, found.kept = len(ground.keys()), ground.kept()
