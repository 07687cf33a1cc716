"""Signs of life from a server while a long statement runs (Law 8)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dharma_tasks.errors import StepAside
from dharma_tasks.work import Amount

_EVERY = 1.0
"""Seconds between two looks; a statement that is shorter is never looked at."""
_JOIN_SECONDS = 10


@dataclass(frozen=True)
class _Watch:
    """One open `watching`."""

    works: Callable[[], Amount | bool]
    alive: Callable[[Amount | None], None]
    begun: float


class Watcher:
    """A thread that asks the server, made when the first statement is watched.

    While no statement is watched it sleeps, so watching a short one costs two assignments.
    """

    def __init__(self) -> None:
        """Make no thread yet."""
        self._lock = threading.Lock()
        self._watch: _Watch | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def watching(
        self, works: Callable[[], Amount | bool], alive: Callable[[Amount | None], None]
    ) -> Iterator[None]:
        """Call `alive` about once a second while `works` says that the server works for us.

        `works` may say how far it is. It is called in the watcher's thread, and raises nothing: a
        server that cannot be asked gives no sign of life.
        """
        if self._thread is None:
            self._closed.clear()
            self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self._thread.start()
        self._watch = _Watch(works, alive, time.monotonic())
        try:
            yield
        finally:
            with self._lock:  # `alive` is not called any more once this is left
                self._watch = None

    def close(self) -> None:
        """End the thread. Harmless when repeated."""
        self._closed.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        while not self._closed.wait(_EVERY):
            watch = self._watch
            if watch is None or time.monotonic() - watch.begun < _EVERY:
                continue
            if seen := watch.works():
                self._tell(watch, seen if isinstance(seen, Amount) else None)

    def _tell(self, watch: _Watch, seen: Amount | None) -> None:
        with self._lock:
            if self._watch is not watch:
                return
            try:
                watch.alive(seen)
            except StepAside:  # the lease is gone: the working thread sees it by itself
                self._watch = None
