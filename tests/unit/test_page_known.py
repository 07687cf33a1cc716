"""How often the Migrations page asks for the journals, and what it keeps where nobody answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from fake_run import NAMESPACE
from fakeredis import FakeRedis

from dharma_tasks import reading, trail
from dharma_tasks.databases import NAMES
from dharma_tasks.messages import Chain
from dharma_tasks.page import known
from dharma_tasks.page.known import Journals
from dharma_tasks.reading import Relayed
from dharma_tasks.records import HistoryRecord, Survey
from dharma_tasks.settings import Settings
from dharma_tasks.trail import Trail

ENTRY = HistoryRecord(at="2026-05-09T12:03:00Z", event="run", run="r", by="me")  # type: ignore[arg-type]


class AtOnce(Executor):
    """An executor that runs what it is given before it returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


class Stage:
    """Workers that answer, or not, for MongoDB alone; and a clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.redis = FakeRedis(decode_responses=True)
        self.now = 1000.0
        self.served = {"mongodb"}
        self.waiting = 0
        self.answers: str | None = None
        self.asked: list[str] = []
        clock = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now)
        monkeypatch.setattr(known, "time", clock)
        monkeypatch.setattr(reading, "ANSWER_SECONDS", 0)
        monkeypatch.setattr(trail, "workers", lambda _settings, _send: self.relayed)
        settings = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
        self.journals = Journals(settings, self._send, AtOnce(), lambda _name: self.waiting)

    @property
    def relayed(self) -> Relayed:
        """The way to the workers."""
        return Relayed(self.redis, self.served, self._send)

    def _send(self, chains: Iterable[Chain]) -> None:
        for (message,) in chains:
            what = "history" if "history" in message.arguments else "survey"
            self.asked.append(what)
            survey = Survey(database="mongodb").model_dump_json()
            text = Trail(entries=[ENTRY]).model_dump_json() if what == "history" else survey
            self.redis.rpush(message.arguments["reply"], self.answers or text)

    def look(self, mark: object = "a", *, after: float = 0) -> list[str]:
        """Look once more, so many seconds later; what was asked for it."""
        self.now += after
        before = len(self.asked)
        self.journals.refresh(self.relayed, dict.fromkeys(NAMES, mark))  # type: ignore[arg-type]
        return self.asked[before:]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """MongoDB is served by a worker, and the other databases by none."""
    return Stage(monkeypatch)


def test_many_looks_ask_once(stage: Stage) -> None:
    """Journal and trail are asked for at the first look, and not again for a while."""
    assert stage.look() == ["survey", "history"]
    assert [asked for _ in range(20) for asked in stage.look(after=0.7)] == []
    assert stage.look(after=2) == ["survey", "history"]
    found = stage.journals.known()["mongodb"]
    assert found.survey is not None
    assert [each.event for each in found.entries] == ["run"]
    assert (found.at, found.error) == (stage.now, None)


def test_what_has_ended_is_asked_for_soon(stage: Stage) -> None:
    """Another mark in Redis means that the journal has something new to say."""
    stage.look("a")
    assert stage.look("b", after=1) == []
    assert stage.look("b", after=1) == ["survey", "history"]
    assert stage.look("b", after=3) == []


def test_who_does_not_answer_is_asked_less_and_less(stage: Stage) -> None:
    """What was known stays, with the reason and since when."""
    stage.look()
    good = stage.journals.known()["mongodb"]
    stage.answers = "error mongodb cannot be used: refused"
    assert stage.look("b", after=2) == ["survey"]
    failed = stage.now
    asked = [stage.now for _ in range(120) if stage.look("c", after=1)]
    gaps = [after - before for before, after in pairwise([failed, *asked])]
    assert gaps == [4, 15, 16, 30, 30]
    found = stage.journals.known()["mongodb"]
    assert (found.error, found.since) == ("mongodb cannot be used: refused", failed)
    assert (found.survey, found.at, found.entries) == (good.survey, good.at, good.entries)
    stage.answers = None
    stage.look(after=30)
    assert stage.journals.known()["mongodb"].error is None


def test_busy_workers_are_not_heaped_with_questions(stage: Stage) -> None:
    """While messages wait for a worker, the last question is among them."""
    stage.answers = "error no"
    stage.look()
    stage.waiting = 3
    assert stage.look(after=60) == []
    stage.waiting = 0
    assert stage.look(after=1) == ["survey"]


def test_a_database_that_lost_its_workers(stage: Stage) -> None:
    """Nobody is asked; what was known stays; a worker that comes back is asked at once."""
    stage.look()
    stage.served = set()
    assert stage.look(after=60) == []
    found = stage.journals.known()
    assert (found["mongodb"].error, found["mongodb"].since) == (
        "no live worker serves it",
        stage.now,
    )
    assert found["postgresql"].error is None
    stage.served = {"mongodb"}
    assert stage.look(after=1) == ["survey", "history"]
    assert stage.journals.known()["mongodb"].error is None
