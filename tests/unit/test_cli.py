"""`submit`: its options, its exit statuses, and what it prints for people and for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from fake_run import NAMESPACE, Driver, ReadFolder, failed, migration, without_settings
from fakeredis import FakeRedis
from redis.exceptions import ConnectionError as RedisConnectionError

from dharma_tasks import conduct
from dharma_tasks import submit as submitting
from dharma_tasks.cli import common, main
from dharma_tasks.cli import submit as command
from dharma_tasks.cli.options import names
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.messages import Chain
from dharma_tasks.migration import Migration
from dharma_tasks.run import Event, Next, Run, RunState
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.settings import read as read_settings
from dharma_tasks.workers import Worker, Workers

FOLDER = (
    migration("mongodb", "1.0.0", name="create_users"),
    migration("mongodb", "1.1.0", name="add_email"),
    migration("postgresql", "1.0.0", "mongodb:1.0.0", name="create_projects"),
)
ERROR = "mongodb:1.1.0#1 kind_1 users: E11000 duplicate key\n{ email: 'a@b' }"


class Stage:
    """A command line whose Redis is fake and whose workers do what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_settings(monkeypatch)
        self.redis = FakeRedis(decode_responses=True)
        self.driver = Driver(self.redis, *FOLDER)
        self.workers = Workers(self.redis, NAMESPACE)
        self.workers.announce(Worker(name="w@h", databases=("mongodb", "postgresql")), 100)
        self.does: Callable[[Run], None] = lambda _run: None
        self.sent: list[Chain] = []
        self.folder(*FOLDER)
        self._patch = monkeypatch
        found = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
        monkeypatch.setattr(common, "read", lambda: found)
        monkeypatch.setattr(conduct, "require_redis", lambda _settings: self.redis)
        monkeypatch.setattr(conduct, "read_folder", lambda *_: self._read())
        monkeypatch.setattr(common, "send", self._send)
        monkeypatch.setattr(submitting, "POLL_SECONDS", 0.01)
        monkeypatch.setattr(submitting, "WORKER_SECONDS", 0.02)

    def folder(self, *migrations: Migration, warnings: tuple[Problem, ...] = ()) -> None:
        """What the migrations folder holds."""
        made = ReadFolder(*migrations, warnings=warnings)
        self._read: Callable[[], ReadFolder] = lambda: made

    def fails_to_load(self, error: Exception) -> None:
        """Let the folder be refused."""

        def read() -> ReadFolder:
            raise error

        self._read = read

    def watching_raises(self, error: BaseException) -> None:
        """Let `error` come while the run is watched."""

        def watch(runs: Runs, run: str, _patience: object) -> Iterator[submitting.Step]:
            found = runs.snapshot(run)
            assert found is not None
            yield submitting.Watched(found, [])
            raise error

        self._patch.setattr(conduct, "watch", watch)

    def _send(self, chains: Iterable[Chain]) -> None:
        self.sent += chains
        found = self.driver.runs.snapshot(self.sent[0][0].arguments["run"])
        assert found is not None
        self.does(found.run)

    def submit(self, *arguments: str) -> Result:
        """Run `dharma submit`."""
        return CliRunner().invoke(main, ["submit", *arguments])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage."""
    return Stage(monkeypatch)


def everything(driver: Driver) -> Callable[[Run], None]:
    """Workers that apply all there is."""

    def work(run: Run) -> None:
        ready = driver.start(run)
        while ready:
            ready += driver.move(run, ready.pop(0))

    return work


def second_fails(driver: Driver) -> Callable[[Run], None]:
    """Workers that fail at mongodb 1.1.0, while postgresql 1.0.0 has not begun."""

    def work(run: Run) -> None:
        runs = driver.runs
        runs.start(run, driver.plan(run))
        (first,) = runs.begun(run, "mongodb", 1)
        (second,) = driver.move(run, first)
        driver.fail(run, second, ERROR)

    return work


# -- options -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "more", "expected"),
    [
        ((), (), None),
        (("mongodb",), (), ("mongodb",)),
        (("mongodb,postgresql",), (), ("mongodb", "postgresql")),
        (("mongodb",), ("postgresql",), ("mongodb", "postgresql")),
        (("mongodb, postgresql",), ("elasticsearch",), ("mongodb", "postgresql", "elasticsearch")),
        (("mongodb", "mongodb,postgresql"), (), ("mongodb", "postgresql")),
    ],
)
def test_names_of_databases(
    values: tuple[str, ...], more: tuple[str, ...], expected: tuple[str, ...] | None
) -> None:
    """Spaces, commas and repetitions all mean the same."""
    assert names(values, more) == expected


def test_databases_on_the_command_line(stage: Stage) -> None:
    """`--databases a b` and `--databases a,b` choose both, wherever the option stands."""
    for given in (
        ["--databases", "mongodb", "postgresql", "--target", "latest"],
        ["--target", "latest", "--databases", "mongodb,postgresql"],
        ["--databases", "mongodb", "--databases", "postgresql"],
    ):
        result = stage.submit("--no-wait", *given)
        assert result.exit_code == 0, result.output
        found = stage.driver.runs.snapshot(result.stdout.strip())
        assert found is not None
        assert found.run.databases == ("mongodb", "postgresql")


def test_a_name_without_the_option_is_a_mistake(stage: Stage) -> None:
    """A stray word is not taken for a database; an empty list neither for all of them."""
    result = stage.submit("mongodb")
    assert result.exit_code == 2
    assert "unexpected extra argument (mongodb)" in result.stderr
    assert stage.submit("--databases", " ").exit_code == 2
    assert stage.submit("--no-wait", "--inline").exit_code == 2
    assert stage.sent == []


def test_an_unknown_database_is_refused_with_the_nearest(stage: Stage) -> None:
    """A typo is answered with the name that was meant."""
    result = stage.submit("--databases", "postgres")
    assert result.exit_code == 2
    assert "no such database: 'postgres'. Did you mean 'postgresql'?" in result.stderr


def test_the_same_command_under_its_other_name() -> None:
    """`python -m dharma_tasks.submit` runs this very command."""
    assert isinstance(command.submit, click.Command)
    assert main.get_command(click.Context(main), "submit") is command.submit
    result = CliRunner().invoke(command.submit, ["--help"])
    assert "--allow-out-of-order" in result.output


def test_help_and_version() -> None:
    """The group names its commands, and an unknown one is a usage error."""
    shown = CliRunner().invoke(main, ["--help"])
    assert shown.exit_code == 0
    assert "submit" in shown.output
    assert "status" in shown.output
    assert CliRunner().invoke(main, ["--version"]).output.startswith("dharma ")
    assert CliRunner().invoke(main, ["submitt"]).exit_code == 2


# -- exit statuses -------------------------------------------------------------------------


def test_0_everything_applied(stage: Stage) -> None:
    """Plain lines, one an event, and a summary by database at the end."""
    stage.does = everything(stage.driver)
    result = stage.submit("--target", "latest")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].endswith(": mongodb, postgresql to latest")
    assert "mongodb 1.0.0 change applied in 1.3 s" in lines
    assert "  mongodb       2 migrations in 2.6 s: 1.0.0, 1.1.0" in lines
    assert "  postgresql    1 migration in 1.3 s: 1.0.0" in lines
    assert lines[-1].startswith("Done in ")
    assert result.stderr == ""


def test_0_nothing_to_do(stage: Stage) -> None:
    """A plan without anything in it says so."""

    def nothing(run: Run) -> None:
        empty = stage.driver.plan(run).model_copy(update={"orders": {}, "dependencies": {}})
        stage.driver.runs.start(run, empty)
        stage.driver.runs.advance(run)

    stage.does = nothing
    result = stage.submit()
    assert result.exit_code == 0
    assert "Nothing to do: mongodb, postgresql have every migration." in result.stdout


def test_0_no_migrations(stage: Stage) -> None:
    """An empty folder asks no worker."""
    stage.folder(warnings=(Problem("", "", "there are no migrations in 'm'", ""),))
    result = stage.submit()
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "warning: there are no migrations in 'm'.",
        "Nothing to do: there are no migrations.",
    ]


def test_1_a_migration_failed(stage: Stage) -> None:
    """The database's own message, whole; what ran, what did not, and what to do."""
    stage.does = second_fails(stage.driver)
    result = stage.submit()
    assert result.exit_code == 1
    said = result.stderr
    assert "Failed: mongodb 1.1.0 add_email" in said
    assert "    { email: 'a@b' }" in said
    assert "  mongodb       1 migration in 1.3 s: 1.0.0" in said
    assert "Not run:\n  postgresql    1.0.0 create_projects" in said
    assert "submit again" in said


def test_1_the_run_itself_failed(stage: Stage) -> None:
    """For no migration more than for another; something may have been changed by then."""

    def work(run: Run) -> None:
        told = Event(at=datetime.now(UTC), kind="failed", text="the run's plan was changed")
        stage.driver.runs.add_event(run.id, told)
        stage.driver.runs.end(run, RunState.FAILED, [])

    stage.does = work
    result = stage.submit()
    assert result.exit_code == 1
    assert "Failed: the run\n    the run's plan was changed" in result.stderr
    assert "nothing was changed" not in result.stderr


def test_1_a_way_back_failed_too(stage: Stage) -> None:
    """A submit would be refused: what is half undone is finished first."""

    def work(run: Run) -> None:
        second_fails(stage.driver)(run)
        second = Next("mongodb", "1.1.0", 1)
        stage.driver.runs.add_event(run.id, failed(second, "no disk"))

    stage.does = work
    said = stage.submit().stderr
    assert "finish the way back first, with the file as it is: `dharma status` names" in said
    assert "submit again" not in said


def test_1_a_rollback_failed(stage: Stage) -> None:
    """It goes on where it stopped, by the same command."""

    def work(run: Run) -> None:
        made = stage.driver.plan(run).model_copy(
            update={"orders": {"mongodb": ("1.1.0",)}, "first": {"mongodb:1.1.0": "1.1.0 1 1"}}
        )
        stage.driver.runs.start(run, made)
        (undo,) = stage.driver.runs.begun(run, "mongodb", 1)
        stage.driver.fail(run, undo, ERROR)

    stage.does = work
    result = CliRunner().invoke(main, ["rollback", "1.0.0"])
    assert result.exit_code == 1
    assert "give the same rollback again: it goes on where it stopped" in result.stderr
    assert "submit" not in result.stderr


def test_2_the_folder_is_refused(stage: Stage) -> None:
    """Every problem with its file and place, and what to do; nothing is sent."""
    stage.fails_to_load(
        Refused(
            [
                Problem("mongodb/1.json", "line 4, version", "no version", "Write one."),
                Problem("mongodb/2.json", "", "not JSON", "Look at the comma."),
            ]
        )
    )
    result = stage.submit()
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Refused for 2 reasons; nothing was changed:",
        "  mongodb/1.json, line 4, version",
        "    no version. Write one.",
        "  mongodb/2.json",
        "    not JSON. Look at the comma.",
    ]
    assert stage.sent == []


def test_2_the_plan_is_refused(stage: Stage) -> None:
    """What only a journal can tell is refused the same way."""
    problem = Problem("mongodb/1.json", "version", "1.0.0 comes late", "Renumber it.")
    stage.does = lambda run: stage.driver.runs.end(run, RunState.REFUSED, [problem])
    result = stage.submit()
    assert result.exit_code == 2
    assert "mongodb/1.json, version\n    1.0.0 comes late. Renumber it." in result.stderr


def test_2_no_worker_serves_the_database(stage: Stage) -> None:
    """Workers are alive, but not for this one: it is refused by name."""
    stage.workers.announce(Worker(name="w@h", databases=("mongodb",)), 100)
    result = stage.submit()
    assert result.exit_code == 2
    assert "there are migrations for postgresql, but no live worker serves it" in result.stderr
    assert stage.sent == []


def test_2_inline_without_a_url(stage: Stage) -> None:
    """Inline this process is the worker: it needs the URLs."""
    result = stage.submit("--inline", "--databases", "mongodb")
    assert result.exit_code == 2
    assert "there are migrations for mongodb, but no DHARMA_MONGODB_URL" in result.stderr


def test_2_a_setting_that_cannot_be(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    """A bad variable is named, and its value is not shown."""

    def read() -> Settings:
        return read_settings(namespace="SECRET")

    monkeypatch.setattr(common, "read", read)
    result = stage.submit()
    assert result.exit_code == 2
    assert "DHARMA_NAMESPACE: String should match pattern" in result.stderr
    assert "SECRET" not in result.output


def test_3_the_time_is_over(stage: Stage) -> None:
    """The run goes on, and it is said how to watch it."""
    result = stage.submit("--timeout", "0.05")
    assert result.exit_code == 3
    assert "Stopped waiting: the time is over. Run " in result.stderr
    assert "`dharma status`" in result.stderr
    (found,) = stage.driver.runs.open()
    assert found.state is RunState.PLANNING


def test_3_another_run_does_not_end(stage: Stage) -> None:
    """A different submit waits for its turn, and leaves nothing behind when its time is over."""
    run = stage.driver.submit(databases=("mongodb",))
    result = stage.submit("--timeout", "0.05")
    assert result.exit_code == 3
    assert f"run {run.id} is active on mongodb; waiting for it to end" in result.stdout
    assert "nothing was submitted" in result.stderr
    assert [found.run.id for found in stage.driver.runs.open()] == [run.id]
    event = Event(at=datetime.now(UTC), kind="paused", text="by me")
    stage.driver.runs.pause(run, event)
    result = stage.submit("--timeout", "0.05")
    assert f"run {run.id} is paused on mongodb (dharma resume {run.id})" in result.stdout


def test_3_ctrl_c(stage: Stage) -> None:
    """Ctrl-C leaves the run going and says how to watch it."""
    stage.watching_raises(KeyboardInterrupt())
    result = stage.submit()
    assert result.exit_code == 3
    (found,) = stage.driver.runs.open()
    assert f"Interrupted. Run {found.run.id} goes on." in result.stderr
    assert "`dharma status`" in result.stderr


def test_3_ctrl_c_of_a_rollback(stage: Stage) -> None:
    """A submit would not join it."""
    stage.watching_raises(KeyboardInterrupt())
    result = CliRunner().invoke(main, ["rollback", "1.0.0"])
    assert result.exit_code == 3
    assert "join it again with the same rollback." in result.stderr


def test_130_ctrl_c_before_anything_was_submitted(stage: Stage) -> None:
    """Then there is no run that goes on."""
    stage.fails_to_load(KeyboardInterrupt())  # type: ignore[arg-type]
    result = stage.submit()
    assert result.exit_code == 130
    assert "nothing was submitted" in result.stderr


def test_4_no_worker(stage: Stage) -> None:
    """Without any worker it is said how to start one."""
    stage.workers.leave("w@h")
    result = stage.submit()
    assert result.exit_code == 4
    assert "no worker is alive. Start one: celery -A dharma_tasks worker" in result.stderr
    assert stage.driver.runs.open() == []


def test_4_redis_is_down(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message of the connection is shown."""

    def refuse(_settings: Settings) -> FakeRedis:
        msg = "Redis at h:1 cannot be used: Connection refused. Start it"
        raise Unreachable(msg)

    monkeypatch.setattr(conduct, "require_redis", refuse)
    result = stage.submit()
    assert result.exit_code == 4
    assert "Redis at h:1 cannot be used" in result.stderr


def test_4_a_database_is_down(stage: Stage) -> None:
    """A worker that cannot reach its database ends the run, with the database's message."""
    problem = Problem("", "", "mongodb cannot be used: no primary", "Look at the server.")
    stage.does = lambda run: stage.driver.runs.end(run, RunState.UNREACHABLE, [problem])
    result = stage.submit()
    assert result.exit_code == 4
    assert "  mongodb cannot be used: no primary. Look at the server." in result.stderr


def test_4_redis_has_lost_the_run(stage: Stage) -> None:
    """After a FLUSHALL the next submit goes on from the journals: it says so."""
    stage.does = lambda _run: stage.redis.flushall() and None
    result = stage.submit()
    assert result.exit_code == 4
    assert "Give the same command again: the journals" in result.stderr


def test_5_cancelled(stage: Stage) -> None:
    """A run that somebody cancelled says what was applied before."""

    def work(run: Run) -> None:
        stage.driver.move(run, stage.driver.start(run)[0])
        stage.driver.runs.end(run, RunState.CANCELLED, [])

    stage.does = work
    result = stage.submit()
    assert result.exit_code == 5
    assert "Cancelled." in result.stderr
    assert "  mongodb       1 migration in 1.3 s: 1.0.0" in result.stderr


def test_1_the_unexpected(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault of ours is short, unless somebody looks for it."""
    stage.watching_raises(RuntimeError("a bug"))
    result = stage.submit()
    assert result.exit_code == 1
    assert "RuntimeError: a bug" in result.stderr
    assert "Traceback" not in result.output
    found = Settings(_env_file=None, namespace=NAMESPACE, log_level="DEBUG")  # type: ignore[call-arg]
    monkeypatch.setattr(common, "read", lambda: found)
    assert "Traceback" in stage.submit("--timeout", "0").stderr


# -- ways to wait --------------------------------------------------------------------------


def test_no_wait(stage: Stage) -> None:
    """The id of the run is all that is printed; the same again prints it again."""
    result = stage.submit("--no-wait")
    assert result.exit_code == 0
    (found,) = stage.driver.runs.open()
    assert result.stdout == f"{found.run.id}\n"
    assert {chain[0].task for chain in stage.sent} == {"survey"}
    assert stage.submit("--no-wait").stdout == result.stdout
    assert len(stage.sent) == 2


def test_no_wait_does_not_wait_for_another_run(stage: Stage) -> None:
    """It says who is active, and ends with 3."""
    run = stage.driver.submit(databases=("mongodb",))
    result = stage.submit("--no-wait")
    assert result.exit_code == 3
    assert f"run {run.id} is active on mongodb, and nothing was submitted" in result.stderr


def test_joining_says_whose_run_it_is(stage: Stage) -> None:
    """The same submit again watches the run that is there."""
    run = stage.driver.submit(by="cron@host")
    result = stage.submit("--timeout", "0.05")
    assert f"Joined run {run.id} of cron@host" in result.stdout
    assert stage.sent == []


def test_redis_may_be_away_for_a_moment(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on without Redis, so the watcher waits; nothing is shown twice."""
    snapshot, broken = Runs.snapshot, [False, True, True]

    def sometimes(self: Runs, run: str) -> Any:
        if broken and broken.pop():
            msg = "away"
            raise RedisConnectionError(msg)
        return snapshot(self, run)

    def working(run: Run) -> None:
        everything(stage.driver)(run)
        monkeypatch.setattr(Runs, "snapshot", sometimes)

    stage.does = working
    result = stage.submit()
    assert result.exit_code == 0
    assert result.stdout.count("Redis does not answer (away)") == 1
    assert result.stdout.count("mongodb 1.0.0 change applied") == 1


# -- for programs --------------------------------------------------------------------------


def test_json_when_done(stage: Stage) -> None:
    """One document on stdout; lines for people are on stderr."""
    stage.does = everything(stage.driver)
    result = stage.submit("--json")
    document = json.loads(result.stdout)
    assert result.exit_code == document["exit_status"] == 0
    assert document["state"] == "done"
    assert document["run"]
    assert document["databases"] == {
        "mongodb": {"done": 2, "total": 2, "versions": ["1.0.0", "1.1.0"], "not_run": []},
        "postgresql": {"done": 1, "total": 1, "versions": ["1.0.0"], "not_run": []},
    }
    assert document["problems"] == document["warnings"] == document["failures"] == []
    assert "mongodb 1.0.0 change applied" in result.stderr


def test_json_when_failed(stage: Stage) -> None:
    """The whole error, and what was not run."""
    stage.does = second_fails(stage.driver)
    document = json.loads(stage.submit("--json").stdout)
    assert (document["state"], document["exit_status"]) == ("failed", 1)
    assert document["failures"] == [{"database": "mongodb", "version": "1.1.0", "error": ERROR}]
    assert document["databases"]["mongodb"]["versions"] == ["1.0.0"]
    assert document["databases"]["mongodb"]["not_run"] == []
    assert document["databases"]["postgresql"]["not_run"] == ["1.0.0"]


@pytest.mark.parametrize("given", [["--timeout", "0"], ["--no-wait"]])
def test_json_when_it_goes_on(stage: Stage, given: list[str]) -> None:
    """Who does not wait for the end learns the run and its state."""
    document = json.loads(stage.submit("--json", *given).stdout)
    (found,) = stage.driver.runs.open()
    assert (document["run"], document["state"]) == (found.run.id, "planning")
    assert document["exit_status"] == (0 if given == ["--no-wait"] else 3)


def test_json_when_refused(stage: Stage) -> None:
    """Problems as objects; without a run its id is null."""
    stage.fails_to_load(Refused([Problem("mongodb/1.json", "line 1", "not JSON", "Mend it.")]))
    document = json.loads(stage.submit("--json").stdout)
    assert (document["run"], document["state"], document["exit_status"]) == (None, "refused", 2)
    assert document["problems"] == [
        {"file": "mongodb/1.json", "place": "line 1", "what": "not JSON", "todo": "Mend it."}
    ]


def test_json_when_unreachable(stage: Stage) -> None:
    """Why it ended is in the message; warnings of the folder are there too."""
    stage.folder(*FOLDER, warnings=(Problem("postgresql/1.sql", "", "only comments", ""),))
    stage.workers.leave("w@h")
    document = json.loads(stage.submit("--json").stdout)
    assert (document["state"], document["exit_status"]) == ("unreachable", 4)
    assert "no worker is alive" in document["message"]
    assert document["warnings"] == ["postgresql/1.sql: only comments."]


def test_limits_go_with_the_run(stage: Stage) -> None:
    """Workers read them from its record; a submit with others is no equal one to join."""
    options = ["--max-rate", "500", "--window", "22:00-04:00", "--timezone", "Europe/Berlin"]
    first = stage.submit("--no-wait", *options)
    snapshot = stage.driver.runs.snapshot(first.stdout.strip())
    assert snapshot is not None
    limits = snapshot.run.limits
    assert limits.max_rate == 500
    assert str(limits.window) == "22:00-04:00 (Europe/Berlin)"
    assert stage.submit("--no-wait", *options).stdout == first.stdout
    other = stage.submit("--no-wait", "--max-rate", "499")
    assert other.exit_code == 3
    assert f"run {snapshot.run.id} is active" in other.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-rate", "0"], "--max-rate"),
        (["--window", "01:00"], "write 01:00-05:00"),
        (["--window", "01:00-05:00", "--timezone", "Berlin"], "Europe/Berlin"),
        (["--timezone", "Europe/Berlin"], "--timezone is for --window"),
    ],
)
def test_limits_that_are_none(stage: Stage, options: list[str], said: str) -> None:
    """Nothing is submitted."""
    refused = stage.submit(*options)
    assert refused.exit_code == 2
    assert said in refused.stderr
    assert stage.sent == []
