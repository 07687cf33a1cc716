"""`dharma plan` and `submit --dry-run`: what would be done, by the code that does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_folder import Migrations
from fake_run import without_settings
from test_reversal import record, survey

from dharma_tasks.cli import common, main
from dharma_tasks.cli import plan as command
from dharma_tasks.journal import Survey
from dharma_tasks.loader import load
from dharma_tasks.settings import Settings

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


@pytest.fixture
def surveys(folder: Migrations) -> dict[str, Survey]:
    """What the journals say: nothing is applied."""
    del folder
    return {name: Survey(database=name) for name in ("mongodb", "postgresql")}


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch, folder: Migrations, surveys: dict[str, Survey]) -> Plan:
    """Run a command; the journals are read without a database."""
    without_settings(monkeypatch)
    settings = Settings(_env_file=None, migrations_dir=folder.path)  # type: ignore[call-arg]
    monkeypatch.setattr(common, "read", lambda: settings)
    monkeypatch.setattr(common, "configure_logs", lambda _settings: None)
    monkeypatch.setattr(command, "surveys", lambda _names, _settings, _send: surveys)
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def apply(folder: Migrations, surveys: dict[str, Survey]) -> None:
    """Let the journals say that everything is applied."""
    loaded = load(folder.path)
    for name in surveys:
        mine = [record(m) for m in loaded.migrations if m.database == name]
        surveys[name] = survey(name, *mine)


def test_what_would_be_applied(plan: Plan) -> None:
    """The order, what waits for what, what cannot be undone, the SQL."""
    result = plan("plan")
    assert result.exit_code == 0, result.output
    out = result.stdout
    assert out.index("mongodb: 2 migrations to apply") < out.index("  1.0.0 a name")
    assert "    waits for mongodb:1.0.0\n" in out
    assert "    1 remove_field users" in out
    assert "      remove_field cannot be undone" in out
    assert "      CREATE TABLE users (id int);\n" in out
    assert plan("submit", "--dry-run").stdout == out


def test_as_json(plan: Plan) -> None:
    """All of it, for a program."""
    found = json.loads(plan("plan", "--json", "--databases", "mongodb").stdout)
    assert list(found["databases"]) == ["mongodb"]
    first, second = found["databases"]["mongodb"]
    assert (first["version"], first["operations"][0]["irreversible"]) == ("1.0.0", None)
    assert "cannot be undone" in second["operations"][0]["irreversible"]


def test_nothing_to_do(plan: Plan, folder: Migrations, surveys: dict[str, Survey]) -> None:
    """Everything is applied."""
    apply(folder, surveys)
    assert plan("plan").stdout == "Nothing to do.\n"


def test_the_way_back(plan: Plan, folder: Migrations, surveys: dict[str, Survey]) -> None:
    """Newest first; refused, by name, where something cannot be undone."""
    apply(folder, surveys)
    refused = plan("plan", "--rollback-to", "1.0.0")
    assert refused.exit_code == 2
    assert "1.1.0 cannot be undone: operation 1, remove_field" in refused.stderr
    folder.write("mongodb/002_old_rollback.json", "1.1.0", operations=[
        {"type": "create_index", "collection": "users", "index": [["old", 1]]}
    ])  # fmt: skip
    result = plan("plan", "--rollback-to", "1.0.0")
    assert result.exit_code == 0, result.output
    assert "mongodb: 1 migration to undo\n  1.1.0 a name\n    2 create_index" in result.stdout


def test_a_database_that_cannot_be_read(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody knows what would be done."""
    monkeypatch.undo()
    without_settings(monkeypatch)
    settings = Settings(_env_file=None, redis_url="redis://127.0.0.1:1")  # type: ignore[call-arg]
    monkeypatch.setattr(common, "read", lambda: settings)
    monkeypatch.setattr(common, "configure_logs", lambda _settings: None)
    result = plan("plan", "--migrations", "migrations")
    assert result.exit_code == 4
    assert "mongodb: no URL is set, and no live worker serves it" in result.stderr
