"""What the journals and the audit trails said last. Asked in the background, and not too often.

Where this process has no URL for a database a worker answers (`reading`), whose time is for other
things: a journal is asked again when Redis shows that something has ended, and now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from threading import Lock

from dharma_tasks import trail
from dharma_tasks.databases import NAMES
from dharma_tasks.reading import SURVEY, Relayed, Send, ask
from dharma_tasks.records import Survey
from dharma_tasks.settings import Settings
from dharma_tasks.trail import Told

__all__ = ["Journals", "Known"]

_ENTRIES = 50
"""How many entries of each audit trail are read."""
_CHANGED_SECONDS = 2
"""After this a journal is asked again, where something has ended."""
_USUAL_SECONDS = 15
"""And after this where nothing has."""
_FAILING_SECONDS = 30
"""At most, where it does not answer."""
_UNSERVED = "no live worker serves it"


@dataclass(frozen=True)
class Known:
    """What is known of one database. Times are in seconds since 1970.

    `at` is when it was read last, `error` why it could not be read since `since`.
    """

    survey: Survey | None = None
    entries: tuple[Told, ...] = ()
    at: float | None = None
    error: str | None = None
    since: float | None = None

    def failed(self, error: str) -> Known:
        """The same, after it could not be read."""
        return replace(self, error=error, since=self.since or time.time())


@dataclass
class _Turn:
    """When a database may be asked again. `mark` is what Redis said when it was asked."""

    mark: Hashable = None
    asking: bool = False
    asked: float = float("-inf")
    pause: float = 0

    def due(self, mark: Hashable) -> bool:
        """Whether to ask now."""
        passed = time.monotonic() - self.asked
        if self.asking or passed < self.pause:
            return False
        return mark != self.mark or passed >= _USUAL_SECONDS

    @property
    def failing(self) -> bool:
        """Whether the last question was not answered well."""
        return self.pause > _CHANGED_SECONDS

    def over(self, *, well: bool) -> None:
        """Note that it was asked; a database that does not answer is asked less and less often."""
        worse = min(2 * max(self.pause, _CHANGED_SECONDS), _FAILING_SECONDS)
        self.pause = _CHANGED_SECONDS if well else worse
        self.asked, self.asking = time.monotonic(), False


@dataclass
class Journals:
    """The journals of all databases, as they were heard last. `executor` asks, `send` asks workers.

    `queued` is how many messages wait for a worker of a database: more questions would wait there
    with those that nobody has taken. One thread calls `refresh`; `known` may be called from any.
    """

    settings: Settings
    send: Send
    executor: Executor
    queued: Callable[[str], int]
    _known: dict[str, Known] = field(default_factory=dict)
    _turns: dict[str, _Turn] = field(default_factory=lambda: {name: _Turn() for name in NAMES})
    _lock: Lock = field(default_factory=Lock)

    def known(self) -> Mapping[str, Known]:
        """What is known at this moment, by database."""
        with self._lock:
            return {name: self._known.get(name, Known()) for name in NAMES}

    def refresh(self, relayed: Relayed, marks: Mapping[str, Hashable]) -> None:
        """Ask again what is due, and return at once.

        `marks` are what Redis says of each database: another mark means that something has ended.
        """
        for name, turn in self._turns.items():
            direct = self.settings.url(name) is not None
            reached = direct or name in relayed.served
            mark = (reached, marks.get(name))
            if not reached:
                turn.mark = mark  # so that it is asked at once when a worker is back
                self._unserved(name)
            elif turn.due(mark) and (direct or not turn.failing or not self.queued(name)):
                turn.mark, turn.asking = mark, True
                self.executor.submit(self._ask, name, turn, relayed)

    def _unserved(self, name: str) -> None:
        with self._lock:
            if name in self._known:  # else nobody uses it
                self._known[name] = self._known[name].failed(_UNSERVED)

    def _ask(self, name: str, turn: _Turn, relayed: Relayed) -> None:
        before = self.known()[name]
        try:
            now = self._heard(name, relayed, before)
        except Exception as error:  # noqa: BLE001 - it is said on the page, and asked again
            now = before.failed(f"{type(error).__name__}: {error}")
        with self._lock:
            self._known[name] = now
        turn.over(well=now.error is None)

    def _heard(self, name: str, relayed: Relayed, before: Known) -> Known:
        began = time.time()
        answers = ask(SURVEY, [name], self.settings, relayed)
        if name not in answers.found:
            return before.failed(answers.errors.get(name, _UNSERVED))
        told = trail.gather(self.settings, [name], _ENTRIES, self.send)
        entries = before.entries if told.unreachable else tuple(told.entries)
        return Known(answers.found[name], entries, began)
