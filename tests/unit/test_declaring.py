"""`baseline`, `repair` and `prune`: what is shown, asked, sent to workers, and said at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from click.testing import CliRunner, Result
from fake_folder import Migrations
from fake_run import NAMESPACE, Driver, migration, without_settings
from fakeredis import FakeRedis
from test_reversal import record, survey

from dharma_tasks.cli import asking, common, main
from dharma_tasks.cli import declaring as command
from dharma_tasks.cli import prune as pruning
from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import FenceLost, Unreachable
from dharma_tasks.flow import asked
from dharma_tasks.flow.context import Context
from dharma_tasks.journal import Declaration, Pruned
from dharma_tasks.loader import load
from dharma_tasks.messages import DECLARED, Chain, declare_message
from dharma_tasks.records import Head, MigrationState, Survey
from dharma_tasks.settings import Settings
from dharma_tasks.submit import who_asks
from dharma_tasks.workers import Worker, Workers

REPLY = f"{NAMESPACE}:reply:1"
IDENTITY = "x"


class FakeDatabase:
    """A database whose journal is told what is declared, and what is to be removed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.journal = self
        self.declared: list[tuple[Declaration, int]] = []
        self.pruned: list[tuple[datetime, str, str]] = []
        self.kept: list[Pruned] = []
        self.error: Exception | None = None

    def head(self) -> Head:
        """One at which no run is at work."""
        return _head(7)

    def declare(self, declaration: Declaration, expected: int) -> None:
        """Take it, or fail."""
        if self.error is not None:
            raise self.error
        self.declared.append((declaration, expected))

    def prune(self, before: datetime, *, run: str, by: str) -> list[Pruned]:
        """Remove it all, or fail."""
        if self.error is not None:
            raise self.error
        self.pruned.append((before, run, by))
        return self.kept

    def classify(self, error: BaseException) -> Fault:
        """Nothing passes."""
        return Fault.LASTING

    def describe(self, error: BaseException) -> str:
        """The message."""
        return f"described: {error}"


class Stage:
    """A folder, journals that the test makes up, a worker that serves two of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        without_settings(monkeypatch)
        self.folder = Migrations(folder)
        users = {"type": "create_collection", "collection": "users"}
        self.folder.write("mongodb/001_users.json", "1.0.0", operations=[users])
        self.folder.write("mongodb/002_more.json", "1.1.0", operations=[users])
        self.folder.write("postgresql/001_users.json", "1.0.0", dependencies=["mongodb:1.0.0"])
        self.folder.text("postgresql/001_users.sql", "CREATE TABLE users (id int);\n")
        self.redis: Any = FakeRedis(decode_responses=True)
        self.surveys = {name: Survey(database=name) for name in ("mongodb", "postgresql")}
        self.databases = {name: FakeDatabase(name) for name in self.surveys}
        self.serve(*self.surveys)
        self.settings = Settings(  # type: ignore[call-arg]
            _env_file=None, namespace=NAMESPACE, migrations_dir=folder
        )
        self.context = Context(self.settings, self.redis, worker="w@h", shutting_down=lambda: False)
        monkeypatch.setattr(self.context, "database", self.databases.__getitem__)
        monkeypatch.setattr(common, "read", lambda: self.settings)
        monkeypatch.setattr(common, "send", self._send)
        monkeypatch.setattr(command, "require_redis", lambda _settings: self.redis)
        monkeypatch.setattr(pruning, "require_redis", lambda _settings: self.redis)
        monkeypatch.setattr(command, "surveys", self._surveys)
        monkeypatch.setattr(asked, "log", Mock())  # a worker has its own output
        monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
        self.patch = monkeypatch
        self.busy = False
        self.sent: list[str] = []

    def _surveys(self, names: Iterable[str], *_: object) -> dict[str, Survey]:
        return {name: self.surveys[name] for name in names}

    def _send(self, chains: Iterable[Chain]) -> None:
        for (message,) in chains:
            self.sent.append(f"{message.task} {message.database}")
            arguments = json.loads(json.dumps(message.arguments))
            if not self.busy:
                getattr(asked, message.task)(self.context, **arguments)

    def serve(self, *names: str) -> None:
        """Let a worker be alive that serves these."""
        Workers(self.redis, NAMESPACE).announce(Worker(name="w@h", databases=names), 100)

    def open_run(self) -> str:
        """Let a run have mongodb."""
        return Driver(self.redis, migration("mongodb", "1.0.0")).submit().id

    def fail(self) -> None:
        """Let mongodb's first migration have failed."""
        file = load(self.folder.path).migrations[0]
        self.surveys["mongodb"] = survey("mongodb", record(file, MigrationState.FAILED, error="E1"))

    def dharma(self, *arguments: str, answer: str | None = None) -> Result:
        """Run `dharma ARGUMENTS`; with an `answer` on a terminal, else by one who says --yes."""
        self.patch.setattr(common, "on_terminal", lambda: answer is not None)
        sure = ["--yes"] if answer is None else []
        return CliRunner().invoke(main, [*arguments, *sure], input=answer)

    @property
    def untouched(self) -> bool:
        """Whether nobody was sent anything, and nothing was written."""
        return not self.sent and not any(d.declared or d.pruned for d in self.databases.values())


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    """The stage."""
    return Stage(monkeypatch, tmp_path / "migrations")


BASELINE = ("baseline", "1.0.0", "--by", "me@here")
REPAIR = ("repair", "mongodb", "1.0.0", "--mark-applied")


# -- on the worker ---------------------------------------------------------------------------


def _head(generation: int) -> Head:
    return Head(identity=IDENTITY, generation=generation)


def declare(stage: Stage, generation: int = 7) -> str:
    """Let a worker get the message, as it comes from Redis; return what it answers."""
    declaration = Declaration("r", "me@here", "retry", "it was failed", ())
    message = declare_message("mongodb", declaration, _head(generation), REPLY)
    assert asked.declare(stage.context, **json.loads(json.dumps(message.arguments))) == []
    return str(stage.redis.lpop(REPLY))


def test_the_worker_writes_and_answers(stage: Stage) -> None:
    """What was declared is what is written, where the journal is as it was seen."""
    assert declare(stage) == DECLARED
    ((declaration, generation),) = stage.databases["mongodb"].declared
    assert (declaration.by, declaration.event, generation) == ("me@here", "retry", 7)


def test_the_worker_looks_for_a_run_again(stage: Stage) -> None:
    """One may have been submitted since."""
    run = stage.open_run()
    assert declare(stage).startswith(f"refused run {run} of me@here needs mongodb (planning)")
    assert stage.untouched


def test_the_journal_was_written_to_meanwhile(stage: Stage) -> None:
    """That is no error of the database's."""
    stage.databases["mongodb"].error = FenceLost("generation 9, and not 7")
    answer = declare(stage)
    assert answer.startswith("refused the journal of mongodb is not as it was seen")
    assert "generation 9" in answer


def test_the_journal_cannot_be_written(stage: Stage) -> None:
    """The database's own message is kept."""
    stage.databases["mongodb"].error = OSError("no primary")
    assert declare(stage) == (
        "error mongodb cannot be used: described: no primary. Look at the server, and at "
        "DHARMA_MONGODB_URL of the worker w@h."
    )


# -- baseline --------------------------------------------------------------------------------


def test_0_taken_over(stage: Stage) -> None:
    """What is taken over is shown; each journal gets its own, as one declaration."""
    result = stage.dharma(*BASELINE)
    assert result.exit_code == 0, result.output
    assert "mongodb:\n  1.0.0 a name: pending → applied\n" in result.stdout
    assert "postgresql:\n  1.0.0 a name: pending → applied\n" in result.stdout
    by = who_asks("me@here")
    assert f"Written to mongodb and postgresql, and to the history, as done by {by}." in (
        result.stdout
    )
    assert result.stdout.endswith("Next: dharma submit runs what is above it.\n")
    written = [stage.databases[name].declared[0][0] for name in stage.databases]
    assert [each.event for each in written] == ["baseline", "baseline"]
    assert {each.by for each in written} == {by}
    assert written[0].run == written[1].run
    assert [each.version for each in written[0].amendments] == ["1.0.0"]
    assert stage.redis.keys(f"{NAMESPACE}:reply:*") == []


def test_0_nothing_to_take_over(stage: Stage) -> None:
    """Said, and nobody is asked for it."""
    files = load(stage.folder.path).migrations
    for name in stage.surveys:
        stage.surveys[name] = survey(name, *(record(m) for m in files if m.database == name))
    result = stage.dharma(*BASELINE, answer="")
    assert (result.exit_code, "Nothing to do" in result.stdout) == (0, True)
    assert stage.untouched


def test_only_one_database(stage: Stage) -> None:
    """The others need not be there."""
    stage.serve("mongodb")
    result = stage.dharma(*BASELINE, "--databases", "mongodb")
    assert result.exit_code == 0, result.output
    assert stage.sent == ["declare mongodb"]


def test_2_refused_with_every_reason(stage: Stage) -> None:
    """Nothing is written."""
    stage.fail()
    result = stage.dharma("baseline", "1.1.0")
    assert result.exit_code == 2
    assert "1.0.0 (a name) is failed" in result.stderr
    assert "dharma repair mongodb 1.0.0" in result.stderr
    assert stage.untouched


def test_2_in_one_of_them(stage: Stage) -> None:
    """What was written is said as well as what was not, and why."""
    stage.databases["postgresql"].error = FenceLost("generation 9, and not 0")
    result = stage.dharma(*BASELINE)
    assert result.exit_code == 2
    assert "Written to mongodb," in result.stdout
    assert "the journal of postgresql is not as it was seen" in result.stderr
    assert "Next:" not in result.stdout


# -- repair ----------------------------------------------------------------------------------


def test_0_repaired(stage: Stage) -> None:
    """What becomes of it, what that means, and what comes next."""
    stage.fail()
    result = stage.dharma("repair", "mongodb", "1.0.0", "--retry")
    assert result.exit_code == 0, result.output
    assert "mongodb:\n  1.0.0 a name: failed → running\n    forgotten: E1\n" in result.stdout
    assert "Next: dharma submit goes on with it." in result.stdout
    ((declaration, generation),) = stage.databases["mongodb"].declared
    assert (declaration.event, generation) == ("retry", 7)
    assert "@" in declaration.by


def test_0_accepted(stage: Stage) -> None:
    """That nothing else changes is said too."""
    file = load(stage.folder.path).migrations[0].model_copy(update={"checksum": "before"})
    stage.surveys["mongodb"] = survey("mongodb", record(file))
    result = stage.dharma("repair", "mongodb", "1.0.0", "--accept-checksum")
    assert result.exit_code == 0, result.output
    assert "  1.0.0 a name: stays applied\n    checksum before, from now on " in result.stdout


@pytest.mark.parametrize("given", [(), ("--retry", "--mark-applied")])
def test_2_one_of_the_four(stage: Stage, given: tuple[str, ...]) -> None:
    """None is no repair, and two would contradict each other."""
    result = stage.dharma("repair", "mongodb", "1.0.0", *given)
    assert result.exit_code == 2
    assert "--retry, --mark-applied, --mark-rolled-back, --accept-checksum" in result.stderr
    assert stage.untouched


def test_it_asks_on_a_terminal(stage: Stage) -> None:
    """A no changes nothing, the end of the input neither; a yes goes on."""
    refused = stage.dharma(*REPAIR, answer="n\n")
    assert refused.exit_code == 2
    assert "Write this to the journal of mongodb? Nothing is carried out. [y/N]" in refused.stderr
    assert "Nothing was changed." in refused.stdout
    assert "pending → applied" in refused.stdout
    ended = stage.dharma(*REPAIR, answer="")
    assert ended.exit_code == 2
    assert "Nothing was changed." in ended.stdout
    assert stage.untouched
    assert stage.dharma(*REPAIR, answer="y\n").exit_code == 0
    sure = stage.dharma(*REPAIR, "--yes", answer="")
    assert (sure.exit_code, "?" in sure.stderr) == (0, False)
    assert len(stage.databases["mongodb"].declared) == 2


def test_it_asks_without_a_terminal_too(stage: Stage) -> None:
    """In a script nobody answers, which is a no; what comes through a pipe is an answer."""
    stage.patch.setattr(common, "on_terminal", lambda: False)
    for arguments in (REPAIR, BASELINE):
        refused = CliRunner().invoke(main, arguments)
        assert refused.exit_code == 2
        assert refused.stdout.endswith("Where nobody is there to answer, give --yes.\n")
    assert stage.untouched
    assert CliRunner().invoke(main, REPAIR, input="n\n").exit_code == 2
    assert CliRunner().invoke(main, REPAIR, input="y\n").exit_code == 0


def test_2_a_run_is_open(stage: Stage) -> None:
    """It is named, with the command that ends it; before anything is asked."""
    run = stage.open_run()
    for arguments in (REPAIR, BASELINE, ("prune",)):
        result = stage.dharma(*arguments, answer="")
        assert result.exit_code == 2
        assert f"run {run} of me@here needs mongodb (planning)" in result.stderr
        assert f"dharma cancel {run} --keep" in result.stderr
    assert stage.untouched


def test_as_json(stage: Stage) -> None:
    """One document, whatever comes of it; a person reads on stderr."""
    stage.fail()
    result = stage.dharma(*REPAIR, "--json")
    found = json.loads(result.stdout)
    assert found["state"] == "done"
    (change,) = found["databases"]["mongodb"]
    assert (change["now"], change["then"]) == ("failed", "applied")
    assert found["run"] == stage.databases["mongodb"].declared[0][0].run
    assert "failed → applied" in result.stderr
    result = stage.dharma("repair", "mongodb", "9.0.0", "--retry", "--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["state"], len(found["problems"])) == (2, "refused", 1)


def test_4_nobody_answers(stage: Stage) -> None:
    """All workers are busy: said within seconds, with where to look."""
    stage.busy = True
    result = stage.dharma(*REPAIR)
    assert result.exit_code == 4
    assert "no worker has answered for mongodb" in result.stderr
    assert "dharma history mongodb" in result.stderr


def test_4_nobody_serves_it(stage: Stage) -> None:
    """Said before anything is asked, and of baseline before anything is sent to another."""
    stage.serve("mongodb")
    for arguments in (BASELINE, ("prune", "--databases", "postgresql")):
        result = stage.dharma(*arguments, answer="")
        assert result.exit_code == 4
        assert "no live worker serves postgresql" in result.stderr
    assert stage.untouched


def test_4_the_journal_cannot_be_written(stage: Stage) -> None:
    """The worker's reason is shown."""
    stage.databases["mongodb"].error = OSError("no primary")
    result = stage.dharma(*REPAIR)
    assert result.exit_code == 4
    assert "mongodb cannot be used: described: no primary" in result.stderr


def test_4_no_redis(stage: Stage) -> None:
    """Where it was looked for is said."""

    def refuse(_settings: Settings) -> None:
        msg = "Redis at h:1 cannot be used: Connection refused"
        raise Unreachable(msg)

    for module in (command, pruning):
        stage.patch.setattr(module, "require_redis", refuse)
    for arguments in (REPAIR, BASELINE, ("prune",)):
        result = stage.dharma(*arguments)
        assert result.exit_code == 4
        assert "Redis at h:1 cannot be used" in result.stderr


# -- prune -----------------------------------------------------------------------------------


def test_0_pruned(stage: Stage) -> None:
    """What went is said for each operation; where nothing is kept, that is said."""
    stage.databases["mongodb"].kept = [Pruned("1.0.0", 2, 1200)]
    result = stage.dharma("prune", "--by", "me@here")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "mongodb: 1.0.0 operation 2 cannot be undone any more: 1,200 journal documents removed",
        "postgresql: nothing is kept that is older than 30 days.",
    ]
    ((before, run, by),) = stage.databases["mongodb"].pruned
    assert abs(datetime.now(UTC) - timedelta(days=30) - before) < timedelta(minutes=1)
    assert (by, stage.databases["postgresql"].pruned[0][1]) == (who_asks("me@here"), run)


def test_how_old(stage: Stage) -> None:
    """The option, or the setting."""
    stage.settings = stage.settings.model_copy(update={"keep_undo_days": 7})
    for given, days in (((), 7), (("--older-than", "0"), 0)):
        stage.dharma("prune", "--databases", "mongodb", *given)
        before = stage.databases["mongodb"].pruned[-1][0]
        assert abs(datetime.now(UTC) - timedelta(days=days) - before) < timedelta(minutes=1)
    assert stage.databases["postgresql"].pruned == []
    assert stage.dharma("prune", "--older-than", "-1").exit_code == 2


def test_pruning_asks_on_a_terminal(stage: Stage) -> None:
    """For it is for ever."""
    refused = stage.dharma("prune", answer="n\n")
    assert refused.exit_code == 2
    assert "keep for the way back that is older than 30 days?" in refused.stderr
    assert stage.dharma("prune", answer="").exit_code == 2
    assert stage.untouched
    assert stage.dharma("prune", answer="y\n").exit_code == 0


def test_4_pruned_in_one_of_them(stage: Stage) -> None:
    """The other one's error does not hide it."""
    stage.databases["mongodb"].error = OSError("no primary")
    result = stage.dharma("prune", "--json")
    assert result.exit_code == 4
    found = json.loads(result.stdout)
    assert found["pruned"] == {"postgresql": []}
    assert "no primary" in found["errors"]["mongodb"]


def test_2_no_such_database(stage: Stage) -> None:
    """A typo is no database."""
    result = stage.dharma("prune", "--databases", "mongo")
    assert result.exit_code == 2
    assert "mongodb" in result.stderr
    assert stage.untouched
