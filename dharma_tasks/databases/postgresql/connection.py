"""The driver's connection, which gives up a server that has fallen silent (Law 8, FAULTS 18).

TCP alone does not notice a black hole behind a proxy or a balancer, which confirms whatever it
is sent: without this a worker's child would wait there for ever.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.rows import TupleRow

ResultT = TypeVar("ResultT")


class Connection(psycopg.Connection[TupleRow]):
    """A connection that is closed when it hears nothing for `patience` seconds while it waits.

    `heard` is when somebody else saw the server work for us last: a statement may run for hours.
    """

    patience = 30.0
    heard = 0.0

    def wait(self, gen: PQGen[ResultT], *args: Any, **options: Any) -> ResultT:
        """As the driver's, which resumes `gen` several times a second, also when nothing came."""
        return super().wait(self._listening(gen), *args, **options)

    def _listening(self, gen: PQGen[ResultT]) -> PQGen[ResultT]:
        heard = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                if ready:
                    heard = time.monotonic()
                elif time.monotonic() - max(heard, self.heard) > self.patience:
                    self.close()
                    msg = f"the server has not answered for {self.patience:g} s"
                    raise psycopg.OperationalError(msg)
                wanted = gen.send(ready)
        except StopIteration as end:
            result: ResultT = end.value
            return result
