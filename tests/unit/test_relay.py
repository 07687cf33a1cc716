"""What a burst tells Flower of each task that it carries out, and what it does with its chains."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest

from dharma_tasks import relay, tasks
from dharma_tasks.errors import CutOff, DharmaError, LeaseHeld, MigrationFailed, Stopped
from dharma_tasks.flow.context import Context, Overtaken
from dharma_tasks.messages import Chain, Message
from dharma_tasks.records import MigrationState
from dharma_tasks.run import Next

OURS = Message("postgresql.sql", "postgresql", {"version": "1.0.0", "operation": 1, "run": "r1"})
NEXT = Message("postgresql.sql", "postgresql", {"version": "1.1.0", "operation": 1, "run": "r1"})
UUID = "1.0.0.1.r1.postgresql.sql"


class FakeFlow:
    """A flow whose operation ends as the test wants."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error
        self.asked: list[tuple[object, ...]] = []

    def carry_out(self, context: Context, *arguments: object) -> list[Chain]:
        """End well, with what is next, or not."""
        self.asked.append(arguments)
        if self.error is not None:
            raise self.error
        return [[NEXT]]


class FakeEvents:
    """An event dispatcher that keeps what it is told, and in how many messages."""

    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.flushed: list[str] = []

    def send(self, event: str, **fields: Any) -> None:
        self.told.append((event, fields))

    def flush(self) -> None:
        self.flushed = [event for event, _ in self.told]


class Burst:
    """One task that is carried out in a burst, and what came of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.flow, self.events = FakeFlow(error), FakeEvents()
        self.sent: list[Chain] = []

        def send(chains: Iterable[Chain]) -> None:
            self.sent += chains

        monkeypatch.setattr(tasks, "_context", lambda _worker: None)
        monkeypatch.setattr(tasks, "carry_out", self.flow.carry_out)
        for module in (relay, tasks):
            monkeypatch.setattr(module, "send", send)
        events: Any = self.events
        self.returned = relay._carry_out(OURS, events)

    def end(self) -> list[tuple[str, dict[str, Any]]]:
        """What Flower was told after the task's start, which it is always told the same of."""
        told = self.events.told
        shown = "version 1.0.0, operation 1, run r1"
        name = "dharma_tasks.postgresql.sql"
        assert told[:2] == [
            ("task-received", {"uuid": UUID, "name": name, "args": shown, "kwargs": "{}"}),
            ("task-started", {"uuid": UUID}),
        ]
        return told[2:]


def test_who_succeeds_returns_what_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not sent: whoever carries the burst out goes on with it."""
    burst = Burst(monkeypatch)
    assert burst.flow.asked == [("r1", Next("postgresql", "1.0.0", 1))]
    assert burst.returned == [[NEXT]]
    assert burst.sent == []
    ((event, fields),) = burst.end()
    assert event == "task-succeeded"
    assert fields.pop("runtime") >= 0
    assert fields == {"uuid": UUID, "result": "None"}


def test_it_is_told_soon() -> None:
    """A task may run for hours after its start; what is told last goes out at the end."""
    events: Any = FakeEvents()
    with relay._told(events):
        events.send("task-started")
        deadline = time.monotonic() + 10
        while events.flushed != ["task-started"]:
            assert time.monotonic() < deadline, "it is not told"
            time.sleep(0.01)
        events.send("task-succeeded")
    assert events.flushed == ["task-started", "task-succeeded"]


@pytest.mark.parametrize(
    "error",
    [MigrationFailed("no such column", MigrationState.ROLLED_BACK), DharmaError("no")],
    ids=lambda error: type(error).__name__,
)
def test_who_fails_ends_the_burst(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Flower shows the reason; nothing is next."""
    burst = Burst(monkeypatch, error)
    assert burst.end() == [
        ("task-failed", {"uuid": UUID, "exception": repr(error), "traceback": ""})
    ]
    assert burst.returned == burst.sent == []


@pytest.mark.parametrize(
    "error",
    [LeaseHeld("somebody has it"), Stopped("the run is over")],
    ids=lambda error: type(error).__name__,
)
def test_who_steps_aside_says_nothing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """As with any other task that Celery ignores; whoever has the work sends what is next."""
    burst = Burst(monkeypatch, error)
    assert burst.end() == []
    assert burst.returned == burst.sent == []


def test_who_is_overtaken_sends_what_the_run_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of its own message, through the queue."""
    burst = Burst(monkeypatch, Overtaken("the run is further", [[NEXT]]))
    assert burst.end() == []
    assert burst.returned == []
    assert burst.sent == [[NEXT]]


@pytest.mark.parametrize(
    ("error", "ending"),
    [(CutOff("out of reach"), False), (Stopped("this worker is shutting down"), True)],
    ids=["cut off", "shutting down"],
)
def test_who_hands_on_sends_its_message_again(
    monkeypatch: pytest.MonkeyPatch, *, error: Exception, ending: bool
) -> None:
    """A task that was not delivered cannot be put back into the queue: it is sent anew."""
    monkeypatch.setattr(tasks, "shutting_down", lambda: ending)
    burst = Burst(monkeypatch, error)
    assert burst.end() == [("task-rejected", {"uuid": UUID, "requeue": True})]
    assert burst.sent == [[OURS]]
    assert burst.returned == []
