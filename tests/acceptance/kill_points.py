"""Points at which a worker kills itself, or stands still; see `injected/killing.py`."""

from __future__ import annotations

import subprocess
from pathlib import Path

from place import Place


class Killing:
    """The points at which the test's workers kill themselves."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place = place
        self._armed = folder / "armed"
        self._armed.mkdir()
        place.injected["killing"] = str(self._armed)

    def arm(self, *points: str, what: str = "child") -> None:
        """Let each of these points do `what`."""
        for point in points:
            made = self._armed.with_name(f"{point}.made")
            made.write_text(what)
            made.rename(self._armed / point)  # a worker that looks sees all of it, or nothing

    def disarm(self, point: str) -> None:
        """Let it pass; who is held there goes on."""
        (self._armed / point).unlink()

    def left(self) -> list[str]:
        """The points that were not reached yet."""
        return sorted(path.name for path in self._armed.iterdir())

    def log(self) -> list[str]:
        """The points that were reached and did something, in order."""
        return [point for point, _ in self._reached()]

    def pids(self) -> set[int]:
        """The processes that reached them."""
        return {pid for _, pid in self._reached()}

    def _reached(self) -> list[tuple[str, int]]:
        log = Path(f"{self._armed}.log")
        lines = log.read_text().splitlines() if log.exists() else []
        return [(point, int(pid)) for _, point, pid in map(str.split, lines)]

    def start_worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a worker that can kill itself."""
        return self._place.start_worker(*options, DHARMA_LOG_FORMAT="json", **environment)
