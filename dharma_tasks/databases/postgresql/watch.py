"""Signs of life from the server while a long statement runs (Law 8)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from dharma_tasks.databases.postgresql.session import Connection, connect
from dharma_tasks.settings import Settings

_EVERY = 1.0
"""Seconds between two looks; a statement that is shorter is never looked at."""

_WORKING = """
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_stat_activity
    WHERE pid = %(pid)s AND extract(epoch FROM backend_start)::text = %(start)s
        AND state = 'active' AND wait_event_type IS DISTINCT FROM 'Client')
"""
"""A process that waits for its client does not work for it."""


@dataclass(frozen=True)
class _Watch:
    """One open `watching`."""

    identity: dict[str, Any]
    alive: Callable[[], None]
    begun: float


class Watcher:
    """A thread with a connection of its own, both made when a statement is long.

    While no statement is watched it sleeps, so watching a short one costs two assignments.
    """

    def __init__(self, settings: Settings) -> None:
        """Remember where the database is."""
        self._settings = settings
        self._lock = threading.Lock()
        self._watch: _Watch | None = None
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._connection: Connection | None = None

    @contextmanager
    def watching(self, identity: dict[str, Any], alive: Callable[[], None]) -> Iterator[None]:
        """Call `alive` about once a second while the process `identity` works on a statement."""
        if self._thread is None:
            self._closed.clear()
            self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
            self._thread.start()
        self._watch = _Watch(identity, alive, time.monotonic())
        try:
            yield
        finally:
            with self._lock:  # `alive` is not called any more once this is left
                self._watch = None

    def close(self) -> None:
        """End the thread and its connection. Harmless when repeated."""
        self._closed.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._closed.wait(_EVERY):
            watch = self._watch
            if watch is not None and time.monotonic() - watch.begun >= _EVERY:
                self._look(watch)
        self._disconnect()

    def _look(self, watch: _Watch) -> None:
        try:
            if not self._works(watch.identity):
                return
            with self._lock:
                if self._watch is watch:
                    watch.alive()
        except psycopg.Error:
            self._disconnect()  # no sign of life; asked again in a second
        except Exception:  # noqa: BLE001 - the lease is gone: the working thread sees it itself
            self._watch = None if self._watch is watch else self._watch

    def _works(self, identity: dict[str, Any]) -> bool:
        if self._connection is None:
            self._connection = connect(self._settings)
        row = self._connection.execute(_WORKING, identity).fetchone()
        return bool(row and row[0])

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
