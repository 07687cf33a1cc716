"""What Celery does after a task of ours: the next link of a chain is sent, or it is not."""

from __future__ import annotations

import inspect
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from celery.states import IGNORED, REJECTED

from dharma_tasks import tasks
from dharma_tasks.celery_app import app
from dharma_tasks.errors import CutOff, DharmaError, LeaseHeld, StepAside, Stopped
from dharma_tasks.flow import asked
from dharma_tasks.flow.context import Context, Overtaken
from dharma_tasks.journal import Declaration, Entry
from dharma_tasks.messages import (
    Chain,
    Message,
    Pruning,
    audit_message,
    declare_message,
    prune_message,
    read_message,
    unlock_message,
)
from dharma_tasks.migration import Key

KEY = Key(database="mongodb", version="1.0.0", number=2)


class FakeFlow:
    """A flow that confirms as the test wants; `read` stands for the chain's next link."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
        self.error = error
        self.next = 0
        monkeypatch.setattr(tasks, "_context", lambda _worker: None)
        monkeypatch.setattr(tasks, "confirm_dependency", self.confirm)
        monkeypatch.setattr(asked, "read", self.read)

    def confirm(self, context: Context, run: str, database: str, version: str) -> list[Chain]:
        """End well, or not."""
        if self.error is not None:
            raise self.error
        return []

    def read(self, context: Context, *arguments: object) -> list[Chain]:
        """Count."""
        self.next += 1
        return []


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (None, 1),
        (StepAside("not applied yet"), 0),
        (LeaseHeld("somebody has it"), 0),
        (Stopped("the run is over"), 0),
        (Overtaken("the run is further", []), 0),
        (CutOff("out of reach"), 0),
        (DharmaError("no"), 0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_who_steps_aside_fires_no_link(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None, sent: int
) -> None:
    """FAULTS 17: a duplicate that returned would let Celery send what comes after it."""
    flow = FakeFlow(monkeypatch, error)
    monkeypatch.setitem(app.conf, "task_always_eager", True)  # noqa: FBT003 - the setting
    following: Any = tasks.read.si(database="mongodb", reply="reply")
    tasks.confirm.apply(args=("run", "mongodb", "1.0.0"), link=[following])
    assert flow.next == sent


@pytest.mark.parametrize(
    ("error", "state"), [(CutOff("out of reach"), REJECTED), (LeaseHeld("held"), IGNORED)]
)
def test_who_is_cut_off_hands_on(
    monkeypatch: pytest.MonkeyPatch, error: Exception, state: str
) -> None:
    """The message goes back to the queue for another worker, at once; a duplicate is dropped."""
    FakeFlow(monkeypatch, error)
    found = tasks.confirm.apply(args=("run", "mongodb", "1.0.0"))
    assert found.state == state
    assert getattr(found.result, "requeue", False) is (state == REJECTED)


@pytest.mark.parametrize(
    "message",
    [
        read_message("mongodb", "reply"),
        read_message("mongodb", "reply", history=9),
        unlock_message("mongodb", "me@here", "token", "reply"),
        audit_message(Entry("paused", "run", "me@here", KEY, "asked"), "reply"),
        declare_message(
            "mongodb", Declaration("run", "me@here", "retry", "why", ()), None, "reply"
        ),
        prune_message("mongodb", Pruning(datetime.now(UTC), "run", "me@here"), "reply"),
    ],
    ids=lambda message: message.task,
)
def test_what_a_person_asks_finds_its_task(message: Message) -> None:
    """With its arguments, as JSON carries them."""
    task = app.tasks[f"dharma_tasks.{message.task}"]
    inspect.signature(task.run).bind(**json.loads(json.dumps(message.arguments)))
