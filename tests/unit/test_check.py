"""`dharma check`: exit statuses, three formats, and what squawk (the real one) finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_folder import Migrations
from fake_run import without_settings

from dharma_tasks.cli import common, main
from dharma_tasks.operations.postgresql import squawk
from dharma_tasks.settings import Settings, read

FOLDER = Path(__file__).parents[2] / "migrations"
COLLECTION = [{"type": "create_collection", "collection": "users"}]
DROP = "ALTER TABLE users DROP COLUMN mail;\n"
ADVICE = "Dropping a column may break existing clients (squawk: ban-drop-column)."

Sql = Callable[..., None]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    monkeypatch.delenv("GITHUB_WORKSPACE", raising=False)
    monkeypatch.setattr(common, "read", lambda: Settings(_env_file=None))  # type: ignore[call-arg]


def check(folder: Path, *arguments: str) -> Result:
    """Run `dharma check`."""
    return CliRunner().invoke(main, ["check", "--migrations", str(folder), *arguments])


def found(folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """What it finds, as a program reads it."""
    result = check(folder, "--format", "json", *arguments)
    assert check(folder, "--json", *arguments).stdout == result.stdout
    listed: list[dict[str, Any]] = json.loads(result.stdout)
    return listed


@pytest.fixture
def sql(migrations: Migrations) -> Sql:
    """Write the one PostgreSQL migration, or its rollback."""

    def write(text: str, ending: str = "", **keys: object) -> None:
        migrations.write(f"postgresql/001_users{ending}.json", **keys)
        (migrations.path / f"postgresql/001_users{ending}.sql").write_text(text, newline="")

    return write


# -- exit status ---------------------------------------------------------------------------


def test_the_example_passes() -> None:
    """A newcomer sees nothing to complain of, by squawk neither."""
    assert squawk.program(), squawk.HOW_TO_GET_IT
    result = check(FOLDER, "--strict")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "rollback files: no problems" in result.stdout


def test_problems_end_with_2(migrations: Migrations) -> None:
    """All of them are shown, with file, line and path."""
    migrations.write("mongodb/001_a.json", operations=[{"type": "create_colection"}])
    migrations.write("elasticsearch/001_b.json", "1.0", operations=[])
    result = check(migrations.path)
    assert result.exit_code == 2
    lines = result.stdout.splitlines()
    assert "error: mongodb/001_a.json, line 8, operations[0].type: no such operation" in lines[-2]
    assert lines[-1] == "3 problems"
    assert {(each["file"], each["line"], each["place"]) for each in found(migrations.path)} == {
        ("elasticsearch/001_b.json", 2, "line 2, version"),
        ("elasticsearch/001_b.json", 6, "line 6, operations"),
        ("mongodb/001_a.json", 8, "line 8, operations[0].type"),
    }


def test_warnings_end_with_0_or_with_strict_2(sql: Sql, migrations: Migrations) -> None:
    """What may run is no problem, unless it is asked for."""
    sql("-- nothing yet\n")
    result = check(migrations.path)
    assert result.exit_code == 0
    assert "warning: postgresql/001_users.sql, line 1: the file holds no stat" in result.stdout
    assert result.stdout.splitlines()[-1] == "1 migration: 1 warning"
    assert check(migrations.path, "--strict").exit_code == 2


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """It is a problem as any other, in every format."""
    result = check(tmp_path / "none", "--format", "github")
    assert result.exit_code == 2
    assert result.stdout.startswith("::error::the migrations folder")
    ((problem),) = found(tmp_path / "none")
    assert (problem["level"], problem["file"], problem["line"]) == ("error", "", None)


def test_a_setting_that_cannot_be(migrations: Migrations, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull request's check may have settings, and they may be wrong."""
    monkeypatch.chdir(migrations.path)
    monkeypatch.setattr(common, "read", read)
    monkeypatch.setenv("DHARMA_NAMESPACE", "Not This")
    result = check(migrations.path)
    assert result.exit_code == 2
    assert "error: DHARMA_NAMESPACE" in result.stdout


# -- annotations ---------------------------------------------------------------------------


def test_annotations(migrations: Migrations, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named from the root of the repository; lines and columns where they are known."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(migrations.path.parent))
    migrations.write("mongodb/001_a.json", operations=[{"type": "create_colection"}])
    sql("SELECT 1;\nSELEC 2;\n")
    lines = check(migrations.path, "--format", "github").stdout.splitlines()
    first, second = "migrations/mongodb/001_a.json", "migrations/postgresql/001_users.sql"
    what = "no such operation: 'create_colection'. Did you mean 'create_collection'?"
    assert lines == [
        f"::error file={first},line=8::operations[0].type: {what}",
        f'::error file={second},line=2,col=1::syntax error at or near "SELEC". Correct the SQL.',
    ]


def test_annotations_of_warnings(
    migrations: Migrations, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without GitHub's variable, from where one stands."""
    sql(DROP)
    monkeypatch.chdir(migrations.path)
    (line,) = check(Path(), "--format", "github").stdout.splitlines()
    assert line == f"::warning file=postgresql/001_users.sql,line=1::{ADVICE}"


def test_annotations_are_escaped(migrations: Migrations, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file's name must not end the command, nor a message its line."""
    monkeypatch.chdir(migrations.path)
    migrations.text("50%,a:b\n.sql", "")
    migrations.write("mongodb/001_a.json", operations=[{"type": "100%\r\n"}])
    lines = check(Path(), "--format", "github").stdout.splitlines()
    assert lines[0].startswith("::error file=50%25%2Ca%3Ab%0A.sql::not in a database's folder")
    assert "no such operation: '100%25\\r\\n'" in lines[1]
    assert len(lines) == 2


# -- indexes before bulk work --------------------------------------------------------------


def test_an_index_that_is_built_too_early(migrations: Migrations) -> None:
    """A warning with its line, and the rule by which it is left out."""
    index = {"type": "create_index", "collection": "users", "index": [["age", 1]]}
    field = {"type": "add_field", "collection": "users", "field": "age", "value": 0}
    migrations.write("mongodb/001_a.json", operations=[index, field])
    (warning,) = found(migrations.path)
    assert (warning["level"], warning["file"], warning["line"]) == (
        "warning",
        "mongodb/001_a.json",
        7,
    )
    assert warning["what"].endswith("which it slows down (index-before-bulk-work)")
    assert check(migrations.path).exit_code == 0
    assert check(migrations.path, "--strict").exit_code == 2
    assert check(migrations.path, "--strict", "--exclude", "index-before-bulk-work").exit_code == 0


# -- squawk --------------------------------------------------------------------------------


def places(folder: Path, *arguments: str) -> list[tuple[str, int, str]]:
    """What squawk has found: file, line and rule."""
    return [
        (each["file"], each["line"], each["what"].rpartition("squawk: ")[2].rstrip(")"))
        for each in found(folder, *arguments)
    ]


def test_squawk_finds_lines(sql: Sql, migrations: Migrations) -> None:
    """In the migration and in its rollback; with Windows' ends of lines too."""
    sql("-- für alle\r\nSELECT 1;\r\n\r\n" + DROP)
    sql("CREATE INDEX ON users (mail);\n", "_rollback")
    assert places(migrations.path) == [
        ("postgresql/001_users.sql", 4, "ban-drop-column"),
        ("postgresql/001_users_rollback.sql", 1, "require-concurrent-index-creation"),
    ]
    assert check(migrations.path).exit_code == 0
    assert check(migrations.path, "--strict").exit_code == 2


def test_squawk_knows_how_a_file_runs(sql: Sql, migrations: Migrations) -> None:
    """Outside of a transaction what belongs there is right, with transactions of its own."""
    sql(
        "CREATE INDEX CONCURRENTLY by_mail ON users (mail);\n"
        "BEGIN;\nALTER TABLE users ADD COLUMN age bigint;\nCOMMIT;\n",
        transactional=False,
    )
    assert places(migrations.path) == []
    sql("ALTER TABLE users ADD COLUMN age bigint;\nALTER TABLE users ADD COLUMN b text;\n")
    assert places(migrations.path) == []


def test_squawk_reads_the_marks_of_a_batch(sql: Sql, migrations: Migrations) -> None:
    """They are no SQL, and stand for parameters."""
    text = "UPDATE users SET age = 1\nWHERE id BETWEEN :batch_start AND :batch_end;\n"
    sql(text, batch={"table": "users", "key": "id"})
    assert places(migrations.path) == []


def test_what_is_left_out(sql: Sql, migrations: Migrations) -> None:
    """By a comment, by squawk's own configuration, or by an option."""
    sql(f"-- squawk-ignore ban-drop-column\n{DROP}{DROP}")
    assert places(migrations.path) == [("postgresql/001_users.sql", 3, "ban-drop-column")]
    assert places(migrations.path, "--exclude", "ban-drop-column") == []
    migrations.text(".squawk.toml", 'excluded_rules = ["ban-drop-column"]\n')
    assert places(migrations.path) == []
    assert check(migrations.path, "--strict").exit_code == 0


def test_squawk_that_cannot_run(sql: Sql, migrations: Migrations) -> None:
    """That is not the same as to find nothing."""
    sql(DROP)
    migrations.text(".squawk.toml", "excluded_rules = 5\n")
    (warning,) = found(migrations.path)
    assert "squawk could not look at the SQL: Configuration error" in warning["what"]


def test_without_squawk(sql: Sql, migrations: Migrations, monkeypatch: pytest.MonkeyPatch) -> None:
    """One note how to get it, where there is SQL, and on stderr; all else goes on."""
    monkeypatch.setattr(shutil, "which", lambda *_arguments, **_keys: None)
    sql(DROP)
    result = check(migrations.path, "--strict")
    assert result.exit_code == 0
    assert result.stderr == f"note: {squawk.HOW_TO_GET_IT}\n"
    for path in (migrations.path / "postgresql").iterdir():
        path.unlink()
    migrations.write("mongodb/001_a.json", operations=COLLECTION)
    assert check(migrations.path).stderr == ""
