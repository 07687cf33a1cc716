"""`dharma history`: the databases' trails put together, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_run import NAMESPACE, without_settings
from fakeredis import FakeRedis
from pydantic import SecretStr

from dharma_tasks import reading
from dharma_tasks.cli import common, main
from dharma_tasks.databases import NAMES
from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import Unreachable
from dharma_tasks.messages import Chain, read_message
from dharma_tasks.records import HistoryRecord
from dharma_tasks.settings import Settings
from dharma_tasks.trail import Trail
from dharma_tasks.workers import Worker, Workers

BEGUN = datetime(2026, 5, 9, 23, 59, 57, tzinfo=UTC)
RUN = "20260509-235957-ab12cd"


def entry(second: float, event: str, **more: object) -> HistoryRecord:
    """An entry, so many seconds after the beginning."""
    made = HistoryRecord(at=BEGUN + timedelta(seconds=second), event=event, run=RUN, by="me@here")
    return made.model_copy(update=more)


class FakeDatabase:
    """A database whose journal tells what the test wants."""

    def __init__(self, entries: list[HistoryRecord]) -> None:
        self.journal = self
        self.entries = entries
        self.error: Exception | None = None

    def history(self, limit: int) -> list[HistoryRecord]:
        if self.error:
            raise self.error
        return self.entries[-limit:]

    def classify(self, _error: BaseException) -> Fault:
        """It will not pass."""
        return Fault.LASTING

    def describe(self, error: BaseException) -> str:
        return f"described: {error}"

    def close(self) -> None:
        """Nothing to close."""


class Stage:
    """A history whose databases and workers the test makes up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_settings(monkeypatch)
        self.databases: dict[str, FakeDatabase] = {}
        self.redis: FakeRedis | None = None
        self.answers: dict[str, str] = {}
        self.asked: list[dict[str, Any]] = []
        monkeypatch.setattr(common, "read", self._settings)
        monkeypatch.setattr(common, "send", self._send)
        monkeypatch.setattr(reading, "require_redis", self._redis)
        monkeypatch.setattr(reading, "connect", lambda name, _settings: self.databases[name])
        monkeypatch.setattr(reading, "ANSWER_SECONDS", 0.2)

    def _settings(self) -> Settings:
        urls = {f"{name}_url": SecretStr("url://secret@host") for name in self.databases}
        return Settings(_env_file=None, namespace=NAMESPACE, **urls)  # type: ignore[call-arg, arg-type]

    def _redis(self, _settings: Settings) -> FakeRedis:
        if self.redis is None:
            msg = "Redis at h:1 cannot be used: Connection refused"
            raise Unreachable(msg)
        return self.redis

    def _send(self, chains: Iterable[Chain]) -> None:
        assert self.redis is not None
        for (message,) in chains:
            self.asked.append(message.arguments)
            if message.database in self.answers:
                self.redis.rpush(message.arguments["reply"], self.answers[message.database])

    def served(self, *names: str) -> None:
        """Let a worker serve these."""
        self.redis = FakeRedis(decode_responses=True)
        Workers(self.redis, NAMESPACE).announce(Worker(name="w@h", databases=names), 100)

    def tells(self, name: str, *entries: HistoryRecord) -> FakeDatabase:
        """Let a database be reached directly, and tell this."""
        self.databases[name] = FakeDatabase(list(entries))
        return self.databases[name]

    def history(self, *arguments: str) -> Result:
        """Run `dharma history`."""
        return CliRunner().invoke(main, ["history", *arguments])

    def document(self, *arguments: str) -> Any:
        """What `--json` prints."""
        return json.loads(self.history("--json", *arguments).stdout)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage."""
    return Stage(monkeypatch)


def a_run(stage: Stage) -> None:
    """A run over two databases and over midnight, with all that may happen."""
    ended = {"name": "rename_mail_to_email", "checksum": "sum", "seconds": 83.0}
    stage.tells(
        "mongodb",
        entry(0, "run", detail="forward"),
        entry(1, "taken", version="1.10.0", number=1, worker="celery@host"),
        entry(2.5, "unlocked", version="1.10.0", number=1, by="you@there", detail="lease 1 of w"),
        entry(4, "applied", version="1.10.0", **ended),
    )
    stage.tells(
        "postgresql",
        entry(0.5, "run", detail="forward"),
        entry(3, "rolled_back", version="2.0.0", number=1, error="ERROR 22012: division\nline 1"),
    )


def test_for_people(stage: Stage) -> None:
    """One story in the order of time, in 80 columns; what is long stands below its entry."""
    a_run(stage)
    result = stage.history()
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    assert lines[:11] == [
        f"2026-05-09 (UTC)  run {RUN} by me@here",
        "  23:59:57  mongodb     run                                 forward",
        "  23:59:57  postgresql  run                                 forward",
        "  23:59:58  mongodb     taken        1.10.0 #1              celery@host",
        "  23:59:59  mongodb     unlocked     1.10.0 #1",
        "    by you@there: lease 1 of w",
        f"2026-05-10 (UTC)  run {RUN} by me@here",
        "  00:00:00  postgresql  rolled_back  2.0.0 #1",
        "    ERROR 22012: division",
        "    line 1",
        "  00:00:01  mongodb     applied      1.10.0     1 min 23 s  rename_mail_to_email",
    ]
    assert all(len(line) <= 80 for line in lines)
    assert result.exit_code == 0


def test_a_run_with_nothing_open_there(stage: Stage) -> None:
    """What was done to it was done to no operation."""
    paused = {"by": "you@there", "detail": "asked at noon"}
    stage.tells("mongodb", entry(0, "paused", version="", number=0, **paused))
    assert "mongodb  paused\n    by you@there: asked at noon\n" in stage.history().stdout


def test_what_was_declared(stage: Stage) -> None:
    """By whom in its heading, as of a run; the reason once, below the first that has it."""
    more = {"run": "20260510-000000-cd34ef", "by": "ops@desk", "detail": "taken over"}
    other = {"run": "r2", "by": "ops@desk", "detail": "it was failed"}
    stage.tells(
        "mongodb",
        entry(0, "baseline", version="1.0.0", name="create_users", **more),
        entry(0, "baseline", version="1.1.0", **more),  # an older release has not told its name
        entry(1, "retry", version="1.10.0", name="rename", **other),
    )
    lines = [line.rstrip() for line in stage.history().stdout.splitlines()]
    assert lines[:6] == [
        "2026-05-09 (UTC)  run 20260510-000000-cd34ef by ops@desk",
        "  23:59:57  mongodb  baseline  1.0.0     create_users",
        "    taken over",
        "  23:59:57  mongodb  baseline  1.1.0",
        "2026-05-09 (UTC)  run r2 by ops@desk",
        "  23:59:58  mongodb  retry     1.10.0    rename",
    ]


def test_for_programs(stage: Stage) -> None:
    """Every field of every entry, with its database, oldest first."""
    a_run(stage)
    found = stage.document()
    assert [(each["database"], each["event"]) for each in found["entries"]] == [
        ("mongodb", "run"),
        ("postgresql", "run"),
        ("mongodb", "taken"),
        ("mongodb", "unlocked"),
        ("postgresql", "rolled_back"),
        ("mongodb", "applied"),
    ]
    assert found["entries"][-1] == {
        "at": "2026-05-10T00:00:01Z",
        "event": "applied",
        "run": RUN,
        "by": "me@here",
        "version": "1.10.0",
        "number": None,
        "worker": None,
        "detail": None,
        "error": None,
        "name": "rename_mail_to_email",
        "checksum": "sum",
        "seconds": 83.0,
        "database": "mongodb",
    }
    assert (found["errors"], found["unknown"]) == ({}, ["elasticsearch"])


def test_the_last_of_all(stage: Stage) -> None:
    """A limit is one over all databases; a database may be named."""
    a_run(stage)
    events = [each["event"] for each in stage.document("--limit", "2")["entries"]]
    assert events == ["rolled_back", "applied"]
    found = stage.document("postgresql", "--limit", "1")
    assert [each["event"] for each in found["entries"]] == ["rolled_back"]
    assert found["unknown"] == []


def test_nothing_yet(stage: Stage) -> None:
    """Three journals that nobody has made; Redis is not even asked."""
    for name in NAMES:
        stage.tells(name)
    result = stage.history()
    assert (result.exit_code, result.stdout) == (0, "Nothing has been done yet.\n")


# -- how it is reached ---------------------------------------------------------------------


def test_through_a_worker(stage: Stage) -> None:
    """It is asked for as much as is shown, and by nothing that an older worker would not know."""
    stage.served("mongodb", "elasticsearch")
    told = Trail(entries=[entry(0, "run", detail="forward")])
    stage.answers["mongodb"] = told.model_dump_json()
    stage.answers["elasticsearch"] = "error elasticsearch cannot be used: away"
    result = stage.history("--limit", "7")
    assert [each["history"] for each in stage.asked] == [7, 7]
    assert "history" not in read_message("mongodb", "reply").arguments
    assert result.exit_code == 4
    lines = result.stdout.splitlines()
    assert lines[1] == "  23:59:57  mongodb  run      forward"
    assert lines[2:] == [
        "elasticsearch cannot be used: away",
        "postgresql: not known: no URL is set, and no live worker serves it",
    ]


def test_a_database_that_does_not_answer(stage: Stage) -> None:
    """The others are shown; the URL, which may hold a password, is not."""
    a_run(stage)
    stage.databases["mongodb"].error = OSError("refused")
    result = stage.history()
    assert result.exit_code == 4
    assert "mongodb cannot be read: described: refused" in result.stdout
    assert "rolled_back" in result.stdout
    assert "secret" not in result.output


def test_nobody_knows(stage: Stage) -> None:
    """No URL, and no worker or not even Redis: that is not an empty history."""
    for _ in range(2):
        result = stage.history("mongodb")
        assert result.exit_code == 4
        assert "mongodb: not known" in result.stdout
        stage.served("postgresql")
