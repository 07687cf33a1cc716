"""`dharma status --watch` on a terminal, while a real worker works, and when it is gone."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from place import Place, wait_for

ROWS = 4_000
UPDATE = "UPDATE counters SET n = n + 1 WHERE id BETWEEN :batch_start AND :batch_end"
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Screen:
    """The command on a terminal of 80 by 24."""

    def __init__(self, place: Place) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self._ours, False)
        command = [sys.executable, "-m", "dharma_tasks", "status", "--watch", "--interval", "0.5"]
        self.process = subprocess.Popen(
            command,
            env=place.environment | {"TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._text = ""

    def shows(self, pattern: str) -> bool:
        """Whether what was drawn since the last thing that was found has this."""
        try:
            self._text += os.read(self._ours, 1_000_000).decode(errors="replace")
        except BlockingIOError:
            return False
        found = re.search(pattern, _CONTROL.sub("", self._text))
        if found:
            self._text = ""
        return found is not None

    def close(self) -> None:
        """End it, if it still runs."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@contextmanager
def watched(place: Place) -> Iterator[Screen]:
    """The command, ended at the end of the block."""
    screen = Screen(place)
    try:
        yield screen
    finally:
        screen.close()


def test_it_moves_in_place(place: Place) -> None:
    """The bar, the rate and the time left; then that nobody is there; Ctrl-C ends it at once."""
    with psycopg.connect(place.url("postgresql")) as connection:
        connection.execute("CREATE TABLE counters (id int PRIMARY KEY, n int NOT NULL)")
        connection.execute(f"INSERT INTO counters SELECT n, 0 FROM generate_series(1, {ROWS}) n")
    batch = {"table": "counters", "key": "id", "throttle": 200}
    place.write("postgresql", "001_count", {"version": "1.0.0", "batch": batch}, UPDATE)
    worker = place.start_worker("-Q", "postgresql", DHARMA_RESCUE_SECONDS="0.2")
    with watched(place) as screen:
        wait_for(lambda: screen.shows("1 pending: 1.0.0 count|count  +pending"), "the status")
        place.submit("--no-wait")
        wait_for(lambda: screen.shows(r"━.* \d+%"), "a bar")
        wait_for(lambda: screen.shows(r"of 4,000 +\d+/s +\d+ s left"), "rate and time left")
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        wait_for(lambda: screen.shows("no worker alive for postgresql"), "that nobody is there")
        screen.process.send_signal(signal.SIGINT)
        assert screen.process.wait(5) == 0
