"""What the rest of the project needs of a database; drivers stay below this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from enum import Enum
from typing import Any, ClassVar, Generic, TypeVar

from dharma_tasks.findings import Finding
from dharma_tasks.journal import Journal
from dharma_tasks.migration import JSON
from dharma_tasks.records import Owner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount

HandleT = TypeVar("HandleT")


class Fault(Enum):
    """What an exception means (Law 10)."""

    LASTING = "lasting"
    """It will fail again: the migration fails, with the database's own message."""
    PASSING = "passing"
    """Retried from the checkpoint, with a new fence, after a pause."""
    CONFLICT = "conflict"
    """As PASSING, and the batch is halved: others write the same documents, or it took too long."""


class Database(ABC, Generic[HandleT]):
    """One database as one worker thread sees it. Connects lazily; not shared between threads."""

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, settings: Settings) -> None:
        """Remember where the database is; connect on first use."""

    @property
    @abstractmethod
    def journal(self) -> Journal[HandleT]:
        """The journal in this database."""

    @property
    @abstractmethod
    def handle(self) -> HandleT:
        """For `Operation.prepare`: the driver's objects outside any transaction."""

    @property
    def transactions(self) -> bool:
        """Whether a step that asks for a transaction gets one."""
        return True

    @abstractmethod
    def whereabouts(self) -> str:
        """Say which database this is, in its server's own words; changes nothing.

        The same for all who are connected to it at one time, however they reach it. Another one for
        every other database, and for a copy of it, be it one of the server's files, in which the
        journal, and all else that is stored, is the same: so it names the server's process, and
        after a restart is another one too. It needs no journal.
        """

    @abstractmethod
    def resources(self) -> JSON:
        """What a successor must know to free what this worker leaves open, for `Owner`."""

    @abstractmethod
    def free(self, owner: Owner) -> None:
        """End what a former owner left open on the server, and wait until it is gone."""

    @abstractmethod
    def count(self, names: Sequence[str]) -> dict[str, int | None]:
        """About how many documents or rows there are in each of `names`; changes nothing.

        Quickly, from what the server knows. None where it knows nothing; absent where there is
        nothing of that name.
        """

    def strain(self, warn: Callable[[str], None]) -> str | None:  # noqa: ARG002
        """Why bulk work should wait now, in words with the numbers; None where it need not.

        `warn` is told what cannot be seen, and so is not waited for.
        """
        return None

    @abstractmethod
    def examine(self) -> list[Finding]:
        """Whether all is there that migrations need: for `dharma doctor`; changes nothing.

        The first finding names the database, without any secret. What keeps from looking at all is
        raised, in the driver's words.
        """

    @abstractmethod
    def classify(self, error: BaseException) -> Fault:
        """Say what an exception of the driver means. Unknown ones are lasting."""

    @abstractmethod
    def describe(self, error: BaseException) -> str:
        """The database's own message, whole, with its code; no secrets."""

    @abstractmethod
    def watched(self, alive: Callable[[Amount | None], None]) -> AbstractContextManager[Any]:
        """Call `alive` about once a second, from another thread, while the context is open.

        But only as long as the server itself shows that our statement is being worked on. It gets
        how far the server says it is, where it does.
        """

    def interrupt(self) -> None:
        """End the statement that is at work, from another thread; its batch then fails.

        What others may use is left to the server. Nothing happens where nothing takes long.
        """

    @abstractmethod
    def recover(self) -> None:
        """After an error: drop connections or sessions whose state is not known."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open. Harmless when repeated."""
