"""`dharma new`: number, version, skeleton; and that nothing is ever overwritten."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_folder import Migrations
from fake_run import without_settings

from dharma_tasks.cli import common, main
from dharma_tasks.errors import Refused
from dharma_tasks.loader import load
from dharma_tasks.settings import Settings

OPERATIONS: dict[str, dict[str, Any]] = {
    "mongodb": {"type": "create_collection", "collection": "users"},
    "elasticsearch": {"type": "create_index", "index": "users"},
}
SQL = "CREATE TABLE users (id bigint);\n"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    monkeypatch.setattr(common, "read", lambda: Settings(_env_file=None))  # type: ignore[call-arg]


def new(migrations: Migrations, *arguments: str) -> Result:
    """Run `dharma new` on the test's folder."""
    return CliRunner().invoke(main, ["new", *arguments, "--migrations", str(migrations.path)])


def made(result: Result, migrations: Migrations) -> list[str]:
    """The files that it says it has made, and that are there."""
    assert result.exit_code == 0, result.output
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert all(path.is_file() for path in paths)
    return [str(path.relative_to(migrations.path)) for path in paths]


def everything(folder: Path) -> dict[str, bytes]:
    """Every file with what it holds."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def schema(path: Path) -> str:
    """Where the file says that its schema is."""
    found: str = json.loads(path.read_text())["$schema"]
    return found


def fill_in(path: Path) -> None:
    """Do what it asks for."""
    if path.suffix == ".sql":
        assert "TODO" in path.read_text()
        path.write_text(SQL)
        return
    content = json.loads(path.read_text())
    if content["database_type"] in OPERATIONS:
        content["operations"] = [OPERATIONS[content["database_type"]]]
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("database", ["mongodb", "postgresql", "elasticsearch"])
def test_refused_until_it_is_filled_in(migrations: Migrations, database: str) -> None:
    """A skeleton is no migration: not one of its files is applied empty; filled in, it loads."""
    files = made(new(migrations, database, "add_users", "--rollback"), migrations)
    stems = [f"{database}/001_add_users", f"{database}/001_add_users_rollback"]
    endings = [".json", ".sql"] if database == "postgresql" else [".json"]
    assert files == [f"{stem}{ending}" for stem in stems for ending in endings]
    with pytest.raises(Refused) as caught:
        load(migrations.path)
    todo = files[1::2] if database == "postgresql" else files
    assert [problem.file for problem in caught.value.problems] == todo
    for file in files:
        fill_in(migrations.path / file)
    loaded = load(migrations.path)
    for file in files[:: len(endings)]:
        assert (migrations.path / database / schema(migrations.path / file)).is_file()
    (migration,) = loaded.migrations
    assert (migration.version, migration.name) == ("1.0.0", "add_users")
    assert migration.rollback
    assert not loaded.warnings


@pytest.mark.parametrize(
    ("part", "version"), [("--major", "2.0.0"), ("--minor", "1.11.0"), ("--patch", "1.10.5")]
)
def test_the_next_number_and_version(migrations: Migrations, part: str, version: str) -> None:
    """Versions count as versions, not as text; other databases and gaps in numbers do not."""
    migrations.write("mongodb/001_a.json", "1.9.0")
    migrations.write("mongodb/009_b.json", "1.10.4")
    migrations.write("elasticsearch/044_c.json", "7.0.0")
    (file,) = made(new(migrations, "mongodb", "add-it", part), migrations)
    assert file == "mongodb/010_add-it.json"
    assert json.loads((migrations.path / file).read_text())["version"] == version


def test_one_after_the_other(migrations: Migrations) -> None:
    """The one before need not be filled in."""
    new(migrations, "postgresql", "one")
    files = made(new(migrations, "postgresql", "two", "--minor"), migrations)
    assert files == ["postgresql/002_two.json", "postgresql/002_two.sql"]
    assert json.loads((migrations.path / files[0]).read_text())["version"] == "1.1.0"


def test_it_says_what_to_fill_in(migrations: Migrations) -> None:
    """On stderr: stdout has the paths for an editor."""
    result = new(migrations, "elasticsearch", "x")
    assert result.stdout.splitlines() == [str(migrations.path / "elasticsearch/001_x.json")]
    assert "elasticsearch 1.0.0 x. Fill in:" in result.stderr
    assert "create_index, delete_index" in result.stderr
    assert all(len(line) <= 80 for line in result.stderr.splitlines())


def test_nothing_is_overwritten(migrations: Migrations) -> None:
    """One file in the way, and none is written; what had been written is removed."""
    migrations.text("postgresql/001_x_rollback.sql", "SELECT 1;\n")
    before = everything(migrations.path)
    result = new(migrations, "postgresql", "x", "--rollback")
    assert result.exit_code == 2
    assert "postgresql/001_x_rollback.sql: is there already" in result.stderr
    assert everything(migrations.path) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("add it/now", "can: add_it_now."),
        ("../x", "can: x."),
        ("-", "can: add_email."),
        ("ü", "can: add_email."),
        ("x_rollback", "ends like a rollback's name"),
    ],
)
def test_names_that_no_file_may_have(migrations: Migrations, name: str, said: str) -> None:
    """Refused, with one that may be."""
    arguments = ["new", "--migrations", str(migrations.path), "--", "mongodb", name]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not everything(migrations.path)


def test_a_version_that_cannot_be_told(migrations: Migrations) -> None:
    """Which part is raised must be said, once; and what is there must be readable."""
    migrations.write("mongodb/001_a.json", "1.0.0")
    result = new(migrations, "mongodb", "b")
    assert result.exit_code == 2
    assert "what comes after 1.0.0? Say --major (2.0.0), --minor (1.1.0)" in result.stderr
    result = new(migrations, "mongodb", "b", "--major", "--minor")
    assert result.exit_code == 2
    assert "--major and --minor exclude each other" in result.stderr
    migrations.text("mongodb/002_b.json", "{")
    result = new(migrations, "mongodb", "c", "--minor")
    assert result.exit_code == 2
    assert "mongodb/002_b.json: its version cannot be read" in result.stderr
    assert len(everything(migrations.path)) == 2


def test_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    """A project begins with its first migration."""
    found = Migrations(tmp_path / "not" / "there")
    assert made(new(found, "mongodb", "x", "--minor"), found) == ["mongodb/001_x.json"]
