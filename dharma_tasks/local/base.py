"""What every engine can do, and what an engine knows about where it runs."""

from __future__ import annotations

import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dharma_tasks.local.account import CALLER, Account

Report = Callable[[str, str], None]
"""Told what happens while it happens: the engine's name, and a few words."""

HOST = "127.0.0.1"
"""All engines listen here only: they have no passwords."""

DATABASE = "dharma"


class EngineError(Exception):
    """An engine could not be started, found or stopped; the message says what to do."""


@dataclass(frozen=True)
class Place:
    """Where one engine runs: its folder, its log, its port, and as whom."""

    home: Path
    log: Path
    port: int
    account: Account = CALLER

    @property
    def data(self) -> Path:
        """The folder with the engine's data."""
        return self.home / "data"


class Engine(ABC):
    """One kind of server. It holds no state: everything it needs to know is in the Place."""

    name: ClassVar[str]
    title: ClassVar[str]
    variable: ClassVar[str]
    refuses_root: ClassVar[bool] = False
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    patience: ClassVar[float] = 60
    """Seconds until a start, or a stop, counts as failed."""

    @abstractmethod
    def prepare(self, place: Place, report: Report) -> None:
        """Put into `place.home` what the server needs before it can start; again is harmless."""

    @abstractmethod
    def command(self, place: Place) -> list[str]:
        """The command line of the server, which stays in the foreground."""

    @abstractmethod
    def greet(self, place: Place) -> str:
        """Finish the set-up on the running server and return its version.

        Raises anything while the server cannot be used yet; called until it succeeds.
        """

    @abstractmethod
    def url(self, place: Place) -> str:
        """What a client connects to."""

    def variables(self, place: Place) -> Mapping[str, str]:  # noqa: ARG002 - for those that need it
        """Environment variables that the server needs."""
        return {}

    def clear(self, place: Place) -> None:  # noqa: B027 - most engines leave nothing behind
        """Tidy up after a main process that is known to be dead, where it left something behind."""
