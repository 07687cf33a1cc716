"""An application that writes all the while, and remembers what was acknowledged."""

from __future__ import annotations

import random
import threading
import time
from types import TracebackType
from typing import Self

from elasticsearch import AuthorizationException, Elasticsearch

from dharma_tasks.migration import JSON

ROUTINGS = ("r0", "r0", "r0", "r0", "r0", "r3", "r5")
"""Most documents are in one shard of three: see `routing`."""


def routing(n: int) -> str:
    """Where document n belongs, always the same."""
    return ROUTINGS[n % len(ROUTINGS)]


class Writer:
    """Updates, deletes and creates documents 0 to `number` of `name`, in one thread."""

    def __init__(self, client: Elasticsearch, name: str, number: int) -> None:
        """Remember where to; `with` starts and stops it."""
        self._client, self._name, self._number = client, name, number
        self._random, self._stop = random.Random(7), threading.Event()  # noqa: S311
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.state: dict[str, JSON] = {}
        self.touched: dict[str, int] = {}
        """When each document was written last, as a number of `writes`."""
        self.writes = 0
        self.refused: list[float] = []
        self.errors: list[Exception] = []

    def fill(self) -> None:
        """Write every document once."""
        operations: list[JSON] = []
        for n in range(self._number):
            aim = {"_id": str(n), "routing": routing(n)}
            operations += [{"index": aim}, self._document(n)]
        assert not self._client.bulk(index=self._name, operations=operations)["errors"]

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Stop, and wait until the last write was answered."""
        self.stop()

    @property
    def running(self) -> bool:
        """Whether it writes."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Stop, and wait until the last write was answered."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.errors == []

    def wait_refused(self) -> None:
        """Wait until a write is refused."""
        wanted, until = len(self.refused) + 1, time.monotonic() + 30
        while len(self.refused) < wanted:
            assert time.monotonic() < until
            time.sleep(0.01)

    def wait(self, writes: int) -> None:
        """Wait until so many further writes were acknowledged."""
        wanted, until = self.writes + writes, time.monotonic() + 30
        while self.writes < wanted:
            assert time.monotonic() < until
            assert self._thread.is_alive(), self.errors
            time.sleep(0.01)

    def _document(self, n: int) -> JSON:
        self.state[str(n)] = {"n": n, "name": f"name {self._random.random()}"}
        self.touched[str(n)] = self.writes
        return self.state[str(n)]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._write(self._random.randrange(self._number + self.writes // 5))
            except AuthorizationException:  # a write block
                self.refused.append(time.monotonic())
                time.sleep(0.01)
            except Exception as error:  # noqa: BLE001 - shown by `stop`
                self.errors.append(error)
                return

    def _write(self, n: int) -> None:
        """What is deleted may come again; a refused write has changed nothing."""
        aim = {"index": self._name, "id": str(n), "routing": routing(n)}
        before = dict(self.state), dict(self.touched)
        try:
            if str(n) in self.state and self._random.random() < 0.4:
                self._client.delete(**aim)
                del self.state[str(n)]
                self.touched[str(n)] = self.writes
            else:
                self._client.index(**aim, document=self._document(n))
        except AuthorizationException:
            self.state, self.touched = before
            raise
        self.writes += 1
