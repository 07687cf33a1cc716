"""`status`: journals, folder and Redis side by side, for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_run import (
    NAMESPACE,
    Driver,
    ReadFolder,
    failed,
    migration,
    progress,
    with_short_leases,
    without_settings,
)
from fakeredis import FakeRedis
from pydantic import SecretStr
from rich.cells import cell_len

from dharma_tasks import reading
from dharma_tasks import status as gathering
from dharma_tasks.bounds import Bounds
from dharma_tasks.cli import common, main
from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.identity import owner
from dharma_tasks.lease import Leases
from dharma_tasks.messages import Chain
from dharma_tasks.migration import Key, Migration
from dharma_tasks.records import (
    MigrationRecord,
    MigrationState,
    OperationRecord,
    OperationState,
    Survey,
)
from dharma_tasks.run import Next
from dharma_tasks.settings import Settings
from dharma_tasks.values import Values
from dharma_tasks.workers import Worker, Workers

FIRST = migration("mongodb", "1.0.0", name="create_users")
SECOND = migration("mongodb", "1.1.0", operations=2, name="lower_case_emails")
THIRD = migration("mongodb", "1.10.0", name="unique_email")
BEGUN = datetime(2026, 5, 9, 12, 3, tzinfo=UTC)


def record(found: Migration, state: MigrationState, **changes: object) -> MigrationRecord:
    """What a journal says of a migration all of whose operations are done."""
    kept = MigrationRecord(
        version=found.version,
        name=found.name,
        state=state,
        checksum=found.checksum,
        run="r",
        by="me@here",
        started=BEGUN,
        finished=BEGUN,
        seconds=1.3,
        operations=[
            OperationRecord(number=n, type=op["type"], state=OperationState.DONE, done=7, total=7)
            for n, op in enumerate(found.operations, start=1)
        ],
    )
    return kept.model_copy(update=changes)


def running(found: Migration) -> MigrationRecord:
    """What a journal says while the first operation runs."""
    working = OperationRecord(
        number=1, type="kind_1", state=OperationState.RUNNING, done=60_000, total=100_000
    )
    return record(found, MigrationState.RUNNING, finished=None, seconds=None, operations=[working])


class FakeDatabase:
    """A database whose journal says what the test wants."""

    def __init__(self, answer: Survey | Exception) -> None:
        self.journal = self
        self.answer = answer
        self.closed = False

    def survey(self) -> Survey:
        """Answer, or fail."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def classify(self, _error: BaseException) -> Fault:
        """It will not pass."""
        return Fault.LASTING

    def describe(self, error: BaseException) -> str:
        """The message."""
        return f"described: {error}"

    def close(self) -> None:
        """Note it."""
        self.closed = True


class Stage:
    """A status whose databases, folder and Redis the test makes up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_settings(monkeypatch)
        self.redis = FakeRedis(decode_responses=True)
        self.workers = Workers(self.redis, NAMESPACE)
        self.driver = Driver(self.redis, FIRST, SECOND, THIRD)
        self.databases: dict[str, FakeDatabase] = {}
        self.migrations: tuple[Migration, ...] = (FIRST, SECOND, THIRD)
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []
        self.directory = Path()
        self.refused: list[Problem] = []
        self._patch = monkeypatch
        monkeypatch.setattr(common, "read", self._settings)
        monkeypatch.setattr(gathering, "read_folder", self._read)
        monkeypatch.setattr(common, "send", self._send)
        monkeypatch.setattr(gathering, "require_redis", lambda _settings: self.redis)
        monkeypatch.setattr(reading, "connect", lambda name, _settings: self.databases[name])
        monkeypatch.setattr(reading, "ANSWER_SECONDS", 0.2)

    def _settings(self) -> Settings:
        urls = {f"{name}_url": SecretStr("url://secret@host") for name in self.databases}
        return Settings(
            _env_file=None,  # type: ignore[call-arg]
            namespace=NAMESPACE,
            migrations_dir=self.directory,
            **urls,  # type: ignore[arg-type]
        )

    def _read(self, folder: Path, _values: Values, _bounds: Bounds) -> ReadFolder:
        assert folder == self.directory
        if self.refused:
            raise Refused(self.refused)
        return ReadFolder(*self.migrations)

    def _send(self, chains: Iterable[Chain]) -> None:
        for (message,) in chains:
            self.asked.append(message.database)
            if message.database in self.answers:
                self.redis.rpush(message.arguments["reply"], self.answers[message.database])

    def journal(self, name: str, *records: MigrationRecord) -> None:
        """Let a database be reached directly, and say this."""
        self.databases[name] = FakeDatabase(Survey(database=name, migrations=list(records)))

    def redis_is_down(self) -> None:
        """Let Redis not answer."""

        def refuse(_settings: Settings) -> FakeRedis:
            msg = "Redis at h:1 cannot be used: Connection refused"
            raise Unreachable(msg)

        self._patch.setattr(gathering, "require_redis", refuse)

    def status(self, *arguments: str) -> Result:
        """Run `dharma status`."""
        return CliRunner().invoke(main, ["status", *arguments])

    def document(self) -> Any:
        """What `--json` prints."""
        return json.loads(self.status("--json").stdout)["databases"]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage."""
    return Stage(monkeypatch)


@pytest.fixture
def begun(stage: Stage) -> Callable[[], Key]:
    """A run whose worker is in the middle of mongodb 1.0.0, with its lease."""

    def begin() -> Key:
        run = stage.driver.submit()
        stage.driver.start(run)
        upcoming = Next("mongodb", "1.0.0", 1)
        stage.driver.runs.report(run.id, "mongodb", progress(upcoming))
        key = Key(database="mongodb", version="1.0.0", number=1)
        Leases(stage.redis, NAMESPACE, 10).acquire(key, owner("w@here", {}), run.id)
        stage.journal("mongodb", running(FIRST))
        return key

    return begin


# -- what is known -------------------------------------------------------------------------


def test_journal_and_folder_side_by_side(stage: Stage) -> None:
    """Applied ones from the journal, pending ones from the folder, sorted as versions."""
    both = (record(found, MigrationState.APPLIED) for found in (SECOND, FIRST))
    stage.journal("mongodb", *both)
    found = stage.document()["mongodb"]
    assert found["current"] == "1.1.0"
    assert [(m["version"], m["state"]) for m in found["migrations"]] == [
        ("1.0.0", "applied"),
        ("1.1.0", "applied"),
        ("1.10.0", "pending"),
    ]
    nobody = {"attempts": 0, "error": None, "worker": None}
    assert found["migrations"][1]["operations"] == [
        {"type": "kind_1", "state": "done", "done": 7, "total": 7, **nobody},
        {"type": "kind_2", "state": "done", "done": 7, "total": 7, **nobody},
    ]
    assert found["migrations"][2]["operations"] == [
        {"type": "kind_1", "state": "pending", "done": 0, "total": None, **nobody}
    ]
    assert stage.databases["mongodb"].closed


def test_nothing_applied_has_no_current_version(stage: Stage) -> None:
    """A database before its first run: everything is pending."""
    stage.journal("mongodb")
    found = stage.document()["mongodb"]
    assert found["current"] is None
    assert {m["state"] for m in found["migrations"]} == {"pending"}


def test_the_journal_is_shown_without_a_folder(stage: Stage) -> None:
    """Where there is no folder nothing is pending, and what is applied is still shown."""
    stage.directory = Path("no such folder")
    stage.journal("mongodb", record(FIRST, MigrationState.APPLIED))
    found = stage.document()["mongodb"]
    assert [(m["name"], m["state"]) for m in found["migrations"]] == [("create_users", "applied")]


def test_a_file_that_was_changed(stage: Stage) -> None:
    """An applied migration whose file is another one now is marked."""
    stage.journal("mongodb", record(FIRST, MigrationState.APPLIED, checksum="another"))
    assert stage.document()["mongodb"]["migrations"][0]["changed"]
    shown = stage.status().stdout
    assert "applied *" in shown
    assert "* 1.0.0 is applied, and its file was changed since: put it back as it was." in shown


def test_names_of_any_length_and_width(stage: Stage) -> None:
    """The table keeps its columns, and 80 of them are enough."""
    names = ("short", "a_name_that_is_longer_than_its_column", "表を作成してからすべての行を移す")
    made = [migration("mongodb", f"1.{n}.0", name=name) for n, name in enumerate(names)]
    stage.migrations = tuple(made)
    stage.journal("mongodb", *(record(each, MigrationState.APPLIED) for each in made))
    _, head, *rows, _ = (line for line in stage.status().stdout.splitlines()[:6])
    assert head.split("  ")[1:3] == ["version", "name"]
    assert rows[1].startswith("  1.1.0    a_name_that_is_longer_t…  applied  ")
    columns = {(cell_len(row[: row.index("applied")]), cell_len(row)) for row in rows}
    assert len(columns) == 1
    assert columns.pop()[1] <= 80
    stage.migrations = (migration("mongodb", "1.0.0", name="a"),)
    stage.journal("mongodb")
    assert "\n  version  name  state " in stage.status().stdout, (
        "short ones leave the heading whole"
    )


def test_files_that_are_missing_or_late(stage: Stage) -> None:
    """Each is marked, and below the table it is said what to do about it."""
    newer = migration("mongodb", "1.11.0", name="add_phone")
    files = stage.migrations = (FIRST, THIRD, migration("mongodb", "1.10.1", name="add_name"))
    stage.journal(
        "mongodb", *(record(each, MigrationState.APPLIED) for each in (FIRST, SECOND, THIRD, newer))
    )
    marks = ("missing", "newer", "late")
    found = {
        m["version"]: [mark for mark in marks if m[mark]]
        for m in stage.document()["mongodb"]["migrations"]
    }
    assert found == {
        "1.0.0": [],
        "1.1.0": ["missing"],
        "1.10.0": [],
        "1.10.1": ["late"],
        "1.11.0": ["missing", "newer"],
    }
    shown = " ".join(stage.status().stdout.split())
    assert "lower_case_emails applied ? " in shown
    assert "add_name pending ! " in shown
    assert "? 1.1.0 is applied, and its file is not in the folder: put it back as it was" in shown
    assert "? 1.11.0 is applied, and newer than every file in this folder" in shown
    assert "! 1.10.1 is late: a higher version is there already: give it a version above" in shown
    stage.migrations = files[1:]
    stage.journal("mongodb", *(record(each, MigrationState.APPLIED) for each in (FIRST, THIRD)))
    assert "?" not in stage.status().stdout, "what is older than all files may go"


def test_a_file_with_another_version(stage: Stage) -> None:
    """Neither missing nor late nor changed: what it says now is named, also of two that swapped."""
    renumbered = SECOND.model_copy(update={"version": "1.0.5"}).with_checksum()
    stage.migrations = (FIRST, renumbered, THIRD)
    stage.journal(
        "mongodb", *(record(each, MigrationState.APPLIED) for each in (FIRST, SECOND, THIRD))
    )
    shown = stage.status().stdout
    assert "? 1.1.0 is applied, and its file says the version 1.0.5 now: put 1.1.0 back." in shown
    assert "!" not in shown
    found = stage.document()["mongodb"]["migrations"]
    assert {m["version"]: m["moved"] for m in found if m["moved"]} == {"1.1.0": "1.0.5"}
    one, other = SECOND, THIRD.model_copy(update={"name": "another"})
    stage.migrations = tuple(
        each.model_copy(update={"version": version}).with_checksum()
        for each, version in ((one, other.version), (other, one.version))
    )
    applied = [each.with_checksum() for each in (one, other)]
    stage.journal("mongodb", *(record(each, MigrationState.APPLIED) for each in applied))
    shown = stage.status().stdout
    assert "* 1.1.0 is applied, and its file says the version 1.10.0 now" in shown
    assert "* 1.10.0 is applied, and its file says the version 1.1.0 now" in shown


def test_nothing_is_missing_where_the_folder_is_not_known(stage: Stage) -> None:
    """Without one, or with one that cannot be read."""
    stage.journal("mongodb", record(SECOND, MigrationState.APPLIED))
    stage.refused = [Problem("mongodb/1.json", "line 1", "not JSON", "Mend it.")]
    assert not stage.document()["mongodb"]["migrations"][0]["missing"]


def test_what_is_rolled_back_may_be_changed(stage: Stage) -> None:
    """It begins anew."""
    stage.journal("mongodb", record(FIRST, MigrationState.ROLLED_BACK, checksum="another"))
    assert "*" not in stage.status().stdout


def test_what_runs_is_live(stage: Stage, begun: Callable[[], Key]) -> None:
    """Redis has newer numbers than the journal, the heartbeat and who holds the lease."""
    begun()
    found = stage.document()["mongodb"]
    (operation,) = found["migrations"][0]["operations"]
    assert (operation["type"], operation["state"]) == ("kind_1", "running")
    assert (operation["done"], operation["total"]) == (61_000, 100_000)
    alive = found["progress"]
    assert (alive["version"], alive["operation"], alive["type"]) == ("1.0.0", 1, "update_documents")
    assert alive["rate"] == pytest.approx(6100)
    assert 0 <= alive["age"] < 5
    assert alive["holder"].startswith("w@here (pid ")
    assert found["run"] == stage.driver.runs.open()[0].run.id
    shown = stage.status().stdout
    assert "  1.0.0 update_documents users\n    61,000 of 100,000, 6,100/s, 6.4 s left" in shown
    assert "held by w@here" in shown


def test_work_that_nobody_holds(stage: Stage, begun: Callable[[], Key]) -> None:
    """Without a live lease it is said that a worker takes it over."""
    stage.redis.delete(f"{NAMESPACE}:lease:{begun()}")
    assert stage.document()["mongodb"]["progress"]["holder"] is None
    assert "no lease: a worker will take it over" in stage.status().stdout


def test_who_tried_how_often_and_what_came_in_between(
    stage: Stage, begun: Callable[[], Key]
) -> None:
    """Attempts, last error and worker of an operation that does not get on, in both forms."""
    begun()
    stuck = {"attempts": 3, "error": "lock timeout\non users", "worker": "w@there"}
    was = running(FIRST)
    operation = was.operations[0].model_copy(update=stuck)
    stage.journal("mongodb", was.model_copy(update={"operations": [operation]}))
    (shown,) = stage.document()["mongodb"]["migrations"][0]["operations"]
    assert {name: shown[name] for name in stuck} == stuck
    text = stage.status().stdout
    assert (
        "  1.0.0 1/1 kind_1 running: last worker w@there, begun 3 times without progress\n"
        "    last error: lock timeout\n    on users\n"
    ) in text


def test_a_failure_is_not_told_twice(stage: Stage) -> None:
    """The operation's error is the migration's: it is shown once, with the worker that met it."""
    operation = OperationRecord(
        number=1, type="kind_1", state=OperationState.FAILED, error="E11000", worker="w@there"
    )
    failed = record(FIRST, MigrationState.FAILED, error="E11000", operations=[operation])
    stage.journal("mongodb", failed)
    text = stage.status().stdout
    assert "  1.0.0 1/1 kind_1 failed: last worker w@there\n" in text
    assert text.count("E11000") == 1


def test_a_failure_on_the_way_back_is_not_told_twice(stage: Stage) -> None:
    """The migration says of it where it was; of the rollback file the whole is counted."""
    file = SECOND.model_copy(update={"rollback": SECOND.operations})
    stage.migrations = (FIRST, file)
    done = record(file, MigrationState.FAILED).operations
    broken = OperationRecord(number=3, type="kind_1", state=OperationState.FAILED, error="E11000")
    error = "on the way back: E11000"
    stage.journal(
        "mongodb", record(file, MigrationState.FAILED, error=error, operations=[*done, broken])
    )
    shown = stage.status().stdout
    assert shown.count("E11000") == 1
    assert " failed        2/4 " in shown


def test_what_is_left_of_a_failure_is_named(stage: Stage) -> None:
    """What could not be undone, and how far it had come; of what is undone nothing."""
    found = [
        OperationRecord(number=1, type="remove_field", state=OperationState.DONE, done=9, total=9),
        OperationRecord(number=2, type="many", state=OperationState.FAILED, done=3, total=4),
        OperationRecord(number=3, type="never", state=OperationState.FAILED),
    ]
    three = migration("mongodb", "1.0.0", operations=3)
    stage.migrations = (three,)
    stage.journal(
        "mongodb", record(three, MigrationState.FAILED, error="no disk", operations=found)
    )
    assert "  Left of it: 1 remove_field, 2 many (3 of 4)\n" in stage.status().stdout


def test_the_journal_is_ahead_of_the_run(stage: Stage, begun: Callable[[], Key]) -> None:
    """What the journal says is applied is not shown as running, whatever Redis still says."""
    begun()
    stage.journal("mongodb", record(FIRST, MigrationState.APPLIED))
    assert stage.document()["mongodb"]["progress"] is None


def test_running_without_a_run(stage: Stage) -> None:
    """After Redis lost everything a begun migration waits for the next submit."""
    stage.journal("mongodb", running(FIRST))
    assert "no run that Redis knows goes on with it: submit again." in stage.status().stdout


@pytest.mark.parametrize(
    ("state", "operations"),
    [
        (MigrationState.FAILED, [OperationState.DONE, OperationState.UNDOING]),
        (MigrationState.FAILED, [OperationState.DONE, OperationState.DONE, OperationState.FAILED]),
        (MigrationState.ROLLING_BACK, [OperationState.DONE, OperationState.UNDOING]),
    ],
)
def test_the_way_back_is_gone_on_with_by_a_rollback(
    stage: Stage, state: MigrationState, operations: list[OperationState]
) -> None:
    """By its command: a submit would be refused. A rollback file that has begun counts."""
    found = [
        OperationRecord(number=n, type="any", state=each)
        for n, each in enumerate(operations, start=1)
    ]
    half = record(SECOND, state, error="no disk", operations=found)
    stage.journal("mongodb", record(FIRST, MigrationState.APPLIED), half)
    shown = stage.status().stdout
    assert "dharma rollback 1.0.0 --databases mongodb\n" in shown
    assert "submit again" not in shown
    assert stage.document()["mongodb"]["migrations"][1]["half_undone"]


def test_what_is_undone_is_shown_as_that(stage: Stage) -> None:
    """The operation's name alone would say that it goes forward."""
    run = stage.driver.submit()
    stage.driver.start(run)
    upcoming = Next("mongodb", "1.0.0", 1)
    stage.driver.runs.failed(run, upcoming, failed(upcoming, "no"), upcoming._replace(until=1))
    stage.driver.runs.report(run.id, "mongodb", progress(upcoming))
    stage.journal("mongodb", running(FIRST))
    assert stage.document()["mongodb"]["progress"]["undo"]
    assert "  1.0.0 undo update_documents users\n" in stage.status().stdout


@pytest.mark.parametrize(
    ("state", "todo"),
    [
        (MigrationState.FAILED, "it goes on where it stopped"),
        (MigrationState.ROLLED_BACK, "a submit begins it anew"),
    ],
)
def test_a_failure_is_explained(stage: Stage, state: MigrationState, todo: str) -> None:
    """The database's own message, whole, and what to do; the state is not called pending."""
    error = "E11000 duplicate key\n{ email: 'a@b' }"
    stage.journal("mongodb", record(FIRST, state, error=error))
    result = stage.status()
    assert result.exit_code == 0
    assert "    E11000 duplicate key\n    { email: 'a@b' }\n" in result.stdout
    assert todo in result.stdout
    assert stage.document()["mongodb"]["migrations"][0]["state"] == state


# -- who is asked --------------------------------------------------------------------------


def test_a_worker_is_asked_where_there_is_no_url(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that serves it reads the journal; the reply's key does not stay."""
    with_short_leases(monkeypatch)
    stage.workers.announce(Worker(name="w@h", databases=("mongodb",)), 100)
    survey = Survey(database="mongodb", migrations=[record(FIRST, MigrationState.APPLIED)])
    stage.answers["mongodb"] = survey.model_dump_json()
    assert stage.document()["mongodb"]["current"] == "1.0.0"
    assert stage.asked == ["mongodb"]
    assert stage.redis.keys(f"{NAMESPACE}:reply:*") == []


def test_a_url_is_used_before_a_worker(stage: Stage) -> None:
    """What can be read directly is."""
    stage.workers.announce(Worker(name="w@h", databases=("mongodb",)), 100)
    stage.journal("mongodb")
    assert stage.status().exit_code == 0
    assert stage.asked == []


def test_4_a_worker_that_cannot_reach_it(stage: Stage) -> None:
    """What the worker was told is shown."""
    stage.workers.announce(Worker(name="w@h", databases=("mongodb",)), 100)
    stage.answers["mongodb"] = "error mongodb cannot be used: no primary"
    result = stage.status()
    assert result.exit_code == 4
    assert "mongodb cannot be used: no primary" in result.stdout


def test_4_a_worker_that_does_not_answer(stage: Stage) -> None:
    """A worker that is busy for hours is not waited for."""
    stage.workers.announce(Worker(name="w@h", databases=("mongodb",)), 100)
    result = stage.status()
    assert result.exit_code == 4
    assert "no worker has answered for mongodb" in result.stdout


def test_4_a_database_that_is_down(stage: Stage) -> None:
    """The others are shown all the same, and no secret is."""
    stage.journal("mongodb", record(FIRST, MigrationState.APPLIED))
    stage.databases["postgresql"] = FakeDatabase(OSError("refused"))
    result = stage.status()
    assert result.exit_code == 4
    assert "mongodb  at 1.0.0" in result.stdout
    said = "refused. Look at the server, and at DHARMA_POSTGRESQL_URL.\n"
    assert f"postgresql cannot be read: described: {said}" in result.stdout
    assert "DHARMA_POSTGRESQL_URL" in result.stdout
    assert "secret" not in result.output


def test_a_database_that_nobody_knows(stage: Stage) -> None:
    """Without a URL and a worker it is shown as such, and is no error."""
    stage.journal("mongodb")
    result = stage.status()
    assert result.exit_code == 0
    assert "elasticsearch  not known: no URL is set, and no live worker serves it" in result.stdout
    found = stage.document()["elasticsearch"]
    assert (found["known"], found["current"], found["migrations"]) == (False, None, [])


def test_4_nothing_is_known_at_all(stage: Stage) -> None:
    """No URL and no worker for anything."""
    assert stage.status().exit_code == 4


def test_without_redis_the_journals_are_shown(stage: Stage) -> None:
    """The journal is the truth: Redis that is down costs one line (Law 1)."""
    stage.journal("mongodb", record(FIRST, MigrationState.APPLIED))
    stage.redis_is_down()
    result = stage.status()
    assert result.exit_code == 0
    assert "mongodb  at 1.0.0" in result.stdout
    assert "Redis at h:1 cannot be used: Connection refused" in result.stdout
    assert json.loads(stage.status("--json").stdout)["redis"].startswith("Redis at h:1")


# -- the folder ----------------------------------------------------------------------------


def test_a_folder_that_is_named_must_be_there(stage: Stage, tmp_path: Path) -> None:
    """A typo in --migrations is not taken for an empty folder."""
    assert stage.status("--migrations", str(tmp_path / "none")).exit_code == 2


def test_a_folder_that_submit_would_refuse(stage: Stage) -> None:
    """The journal is still shown, and why what is pending is not known."""
    stage.journal("mongodb", record(FIRST, MigrationState.APPLIED))
    stage.refused = [Problem("mongodb/1.json", "line 1", "not JSON", "Mend it.")]
    result = stage.status()
    assert result.exit_code == 0
    assert "mongodb  at 1.0.0, 1 of 1 migration" in result.stdout
    assert "The folder has 1 problem" in result.stdout
    assert "  mongodb/1.json, line 1: not JSON. Mend it." in result.stdout
    assert json.loads(stage.status("--json").stdout)["problems"]
