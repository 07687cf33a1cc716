"""Signs of life from the server while a long statement runs (Law 8)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pymongo
from pymongo.errors import PyMongoError

from dharma_tasks.databases.mongodb.connection import Connection, operating

_EVERY = 1.0
"""Seconds between two looks; a statement that is shorter is never looked at."""

_ANSWER_SECONDS = 5


@dataclass(frozen=True)
class _Watch:
    """One open `watching`."""

    alive: Callable[[], None]
    begun: float


class Watcher:
    """A thread that asks the server, made when the first statement is watched.

    While no statement is watched it sleeps, so watching a short one costs two assignments.
    """

    def __init__(self, connection: Connection) -> None:
        """Remember whose statements are watched."""
        self._connection = connection
        self._lock = threading.Lock()
        self._watch: _Watch | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def watching(self, alive: Callable[[], None]) -> Iterator[None]:
        """Call `alive` about once a second while the server works on a statement of ours."""
        if self._thread is None:
            self._closed.clear()
            self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self._thread.start()
        self._watch = _Watch(alive, time.monotonic())
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
            thread.join(_ANSWER_SECONDS)

    def _run(self) -> None:
        while not self._closed.wait(_EVERY):
            watch = self._watch
            if watch is not None and time.monotonic() - watch.begun >= _EVERY:
                self._look(watch)

    def _look(self, watch: _Watch) -> None:
        try:
            if not self._works():
                return
            with self._lock:
                if self._watch is watch:
                    watch.alive()
        except PyMongoError:
            return  # no sign of life; asked again in a second
        except Exception:  # noqa: BLE001 - the lease is gone: the working thread sees it itself
            self._watch = None if self._watch is watch else self._watch

    def _works(self) -> bool:
        """Whether a statement of this connection's clients is being worked on.

        The drivers' own "hello" waits all the time: it belongs to no session. This question
        itself is an aggregate on no collection.
        """
        ours = {
            "appName": self._connection.application,
            "active": True,
            "lsid": {"$exists": True},
            "command.aggregate": {"$ne": 1},
        }
        with pymongo.timeout(_ANSWER_SECONDS):
            return operating(self._connection.patient, ours)
