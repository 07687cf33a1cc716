"""The way from whoever works to the worker's main process, for what was measured."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import suppress

from dharma_tasks.measures import Measured

_CHUNK = 65536
_CAPACITY = 1024 * 1024
"""Bytes; it is what the kernel lets anybody have."""


class Pipe:
    """A line for each thing that was measured. Made before children are forked, which share it."""

    def __init__(self) -> None:
        """Raises `OSError` where no pipe can be had."""
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        with suppress(OSError, AttributeError):  # Linux can; elsewhere it is as large as it is
            fcntl.fcntl(self._in, fcntl.F_SETPIPE_SZ, _CAPACITY)

    def take(self, measured: Measured) -> None:
        """Send it. While nobody reads, as in a frozen worker, thousands wait; more are lost."""
        parts = (
            measured.measure,
            measured.database,
            measured.operation,
            measured.direction,
            measured.amount,
            measured.detail,
        )
        # A line of less than PIPE_BUF bytes comes whole, whoever else writes.
        with suppress(OSError):
            os.write(self._in, (json.dumps(parts) + "\n").encode())

    def lines(self) -> Iterator[Measured]:
        """What is sent, as it comes; for one thread of the main process. Never ends."""
        rest = b""
        while chunk := os.read(self._out, _CHUNK):  # a file object would have a lock
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield Measured(*json.loads(line))
