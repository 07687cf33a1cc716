"""The page that Prometheus asks a worker for."""

from __future__ import annotations

import os
from threading import Thread

from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server

from dharma_tasks.logs import get_logger
from dharma_tasks.measures import Meter
from dharma_tasks.metrics.counters import Counters
from dharma_tasks.metrics.gauges import Gauges
from dharma_tasks.metrics.pipe import Pipe
from dharma_tasks.metrics.standing import Seen
from dharma_tasks.metrics.usage import Usage

log = get_logger()


class Page:
    """Counts what comes through the pipe from now on, and shows it once it is open."""

    def __init__(self, pipe: Pipe, keep_seconds: float) -> None:
        """How the runs stand is shown for `keep_seconds` after it was seen."""
        disable_created_metrics()  # type: ignore[no-untyped-call]  # of the library's
        self.registry = CollectorRegistry()
        self._counters: Meter = Counters(self.registry)
        self._gauges = Gauges(keep_seconds)
        self.registry.register(self._gauges)
        self.registry.register(Usage())
        self._pipe = pipe
        self._counting = Thread(target=self._count, name="metrics", daemon=True)
        self._open = False
        self._said = ""

    def show(self, seen: Seen) -> None:
        """Show how the runs stand."""
        self._gauges.show(seen)

    def open(self, host: str, port: int) -> None:
        """Begin to count, and to answer at this address if it is free. Harmless when repeated."""
        if self._counting.ident is None:
            self._counting.start()
        if self._open:
            return
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            if self._said != str(error):  # the worker works all the same, and tries again
                self._said = str(error)
                log.warning("metrics_wait", host=host, port=port, error=str(error))
            return
        # A child that outlives this process would keep the port from the one that comes after it.
        os.register_at_fork(after_in_child=server.socket.close)
        self._open = True
        log.info("metrics", host=host, port=port)

    def _count(self) -> None:
        for measured in self._pipe.lines():
            try:
                self._counters.take(measured)
            except ValueError as error:
                log.warning("not_counted", measured=str(measured), error=str(error))
