"""`--inline`: a worker inside this process, in a thread of its own, for a user's own tests."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Event, Thread

from redis import Redis

from dharma_tasks.flow.context import Context
from dharma_tasks.identity import node
from dharma_tasks.inline import Inline
from dharma_tasks.messages import Chain
from dharma_tasks.rescue import Rescuer
from dharma_tasks.settings import Settings

_LOOK_SECONDS = 0.25


class InlineWorker:
    """Carries out what is sent, and like every worker what nobody else does (Law 5).

    So an inline submit goes on with a run that was interrupted: nobody sends its messages again.
    """

    def __init__(self, settings: Settings, redis: Redis, databases: Iterable[str]) -> None:
        """`databases` are those that it serves; the settings have a URL for each."""
        self._stop = Event()
        self._context = Context(
            settings, redis, worker=f"inline@{node()}", shutting_down=self._stop.is_set
        )
        self._inline = Inline(self._context)
        self._rescuer = Rescuer(settings, redis, databases, queued=lambda _database: 0)
        self._thread = Thread(target=self._work, name="inline-worker", daemon=True)
        self._error: Exception | None = None

    def send(self, chains: Iterable[Chain]) -> None:
        """Take chains. The first call, with the run's surveys, begins the work."""
        self._inline.send(chains)
        self.start()

    def start(self) -> None:
        """Begin to work. Harmless when repeated."""
        if self._thread.ident is None:
            self._thread.start()

    def check(self) -> None:
        """Raise what ended the work, if anything did."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop at the next batch boundary and wait for it. Harmless when repeated."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self._inline.run()
                self._stop.wait(_LOOK_SECONDS)
                self._inline.send(self._rescuer.look())
        except Exception as error:  # noqa: BLE001 - whoever waits for this thread raises it
            self._error = error
        finally:
            self._context.close()
