"""`dharma init`: a folder that works as it is, and that nothing in it is ever overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_run import without_settings
from jsonschema import Draft7Validator
from test_new import everything

from dharma_tasks.cli import common, main
from dharma_tasks.databases import NAMES
from dharma_tasks.loader import load
from dharma_tasks.settings import Settings


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where it is called: there are no settings, and no folder yet."""
    without_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    use(monkeypatch)
    return tmp_path / "migrations"


def use(monkeypatch: pytest.MonkeyPatch, **given: str) -> None:
    """Read these settings."""
    found = Settings(_env_file=None, **given)  # type: ignore[arg-type,call-arg]
    monkeypatch.setattr(common, "read", lambda: found)


def init(*arguments: str, status: int = 0) -> Result:
    """Run `dharma init`, which must end with that exit status."""
    result = CliRunner().invoke(main, ["init", *arguments])
    assert result.exit_code == status, result.output
    return result


def databases(folder: Path) -> list[str]:
    """Those that have a first migration."""
    return [migration.database for migration in load(folder).migrations]


def test_what_it_makes_works(folder: Path) -> None:
    """Each database has its 1.0.0, in which no check finds anything, and which can be undone."""
    written = [Path(line) for line in init().stdout.splitlines()]
    assert all(path.is_file() for path in written)
    loaded = load(folder)
    assert [(each.database, each.version) for each in loaded.migrations] == [
        (name, "1.0.0") for name in NAMES
    ]
    assert loaded.warnings == ()
    assert CliRunner().invoke(main, ["check", "--strict"]).exit_code == 0
    for path in folder.glob("[!.]*/*.json"):
        content = json.loads(path.read_text())
        schema = json.loads((path.parent / content["$schema"]).read_text())
        Draft7Validator(schema).validate(content)
    assert any(each.rollback for each in loaded.migrations)


def test_what_to_do_next_is_said(folder: Path) -> None:
    """With the folder, where it is not the one of the settings."""
    assert "  dharma submit  " in init().stderr
    assert "  dharma submit --migrations elsewhere  " in init("elsewhere").stderr
    assert databases(Path("elsewhere")) == list(NAMES)


def test_those_with_a_url(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Where the settings say which databases there are, it is those."""
    use(monkeypatch, postgresql_url="postgresql://h/app", elasticsearch_url="http://h:9200")
    init()
    assert databases(folder) == ["postgresql", "elasticsearch"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--databases", "mongodb,elasticsearch", "here"),
        ("here", "--databases", "mongodb", "elasticsearch"),
        ("--databases", "mongodb", "elasticsearch", "here"),
    ],
)
def test_those_that_are_named(arguments: tuple[str, ...]) -> None:
    """With a comma or a space between, as in the other commands."""
    init(*arguments)
    assert databases(Path("here")) == ["mongodb", "elasticsearch"]


def test_what_is_there_stays(folder: Path) -> None:
    """Again it writes nothing, and says what to call; a database that is new there comes to it."""
    init("--databases", "mongodb")
    (folder / "mongodb" / "001_create_notes.json").rename(folder / "mongodb" / "001_mine.json")
    before = everything(folder)
    again = init("--databases", "mongodb")
    assert again.stdout == ""
    assert "dharma new mongodb NAME --minor" in again.stderr
    assert everything(folder) == before
    init()
    assert databases(folder) == list(NAMES)
    assert before.items() <= everything(folder).items()


def test_a_file_in_the_way(folder: Path) -> None:
    """Then none is written, and what is there keeps what it holds."""
    path = folder / "postgresql" / "001_create_notes.sql"
    path.parent.mkdir(parents=True)
    path.write_text("SELECT 1;\n")
    result = init(status=2)
    assert "postgresql/001_create_notes.sql: is there already. Nothing was written." in (
        result.stderr
    )
    assert everything(folder) == {str(path): b"SELECT 1;\n"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--databases", "mysql"), "no such database: 'mysql'. Known databases: elasticsearch"),
        (("mongodb",), "'mongodb' is not one folder; databases are named by --databases"),
        (("a", "b"), "'a b' is not one folder"),
    ],
)
def test_what_it_cannot_mean(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    """Refused, and nothing is made."""
    assert said in init(*arguments, status=2).stderr
    assert everything(tmp_path) == {}
