"""`dharma status --watch`: what each look knows, and how it is shown where."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_run import NAMESPACE, Driver, key, migration, progress, without_settings
from fakeredis import FakeRedis
from page_scene import applied, record
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisConnectionError
from rich.console import Console

from dharma_tasks import reading
from dharma_tasks.cli import common, main, watching
from dharma_tasks.databases.base import Fault
from dharma_tasks.identity import owner
from dharma_tasks.lease import Leases
from dharma_tasks.records import Head, MigrationRecord, MigrationState, Survey
from dharma_tasks.run import Next, RunState
from dharma_tasks.settings import Settings
from dharma_tasks.watching import known, sight, statuses
from dharma_tasks.watching.statuses import Statuses
from dharma_tasks.workers import Worker, Workers

M1, M2 = migration("mongodb", "1.0.0"), migration("mongodb", "1.1.0", "postgresql:1.0.0")
P1 = migration("postgresql", "1.0.0", "mongodb:1.0.0")
AT = Next("mongodb", "1.0.0", 1)


class FakeDatabase:
    """A database whose journal says what the test wants; it may hang, or fail."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.journal = self
        self.records: list[MigrationRecord] = []
        self.run: str | None = None
        self.error: Exception | None = None
        self.answers = Event()
        self.answers.set()

    def survey(self) -> Survey:
        """Answer, when it does."""
        assert self.answers.wait(60)
        if self.error:
            raise self.error
        head = Head(identity="i", run=self.run) if self.run else None
        return Survey(database=self.name, head=head, migrations=self.records)

    def classify(self, _error: BaseException) -> Fault:
        """It will not pass."""
        return Fault.LASTING

    def describe(self, error: BaseException) -> str:
        """The message."""
        return f"described: {error}"

    def close(self) -> None:
        """Nothing is open."""


class Stage:
    """Redis, two databases that are reached directly, and a run in them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        without_settings(monkeypatch)
        self.redis = FakeRedis(decode_responses=True)
        self.driver = Driver(self.redis, M1, M2, P1)
        self.databases = {name: FakeDatabase(name) for name in ("mongodb", "postgresql")}
        self.settings = Settings(
            _env_file=None,  # type: ignore[call-arg]
            namespace=NAMESPACE,
            migrations_dir=folder,
            mongodb_url=SecretStr("url://secret@host"),
            postgresql_url=SecretStr("url://secret@host"),
        )
        self._patch = monkeypatch
        monkeypatch.setattr(sight, "connect_redis", lambda _settings: self.redis)
        monkeypatch.setattr(reading, "connect", lambda name, _settings: self.databases[name])
        monkeypatch.setattr(common, "read", lambda: self.settings)
        # The journals are asked at every look.
        for pause in ("_CHANGED_SECONDS", "_USUAL_SECONDS", "_FAILING_SECONDS"):
            monkeypatch.setattr(known, pause, 0)
        self.statuses = Statuses(self.settings, None, lambda _chains: None)

    def begin(self) -> None:
        """Let a worker be in the middle of the first migration."""
        run = self.driver.submit()
        self.driver.start(run)
        self.driver.runs.report(run.id, "mongodb", progress(AT))
        Leases(self.redis, NAMESPACE, 10).acquire(key(AT), owner("w@here", {}), run.id)
        Workers(self.redis, NAMESPACE).announce(
            Worker(name="w@here", databases=("mongodb", "postgresql")), 100
        )

    def database(self, name: str) -> Any:
        """What the next look says of it."""
        return self.statuses.look().status.databases[name]

    def until(self, condition: Callable[[], Any]) -> Any:
        """Look until it is so."""
        until = time.monotonic() + 20
        while not (found := condition()):
            assert time.monotonic() < until
            time.sleep(0.01)
        return found

    def redis_is_lost(self) -> None:
        """Let Redis not answer any more."""

        def lost(*_: object) -> None:
            raise RedisConnectionError("Connection refused.")

        self._patch.setattr(sight, "feel", lost)

    def watch(self, *options: str, looks: int = 1, between: Callable[[], None] = int) -> Result:
        """Run the command; Ctrl-C comes after so many looks."""
        left = iter(range(looks - 1))

        def sleep(_seconds: float) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            between()

        def leave(status: int) -> None:
            raise SystemExit(status)

        with self._patch.context() as patch:
            patch.setattr(watching, "leave", leave)
            patch.setattr(watching, "time", FakeTime(sleep))
            return CliRunner().invoke(main, ["status", "--watch", *options])


class FakeTime:
    """A clock that stands still, and what happens when somebody sleeps."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.sleep = sleep

    def monotonic(self) -> float:
        """No time passes."""
        return 0.0


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Stage]:
    """The stage; whoever still asks a database in the background gets an answer at the end."""
    made = Stage(monkeypatch, tmp_path / "migrations")
    yield made
    for database in made.databases.values():
        database.answers.set()


# -- what is known -------------------------------------------------------------------------


def test_the_first_look_has_the_journals(stage: Stage) -> None:
    """They are asked in the background, and waited for once."""
    stage.databases["mongodb"].records = applied(M1)
    found = stage.statuses.look().status
    assert found.databases["mongodb"].current == "1.0.0"
    assert found.databases["postgresql"].error is None
    assert not found.databases["elasticsearch"].known
    assert not found.unreachable


def test_a_database_that_hangs_holds_up_nobody(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its own part is missing, until it answers; what runs is shown all the while."""
    monkeypatch.setattr(stage.statuses, "_patience", 0.2)
    stage.begin()
    stage.databases["mongodb"].answers.clear()
    for _ in range(3):
        began = time.monotonic()
        found = stage.statuses.look()
        assert time.monotonic() - began < 5
        mongodb = found.status.databases["mongodb"]
        assert mongodb.error == "its journal has not been read yet"
        assert mongodb.progress is not None
        assert found.rows["mongodb"].progress is not None
        assert found.status.databases["postgresql"].error is None
    stage.databases["mongodb"].records = applied(M1)
    stage.databases["mongodb"].answers.set()
    stage.until(lambda: stage.database("mongodb").current == "1.0.0")


def test_a_database_that_is_lost_stays_as_it_was(stage: Stage) -> None:
    """With the reason, and with the time that what is shown is from; until it is back."""
    stage.databases["mongodb"].records = applied(M1)
    assert stage.database("mongodb").as_of is None
    stage.databases["mongodb"].error = OSError("refused")
    found = stage.until(lambda: (now := stage.database("mongodb")).error and now)
    assert found.error is not None
    assert found.error.startswith("mongodb cannot be read: described: refused. Look at")
    assert (found.current, found.as_of is not None) == ("1.0.0", True)
    stage.databases["mongodb"].error = None
    stage.until(lambda: stage.database("mongodb").as_of is None)


def test_without_redis_nothing_old_is_taken_for_new(stage: Stage) -> None:
    """What ran before Redis was lost is not shown as running now; the journals are."""
    stage.databases["mongodb"].records = applied(M1)
    stage.begin()
    assert stage.statuses.look().rows.keys() == {"mongodb", "postgresql"}
    stage.redis_is_lost()
    found = stage.statuses.look()
    assert found.status.redis == "Redis cannot be read: Connection refused"
    assert (found.rows, found.status.runs) == ({}, [])
    assert found.status.databases["mongodb"].progress is None
    assert found.status.databases["mongodb"].current == "1.0.0"


def test_a_run_that_is_over_is_not_at_work(stage: Stage) -> None:
    """Its row goes with it: what has become of it is in the journals."""
    run = stage.driver.submit()
    stage.databases["mongodb"].run = run.id
    (at,) = stage.driver.start(run)
    assert stage.statuses.look().rows
    stage.driver.fail(run, at)
    assert stage.statuses.look().rows == {}


def test_nothing_is_advised_from_before_the_end_of_a_run(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A journal that still says "running" is only older than the end of its run."""
    stage.databases["mongodb"].records = [record(M1, MigrationState.RUNNING)]
    stage.begin()
    assert stage.database("mongodb").as_of is None
    monkeypatch.setattr(known, "_CHANGED_SECONDS", 60)
    stage.until(lambda: not stage.statuses._sight._journals._turns["mongodb"].asking)
    monkeypatch.setattr(known, "_USUAL_SECONDS", 60)
    (found,) = stage.driver.runs.open()
    stage.until(lambda: stage.database("mongodb").run)
    stage.driver.runs.end(found.run, RunState.CANCELLED, [])
    shown = "\n".join(drawn(stage, 40))
    assert "1.0.0    change  running" in shown
    assert "submit again" not in shown


def test_a_file_that_is_new_is_seen(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is read again when something in it has changed, and not at each look."""
    read = []
    usual = statuses.read_files

    def noting(*arguments: Any) -> Any:
        read.append(arguments)
        return usual(*arguments)

    monkeypatch.setattr(statuses, "read_files", noting)
    folder = stage.settings.migrations_dir / "mongodb"
    folder.mkdir(parents=True)
    file = {"name": "a", "database_type": "mongodb", "migration_type": "schema"}
    operations = [{"type": "create_collection", "collection": "c"}]
    for number in (1, 2):
        definition = file | {"version": f"1.{number}.0", "operations": operations}
        (folder / f"00{number}_a.json").write_text(json.dumps(definition))
        for _ in range(3):
            found = stage.database("mongodb").migrations
        assert [each.version for each in found] == [f"1.{n}.0" for n in range(1, number + 1)]
        assert len(read) == number
    (folder / "003_a.json").write_text("no JSON")
    assert stage.statuses.look().status.problems


# -- how it is shown -----------------------------------------------------------------------


def test_json_is_a_document_a_line(stage: Stage) -> None:
    """What `status --json` has, with the time of the look."""
    stage.begin()
    result = stage.watch("--json", looks=3)
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(documents) == 3
    assert sorted(each["at"] for each in documents) == [each["at"] for each in documents]
    assert documents[0]["databases"]["mongodb"]["progress"]["done"] == 61_000
    assert documents[0]["workers"] == ["w@here"]
    assert result.exit_code == 0


def test_lines_say_what_is_new(stage: Stage) -> None:
    """Where there is no terminal each line comes once, until it is another one."""
    stage.begin()
    done = iter((61_000, 62_000, 62_000))

    def work() -> None:
        (run,) = stage.driver.runs.open()
        now = time.time()
        shown = progress(AT, done=next(done), since=now - 10, heartbeat=now)
        stage.driver.runs.report(run.run.id, "mongodb", shown)

    lines = stage.watch(looks=3, between=work).stdout.splitlines()
    run = stage.driver.runs.open()[0].run.id
    moving = "mongodb 1.0.0 change update_documents users: 6{},000 of 100,000"
    assert [line.partition(", 6,")[0] for line in lines] == [
        f"mongodb nothing applied, run {run}",
        moving.format(1),
        f"postgresql nothing applied, run {run}",
        "postgresql 1.0.0 change: waits for mongodb:1.0.0",
        moving.format(2),
    ]
    assert lines[1].endswith("/s, 6.4 s left")


def test_lines_of_what_is_wrong(stage: Stage) -> None:
    """A failure with the database's first line, a database that is away, Redis that is."""
    failed = record(M1, MigrationState.FAILED, error="E11000 duplicate key\n{ email: 1 }")
    stage.databases["mongodb"].records = [failed]
    stage.databases["postgresql"].error = OSError("refused")
    stage.redis_is_lost()
    result = stage.watch(looks=2)
    assert result.stdout.splitlines() == [
        "mongodb nothing applied, 0 of 1 migration",
        "mongodb 1.0.0 failed: E11000 duplicate key",
        "postgresql not known",
        (
            "postgresql cannot be read: described: refused. Look at the server, and at "
            "DHARMA_POSTGRESQL_URL."
        ),
        "Redis cannot be read: Connection refused. Without it nothing that runs now can be seen.",
    ]
    assert result.exit_code == 4


def drawn(stage: Stage, height: int) -> list[str]:
    """The lines on a terminal of that height."""
    file = io.StringIO()
    out = Console(file=file, force_terminal=True, width=80, height=height, color_system=None)
    screen = watching._InPlace(out, 2)
    out.print(screen._fitting(stage.statuses.look()))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_on_a_terminal_that_is_high_enough(stage: Stage) -> None:
    """The tables of `status`, and a moving bar with rate and time left."""
    stage.databases["mongodb"].records = [record(M1, MigrationState.RUNNING)]
    stage.begin()
    shown = "\n".join(drawn(stage, 40))
    assert "UTC, every 2 s, until Ctrl-C" in shown
    assert "  1.0.0    change  running" in shown
    assert "61%" in shown
    assert "━━━" in shown
    assert "61,000 of 100,000  6,100/s  6.4 s left" in shown
    assert "ago, held by w@here (pid" in shown
    assert "waits for mongodb:1.0.0" in shown


def test_on_a_terminal_that_is_too_low(stage: Stage) -> None:
    """Without tables, so that all databases are in sight: what moves, fails and is to come."""
    error = "E11000 duplicate key\n" + "and more\n" * 20
    stage.databases["mongodb"].records = [record(M1, MigrationState.FAILED, error=error)]
    stage.databases["postgresql"].records = applied(
        *(migration("postgresql", f"1.{n}.0") for n in range(30))
    )
    stage.begin()
    lines = drawn(stage, 24)
    assert len(lines) < 24
    shown = "\n".join(lines)
    assert "postgresql  at 1.29.0, 30 of 30 migrations" in shown
    assert "1.0.0 failed: E11000 duplicate key" in shown
    assert "6,100/s  6.4 s left" in shown
    assert "and more" not in shown


def test_without_redis_nobody_is_told_to_submit_again(stage: Stage) -> None:
    """A run may well go on with what has begun: nobody can tell."""
    stage.databases["mongodb"].records = [record(M1, MigrationState.RUNNING)]
    assert "no run that Redis knows goes on with it" in "\n".join(drawn(stage, 40))
    stage.redis_is_lost()
    shown = "\n".join(drawn(stage, 40))
    assert "1.0.0    change  running" in shown
    assert "submit again" not in shown


def test_an_interval_without_a_watch(stage: Stage) -> None:
    """It would do nothing."""
    result = CliRunner().invoke(main, ["status", "--interval", "3"])
    assert result.exit_code == 2
    assert "--interval says how often --watch looks" in result.stderr


def test_links_that_lead_nowhere(stage: Stage) -> None:
    """Editors leave such locks in a folder while somebody writes."""
    folder = stage.settings.migrations_dir
    folder.mkdir(exist_ok=True)
    (folder / ".#001_users.json").symlink_to("somebody@host")
    assert stage.statuses.look().status.problems == []
