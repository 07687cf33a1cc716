"""Waiting until what a former owner left open on a server has ended (Law 4)."""

from __future__ import annotations

import time
from collections.abc import Callable

FREE_SECONDS = 10
"""How long a killed session or server process may take to roll back and go."""


def ended(still_open: Callable[[], object]) -> bool:
    """Ask until `still_open` says no, at first every few milliseconds. False after too long."""
    deadline = time.monotonic() + FREE_SECONDS
    pause = 0.002
    while still_open():
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(0.1, pause * 2)
    return True
