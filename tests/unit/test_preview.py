"""`dharma plan` and `submit --dry-run`: what would be done, by the code that does it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_folder import Migrations
from fake_run import without_settings
from fakeredis import FakeRedis
from pydantic import SecretStr
from test_reversal import record, survey

from dharma_tasks import reading
from dharma_tasks.cli import common, main
from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import Unreachable
from dharma_tasks.loader import load
from dharma_tasks.messages import Chain
from dharma_tasks.migration import JSON
from dharma_tasks.operations.postgresql import squawk
from dharma_tasks.records import MigrationRecord, MigrationState, OperationState, Survey
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Worker, Workers

Plan = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Migrations:
    """A collection, a table that waits for it, a field that goes."""
    made = Migrations(tmp_path / "migrations")
    users = {"type": "create_collection", "collection": "users"}
    gone = {"type": "remove_field", "collection": "users", "field": "old"}
    made.write("mongodb/001_users.json", "1.0.0", operations=[users])
    made.write("mongodb/002_old.json", "1.1.0", operations=[gone])
    made.write("postgresql/001_users.json", "1.0.0", dependencies=["mongodb:1.0.0"])
    made.text("postgresql/001_users.sql", "CREATE TABLE users (id int);\n")
    return made


class FakeDatabase:
    """A database that says what the test wants, and counts how often it is asked."""

    def __init__(self, name: str, survey: Survey) -> None:
        self.name = name
        self.journal = self
        self.found = survey
        self.there: dict[str, int | None] = {}
        self.asked: list[list[str]] = []
        self.error: Exception | None = None

    def survey(self) -> Survey:
        return self.found

    def count(self, names: Sequence[str]) -> dict[str, int | None]:
        if self.error:
            raise self.error
        self.asked.append(list(names))
        return {name: self.there[name] for name in names if name in self.there}

    def classify(self, _error: BaseException) -> Fault:
        """It will not pass."""
        return Fault.LASTING

    def describe(self, error: BaseException) -> str:
        return f"described: {error}"

    def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def databases(folder: Migrations) -> dict[str, FakeDatabase]:
    """Nothing is applied."""
    del folder
    names = ("mongodb", "postgresql", "elasticsearch")
    return {name: FakeDatabase(name, Survey(database=name)) for name in names}


@pytest.fixture
def plan(
    monkeypatch: pytest.MonkeyPatch, folder: Migrations, databases: dict[str, FakeDatabase]
) -> Plan:
    """Run a command; the databases are made up."""
    without_settings(monkeypatch)
    urls = {f"{name}_url": SecretStr("url://host") for name in databases}
    settings = Settings(_env_file=None, migrations_dir=folder.path, **urls)  # type: ignore[call-arg, arg-type]
    monkeypatch.setattr(common, "read", lambda: settings)
    monkeypatch.setattr(reading, "require_redis", _no_redis)
    monkeypatch.setattr(reading, "connect", lambda name, _settings: databases[name])
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def _no_redis(_settings: Settings) -> None:
    raise Unreachable("Redis cannot be used")


def apply(folder: Migrations, databases: dict[str, FakeDatabase]) -> None:
    """Let the journals say that everything is applied."""
    loaded = load(folder.path)
    for name, database in databases.items():
        mine = [record(m) for m in loaded.migrations if m.database == name]
        database.found = survey(name, *mine)


def test_what_would_be_applied(plan: Plan) -> None:
    """The order, what waits for what, what cannot be undone, the SQL."""
    result = plan("plan")
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert out.index("mongodb: 2 migrations to apply") < out.index("  1.0.0 a name")
    assert "    waits for mongodb:1.0.0\n" in out
    assert "    1 remove_field users.old  irreversible, heavy" in out
    assert "      remove_field cannot be undone" in out
    assert out.count("irreversible") == 2, "the SQL file neither; create_collection can be undone"
    assert "      CREATE TABLE users (id int);\n" in out
    assert plan("submit", "--dry-run").stdout == out


def test_as_json(plan: Plan) -> None:
    """All of it, for a program."""
    found = json.loads(plan("plan", "--json", "--databases", "mongodb").stdout)
    assert list(found["databases"]) == ["mongodb"]
    first, second = found["databases"]["mongodb"]
    assert (first["version"], first["operations"][0]["irreversible"]) == ("1.0.0", None)
    assert "cannot be undone" in second["operations"][0]["irreversible"]
    assert found["advice"] == []


def test_squawks_advice_as_json(plan: Plan, folder: Migrations) -> None:
    """With the file and the line that a person sees."""
    folder.text("postgresql/001_users.sql", "\nALTER TABLE users DROP old;\n")
    (advice,) = json.loads(plan("plan", "--json").stdout)["advice"]
    assert (advice["file"], advice["place"]) == ("postgresql/001_users.sql", "line 2")
    assert "ban-drop-column" in advice["what"]


def test_refused_as_json(plan: Plan, folder: Migrations) -> None:
    """What a submit would be refused for, as its own document has it."""
    folder.write("postgresql/001_users.json", "1.0.0", dependencies=["mongodb:9.0.0"])
    refused = plan("plan", "--json")
    assert refused.exit_code == 2
    (problem,) = json.loads(refused.stdout)["problems"]
    assert problem["file"] == "postgresql/001_users.json"
    assert problem["what"] == "depends on mongodb:9.0.0, which is not in the migrations folder"
    assert problem["todo"]


def test_nothing_to_do(plan: Plan, folder: Migrations, databases: dict[str, FakeDatabase]) -> None:
    """Everything is applied."""
    apply(folder, databases)
    assert plan("plan").stdout == "Nothing to do.\n"


def test_only_what_would_run_is_looked_at(
    plan: Plan,
    folder: Migrations,
    databases: dict[str, FakeDatabase],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Squawk is not called for a thousand files that are applied."""
    monkeypatch.setattr(shutil, "which", lambda *_arguments, **_keys: None)
    assert plan("plan").stderr == f"note: {squawk.HOW_TO_GET_IT}\n"
    apply(folder, databases)
    assert plan("plan").stderr == ""


def test_an_index_that_is_built_too_early(
    plan: Plan, folder: Migrations, databases: dict[str, FakeDatabase]
) -> None:
    """It is said while the file may still be changed."""
    index = {"type": "create_index", "collection": "users", "index": [["old", 1]]}
    field = {"type": "add_field", "collection": "users", "field": "old", "value": 0}
    folder.write("mongodb/002_old.json", "1.1.0", operations=[index, field])
    assert "  advice: mongodb/002_old.json, line 7, operations[0]: the" in plan("plan").stdout
    apply(folder, databases)
    assert plan("plan").stdout == "Nothing to do.\n"


def test_the_way_back(plan: Plan, folder: Migrations, databases: dict[str, FakeDatabase]) -> None:
    """Newest first; refused, by name, where something cannot be undone."""
    apply(folder, databases)
    refused = plan("plan", "--rollback-to", "1.0.0")
    assert refused.exit_code == 2
    assert "A rollback would be refused" in refused.stderr
    assert "1.1.0 cannot be undone: operation 1, remove_field" in refused.stderr
    folder.write("mongodb/002_old_rollback.json", "1.1.0", operations=[
        {"type": "create_index", "collection": "users", "index": [["old", 1]]}
    ])  # fmt: skip
    result = plan("plan", "--rollback-to", "1.0.0")
    assert result.exit_code == 0, result.output
    assert "mongodb: 1 migration to undo" in result.stdout
    file = "  1.1.0 a name\n    by its rollback file\n    2 create_index users(old)  heavy"
    assert file in result.stdout
    databases["mongodb"].found = Survey(database="mongodb")
    forward = "  1.1.0 a name\n    its rollback file undoes it\n    1 remove_field users.old  heavy"
    assert forward in plan("plan", "--databases", "mongodb").stdout


def test_a_database_that_cannot_be_read(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody knows what would be done."""
    settings = Settings(_env_file=None)  # type: ignore[call-arg]
    monkeypatch.setattr(common, "read", lambda: settings)
    result = plan("plan", "--migrations", "migrations")
    assert result.exit_code == 4
    assert "mongodb: no URL is set, and no live worker serves it" in result.stderr


@pytest.mark.parametrize(
    ("command_line", "named"),
    [
        ("plan --target 1.0.0", "--target"),
        ("submit --dry-run --target 1.0.0", "--target"),
        ("submit --allow-major", "--allow-major"),
        (
            "submit --allow-major --allow-out-of-order",
            "--allow-out-of-order and --allow-major",
        ),
    ],
)
def test_both_ways_at_once(plan: Plan, command_line: str, named: str) -> None:
    """What is for the way forward is not passed over in silence on the way back."""
    refused = plan(*command_line.split(), "--rollback-to", "1.0.0")
    assert refused.exit_code == 2
    assert f"--rollback-to goes the other way: leave {named} out" in refused.stderr


# -- how heavy it is -----------------------------------------------------------------------


def test_how_much_there_is(
    plan: Plan, folder: Migrations, databases: dict[str, FakeDatabase]
) -> None:
    """Asked once for all; no time is made up where none of its kind has run."""
    index = {"type": "create_index", "collection": "users", "index": [["old", 1]]}
    folder.write("mongodb/003_index.json", "1.2.0", operations=[index])
    folder.text("postgresql/001_users.sql", "SELECT 1;\nALTER TABLE users ALTER id SET NOT NULL;\n")
    databases["mongodb"].there = {"users": 1_200_000}
    databases["postgresql"].there = {"users": 1}
    lines = plan("plan").stdout.splitlines()
    assert "mongodb: 3 migrations to apply, time not known" in lines
    assert "    1 create_collection users" in lines
    heavy = "irreversible, heavy, at most 1,200,000 documents"
    assert f"    1 remove_field users.old  {heavy}" in lines
    assert "    1 create_index users(old)  heavy, 1,200,000 documents" in lines
    assert "    1 sql SELECT … and 1 more  irreversible, heavy, blocking, 1 row" in lines
    assert (
        "      line 2: ALTER TABLE locks users (ACCESS EXCLUSIVE), and goes through its rows: "
        "reads and writes of it wait"
    ) in lines
    assert databases["mongodb"].asked == [["users"]]
    assert databases["elasticsearch"].asked == []


def test_how_long_it_takes(
    plan: Plan, folder: Migrations, databases: dict[str, FakeDatabase]
) -> None:
    """At the rate that the journal has seen, for those of the same kind; the sum is by database."""
    one = {"type": "add_field", "collection": "users", "field": "a", "value": 1}
    folder.write("mongodb/001_users.json", "1.0.0", operations=[one])
    folder.write("mongodb/002_old.json", "1.1.0", operations=[one | {"field": "b"}])
    unknown = {"type": "remove_field", "collection": "users", "field": "b"}
    folder.write("mongodb/003_more.json", "1.2.0", operations=[one | {"field": "c"}, unknown])
    (first, *_) = load(folder.path).migrations
    databases["mongodb"].found = survey("mongodb", timed(record(first), done=10_000, seconds=20))
    databases["mongodb"].there = {"users": 30_000}
    lines = plan("plan", "--databases", "mongodb").stdout.splitlines()
    assert lines[0] == "mongodb: 2 migrations to apply, about 2 min 00 s and more"
    assert lines[2] == "    1 add_field users.b  heavy, at most 30,000 documents, about 1 min 00 s"
    assert lines[-2] == "    2 remove_field users.b  irreversible, heavy, at most 30,000 documents"
    found = json.loads(plan("plan", "--json", "--databases", "mongodb").stdout)
    assert found["times"] == {"mongodb": {"seconds": 120.0, "complete": False}}
    operation = found["databases"]["mongodb"][0]["operations"][0]
    estimate = {"count": 30_000, "at_most": True, "missing": [], "seconds": 60.0}
    assert (operation["heavy"], operation["blocking"]) == (True, [])
    assert operation["estimate"] == estimate


def timed(applied: MigrationRecord, *, done: int, seconds: float) -> MigrationRecord:
    """The same, of one operation that has gone through so many documents in that time."""
    ended = applied.started + timedelta(seconds=seconds)
    operation = applied.operations[0].model_copy(
        update={"type": "add_field", "done": done, "updated": ended}
    )
    return applied.model_copy(update={"operations": [operation]})


@pytest.mark.parametrize(
    ("state", "count"),
    [
        (MigrationState.RUNNING, 200),
        (MigrationState.FAILED, 200),
        (MigrationState.ROLLED_BACK, 7000),
    ],
)
def test_what_has_begun(
    plan: Plan,
    folder: Migrations,
    databases: dict[str, FakeDatabase],
    state: MigrationState,
    count: int,
) -> None:
    """What is left of it; one that was rolled back as a whole begins again."""
    first, second = (m for m in load(folder.path).migrations if m.database == "mongodb")
    half = record(second, state)
    begun = {"state": OperationState.RUNNING, "done": 800, "total": 1000}
    half.operations[0] = half.operations[0].model_copy(update=begun)
    databases["mongodb"].found = survey("mongodb", record(first), half)
    databases["mongodb"].there = {"users": 7000}
    out = plan("plan", "--databases", "mongodb").stdout
    assert f"remove_field users.old  irreversible, heavy, at most {count:,} documents\n" in out


def test_what_is_undone(plan: Plan, folder: Migrations, databases: dict[str, FakeDatabase]) -> None:
    """As much as was done; an index that was dropped is built again over all there is now."""
    operations = [
        {"type": "add_field", "collection": "users", "field": "a", "value": 1},
        {"type": "drop_index", "collection": "users", "index": "by_name"},
        {"type": "create_index", "collection": "users", "index": [["a", 1]]},
    ]
    folder.write("mongodb/002_old.json", "1.1.0", operations=operations)
    apply(folder, databases)
    done = databases["mongodb"].found.migrations[1].operations
    done[0] = done[0].model_copy(update={"done": 800})
    databases["mongodb"].there = {"users": 7000}
    lines = plan("plan", "--rollback-to", "1.0.0").stdout.splitlines()
    assert lines[0] == "mongodb: 1 migration to undo, time not known"
    assert lines[2:] == [
        "    3 undo create_index users(a)",
        "    2 undo drop_index users(by_name)  heavy, 7,000 documents",
        "    1 undo add_field users.a  heavy, at most 800 documents",
    ]


def test_what_is_passed_over_is_not_heavy(
    plan: Plan, folder: Migrations, databases: dict[str, FakeDatabase]
) -> None:
    """It cannot be undone, and nothing is done about it."""
    apply(folder, databases)
    result = plan("submit", "--dry-run", "--rollback-to", "1.0.0", "--accept-data-loss")
    assert (
        "    1 remove_field users.old  left as it is\n      remove_field cannot be" in result.stdout
    )


def test_a_database_that_cannot_count(plan: Plan, databases: dict[str, FakeDatabase]) -> None:
    """The plan is shown all the same, with a word about it."""
    databases["mongodb"].error = OSError("no permission")
    result = plan("plan")
    assert result.exit_code == 0
    assert "    1 remove_field users.old  irreversible, heavy\n" in result.stdout
    assert (
        "warning: there are no estimates for mongodb: mongodb cannot be read: "
        "described: no permission. Look at the server, and at DHARMA_MONGODB_URL.\n"
    ) in result.stdout
    assert "no permission" in json.loads(plan("plan", "--json").stdout)["warnings"][0]


def test_counting_through_a_worker(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, folder: Migrations
) -> None:
    """It is asked by names, and by nothing that could be carried out."""
    redis = FakeRedis(decode_responses=True)
    Workers(redis, "dharma").announce(Worker(name="w@h", databases=("mongodb",)), 100)
    asked: list[JSON] = []

    def send(chains: Iterable[Chain]) -> None:
        for (message,) in chains:
            asked.append(message.arguments)
            survey = Survey(database="mongodb").model_dump_json()
            answer = '{"users": 7}' if "count" in message.arguments else survey
            redis.rpush(message.arguments["reply"], answer)

    settings = Settings(_env_file=None, migrations_dir=folder.path)  # type: ignore[call-arg]
    monkeypatch.setattr(common, "read", lambda: settings)
    monkeypatch.setattr(common, "send", send)
    monkeypatch.setattr(reading, "require_redis", lambda _settings: redis)
    result = plan("plan", "--databases", "mongodb")
    assert (
        "    1 remove_field users.old  irreversible, heavy, at most 7 documents\n" in result.stdout
    )
    assert [each.keys() for each in asked] == [
        {"database", "reply"},
        {"database", "reply", "count"},
    ]
    assert asked[1]["count"] == ["users"]
