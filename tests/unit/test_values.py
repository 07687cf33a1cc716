"""Values that differ between environments: where they come from, and what they change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from fake_folder import Migrations
from fake_run import without_settings
from pydantic import SecretStr
from test_planner import planned, refused, survey
from test_status import FakeDatabase

from dharma_tasks import reading
from dharma_tasks.cli import common, main
from dharma_tasks.cli import plan as plan_command
from dharma_tasks.errors import Refused
from dharma_tasks.flow.operation import _assignment
from dharma_tasks.loader import Loaded, load
from dharma_tasks.migration import JSON, Migration
from dharma_tasks.planner import Request
from dharma_tasks.records import MigrationRecord, MigrationState, Survey
from dharma_tasks.reversal import plan_back
from dharma_tasks.run import Job, Next, RunState
from dharma_tasks.settings import Settings
from dharma_tasks.strict_json import value_of
from dharma_tasks.submit import make_run
from dharma_tasks.values import Values

INDEX: JSON = {
    "type": "create_index",
    "index": {"$value": "INDEX", "default": "people"},
    "settings": {
        "number_of_shards": 1,
        "number_of_replicas": {"$value": "REPLICAS", "default": 1},
    },
}
FILE = "elasticsearch/001_people.json"


@pytest.fixture
def folder(migrations: Migrations) -> Migrations:
    """One index, with a name and replicas that differ."""
    migrations.write(FILE, operations=[INDEX])
    return migrations


def write(migrations: Migrations, parameters: JSON, **more: object) -> None:
    """The one migration, with other parameters."""
    migrations.write(FILE, operations=[{**INDEX, **parameters}], **more)


def only(loaded: Loaded) -> Migration:
    """The folder's one migration."""
    (found,) = loaded.migrations
    return found


def problems(folder: Migrations, values: Values | None = None) -> list[str]:
    """Why it is refused."""
    with pytest.raises(Refused) as caught:
        load(folder.path, values or Values())
    return [str(problem) for problem in caught.value.problems]


# -- where they come from ------------------------------------------------------------------


def test_from_the_command_line_the_settings_or_the_file(folder: Migrations) -> None:
    """In this order."""
    loaded = load(folder.path)
    assert only(loaded).operations[0]["settings"]["number_of_replicas"] == 1
    loaded = load(folder.path, Values({"REPLICAS": 3}, {"REPLICAS": "2", "INDEX": "folk"}))
    operation = only(loaded).operations[0]
    assert (operation["index"], operation["settings"]["number_of_replicas"]) == ("folk", 3)
    assert [str(value) for value in loaded.values] == [
        f'INDEX = "folk" (DHARMA_VALUE_INDEX), in {FILE}',
        f"REPLICAS = 3 (--set), in {FILE}",
    ]
    assert only(load(folder.path, Values({}, {"REPLICAS": "2"}))).operations[0]["settings"] == {
        "number_of_shards": 1,
        "number_of_replicas": 2,
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2", 2),
        ("007", "007"),
        ("true", True),
        ('"true"', "true"),
        ("", ""),
        ("logs-eu", "logs-eu"),
        ('{"a": [1, null]}', {"a": [1, None]}),
    ],
)
def test_a_text_is_json_or_itself(text: str, value: Any) -> None:
    """What looks like a number is one; quotes make it a text."""
    assert value_of(text) == value


@pytest.mark.parametrize("text", ['{"a": 1', "[1,]", '"a', "NaN", '{"a": 1, "a": 2}', "1e999"])
def test_a_text_that_only_begins_as_json(text: str) -> None:
    """Who writes a bracket means JSON."""
    with pytest.raises(Refused):
        value_of(text)


def test_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One variable for each; in .env too. They are read only where they are used."""
    without_settings(monkeypatch)
    monkeypatch.setenv("DHARMA_VALUE_REPLICAS", "2")
    file = tmp_path / ".env"
    file.write_text("DHARMA_VALUE_INDEX_NAME_2=folk\nDHARMA_VALUE_BAD={\n")
    found = Settings(_env_file=file)  # type: ignore[call-arg]
    assert found.values == {"REPLICAS": "2", "INDEX_NAME_2": "folk", "BAD": "{"}


def test_a_setting_that_cannot_be_read(folder: Migrations) -> None:
    """It is named, and so is the line that wants it."""
    (said,) = problems(folder, Values({}, {"REPLICAS": "{"}))
    assert said.startswith(f"{FILE}, line ")
    assert "DHARMA_VALUE_REPLICAS: not valid JSON" in said


def test_a_default_is_taken_as_it_is_written(migrations: Migrations) -> None:
    """So an object with a key of that name can be written after all."""
    query = {"term": {"$value": "x"}}
    write(migrations, {"settings": {"$value": "LITERAL", "default": query}})
    assert only(load(migrations.path)).operations[0]["settings"] == query


def test_in_sql_only_the_json_beside_it(migrations: Migrations) -> None:
    """The text runs byte for byte."""
    batch = {"table": "t", "key": "id", "size": {"$value": "SIZE"}}
    migrations.write("postgresql/001_t.json", batch=batch)
    text = 'UPDATE t SET a = \'{"$value": "X"}\' WHERE id BETWEEN :batch_start AND :batch_end;\n'
    migrations.text("postgresql/001_t.sql", text)
    (operation,) = only(load(migrations.path, Values({"SIZE": 50}))).operations
    assert (operation["size"], operation["sql"]) == (50, text)


# -- what is refused -----------------------------------------------------------------------


def test_no_value(migrations: Migrations) -> None:
    """With its line, and the three ways to give one; nothing else is said of the place."""
    write(migrations, {"index": {"$value": "INDEX"}})
    (said,) = problems(migrations)
    assert said == (
        f"{FILE}, line 9, operations[0].index: INDEX has no value. Give --set INDEX=…, set "
        "DHARMA_VALUE_INDEX, or write a 'default' beside it."
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"$value": "REPLICAS", "defualt": 1}, "unknown key 'defualt' beside '$value'. Did you"),
        ({"$value": "replicas"}, "'replicas' is no name of a value"),
        ({"$value": ["REPLICAS"]}, "['REPLICAS'] is no name of a value"),
    ],
)
def test_a_value_that_is_badly_written(migrations: Migrations, value: JSON, said: str) -> None:
    """At its place."""
    write(migrations, {"settings": {"number_of_replicas": value}})
    (problem,) = problems(migrations)
    assert said in problem
    assert "operations[0].settings.number_of_replicas" in problem


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ({"version": {"$value": "A", "default": "1.0.0"}}, "version"),
        ({"description": {"$value": "A", "default": "x"}}, "description"),
        ({"operations": {"$value": "A", "default": [INDEX]}}, "operations"),
        ({"operations": [{"$value": "A", "default": INDEX}]}, "operations[0]"),
        (
            {"operations": [{**INDEX, "type": {"$value": "A", "default": "create_index"}}]},
            "operations[0].type",
        ),
    ],
)
def test_where_none_may_stand(migrations: Migrations, keys: JSON, place: str) -> None:
    """What a migration is and what it does is the same everywhere."""
    migrations.text(
        FILE,
        json.dumps(
            {
                "version": "1.0.0",
                "name": "x",
                "database_type": "elasticsearch",
                "migration_type": "schema",
                "operations": [INDEX],
                **keys,
            }
        ),
    )
    (said,) = problems(migrations)
    assert f"{place}: a '$value' cannot stand here" in said


def test_a_value_that_does_not_fit(folder: Migrations) -> None:
    """The type is checked after it is put in; the line is the file's, the value is named."""
    (said,) = problems(folder, Values({"INDEX": 20240101}))
    assert said.startswith(f"{FILE}, line 9, operations[0].index: must be a valid string")
    assert "(the value of INDEX: --set)" in said


def test_a_name_that_no_file_has(folder: Migrations) -> None:
    """A typo would else be passed over; a setting may be another folder's."""
    (said,) = problems(folder, Values({"REPLICSA": 2}, {"OTHER": "x"}))
    assert said == "--set REPLICSA: no file has a value of that name. Did you mean 'REPLICAS'?"


# -- what they change ----------------------------------------------------------------------


def test_the_checksum_is_the_files(folder: Migrations) -> None:
    """Another environment is no drift; another default is a change."""
    one, two = (only(load(folder.path, Values({"REPLICAS": n}))) for n in (1, 2))
    assert one.checksum == two.checksum
    assert one.stamp != two.stamp
    write(folder, {"index": {"$value": "INDEX", "default": "folk"}})
    assert only(load(folder.path)).checksum != one.checksum


def test_without_values_the_stamp_is_the_checksum(migrations: Migrations) -> None:
    """What journals hold of such migrations is what they have always held."""
    write(migrations, {"index": "people", "settings": {}})
    found = only(load(migrations.path))
    assert found.stamp == found.checksum


def test_two_submits_with_other_values_are_two(folder: Migrations) -> None:
    """The second must not join the first; rollback files count too."""

    def fingerprint(values: Values) -> str:
        return make_run(load(folder.path, values), Request(), "me").fingerprint

    assert fingerprint(Values()) == fingerprint(Values({"REPLICAS": 1}))
    assert fingerprint(Values()) != fingerprint(Values({"REPLICAS": 2}))
    back = [{"type": "delete_index", "index": {"$value": "OLD", "default": "a"}}]
    folder.write(FILE.replace(".json", "_rollback.json"), operations=back)
    assert fingerprint(Values()) != fingerprint(Values({"OLD": "b"}))


def kept(migration: Migration, state: MigrationState) -> Survey:
    """What a journal says of it, as its storage has kept it."""
    (record,) = survey("elasticsearch", (migration, state)).migrations
    stored = record.model_dump(exclude={"values"}) | {"checksum": migration.stamp}
    return Survey(
        database="elasticsearch", migrations=[MigrationRecord.model_validate(stored)]
    ).model_copy(deep=True)


def test_what_the_journals_keep(folder: Migrations) -> None:
    """A worker writes checksum and values as one; a record that knows of none has none."""
    found = only(load(folder.path, Values({"REPLICAS": 2})))
    run = make_run(load(folder.path), Request(), "me")
    at = Next("elasticsearch", "1.0.0", 1)
    job = Job(run, at, 1, found, 0.0, 0.0, handed_on=False, state=RunState.RUNNING)
    assert _assignment(job).checksum == f"{found.checksum}+{found.values}"
    (record,) = kept(found, MigrationState.APPLIED).migrations
    assert (record.checksum, record.values) == (found.checksum, found.values)
    without = MigrationRecord.model_validate(record.model_dump() | {"values": None})
    assert (without.checksum, without.values) == (found.checksum, "")


def test_an_applied_one_is_left_alone(folder: Migrations) -> None:
    """Whatever its values would be now."""
    one, two = (only(load(folder.path, Values({"REPLICAS": n}))) for n in (1, 2))
    assert not planned([two], kept(one, MigrationState.APPLIED)).orders
    read = Survey.model_validate_json(kept(one, MigrationState.APPLIED).model_dump_json())
    assert read.migrations[0].checksum == one.checksum


@pytest.mark.parametrize("state", [MigrationState.FAILED, MigrationState.RUNNING])
def test_half_done_with_other_values(folder: Migrations, state: MigrationState) -> None:
    """A part with the one and the rest with the other is what nobody has asked for."""
    one, two = (only(load(folder.path, Values({"REPLICAS": n}))) for n in (1, 2))
    (said,) = refused([two], kept(one, state))
    assert said == (
        f"{FILE}: 1.0.0 is {state}, and was begun with other values. Submit with those of run r, "
        "or begin anew: dharma rollback 0.0.0 --databases elasticsearch"
    )
    assert planned([one], kept(one, state)).orders == {"elasticsearch": ("1.0.0",)}
    begun_anew = kept(one, MigrationState.ROLLED_BACK)
    assert planned([two], begun_anew).orders == {"elasticsearch": ("1.0.0",)}


def test_the_way_back_with_other_values(folder: Migrations) -> None:
    """It would look for what was done where it was not; a rollback file has its own."""

    def back(migration: Migration, **request: object) -> Any:
        wanted = Request.model_validate({"target": "0.0.0", "direction": "back", **request})
        return plan_back([migration], {"elasticsearch": kept(one, MigrationState.APPLIED)}, wanted)

    one, two = (only(load(folder.path, Values({"INDEX": name}))) for name in ("a", "b"))
    assert back(one).orders == {"elasticsearch": ("1.0.0",)}
    with pytest.raises(Refused, match=r"applied with other values than those given now\. Give tho"):
        back(two)
    assert "other values than it was begun with" in str(back(two, accept_data_loss=True).warnings)
    folder.write(
        FILE.replace(".json", "_rollback.json"), operations=[{"type": "delete_index", "index": "a"}]
    )
    assert back(only(load(folder.path, Values({"INDEX": "b"})))).orders


# -- the commands --------------------------------------------------------------------------


@pytest.fixture
def dharma(monkeypatch: pytest.MonkeyPatch, folder: Migrations) -> Callable[..., Any]:
    """Run a command on the folder; nothing is applied."""
    without_settings(monkeypatch)
    settings = Settings(_env_file=None, migrations_dir=folder.path)  # type: ignore[call-arg]
    monkeypatch.setattr(common, "read", lambda: settings)
    nothing = {"elasticsearch": Survey(database="elasticsearch")}
    monkeypatch.setattr(plan_command, "surveys", lambda _names, _settings, _send: nothing)
    monkeypatch.setattr(plan_command._Counter, "counts", lambda _self, _names: {})
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


def test_plan_shows_them(dharma: Callable[..., Any]) -> None:
    """Those of what would run, with where they come from."""
    out = dharma("plan", "--set", "REPLICAS=2").stdout
    assert f"  value: REPLICAS = 2 (--set), in {FILE}\n" in out
    assert f'  value: INDEX = "people" (default), in {FILE}\n' in out
    document = json.loads(dharma("submit", "--dry-run", "--json", "--set", "REPLICAS=2").stdout)
    assert document["values"][1] == {
        "name": "REPLICAS", "value": 2, "source": "--set", "files": [FILE]
    }  # fmt: skip
    assert dharma("plan", "--set", "REPLICSA=2").exit_code == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("REPLICAS", "'REPLICAS' is not NAME=VALUE"),
        ("replicas=1", "'replicas=1' is not NAME=VALUE"),
        ("REPLICAS={", "REPLICAS: not valid JSON"),
    ],
)
@pytest.mark.parametrize("command", [["plan"], ["submit"], ["check"], ["rollback", "1.0.0"]])
def test_options_that_cannot_be(
    dharma: Callable[..., Any], command: list[str], text: str, said: str
) -> None:
    """They are refused before anything is looked at."""
    result = dharma(*command, "--set", text)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "given twice" in dharma(*command, "--set", "A=1", "--set", "A=2").stderr


def test_check_does_what_can_be_done_without_them(
    dharma: Callable[..., Any], migrations: Migrations
) -> None:
    """A pull request knows no environment; all the rest of the file is checked."""
    unset = {"number_of_replicas": {"$value": "REPLICAS"}}
    write(migrations, {"index": {"$value": "INDEX"}, "settings": unset})
    batch = {"table": {"$value": "TABLE"}, "key": "id", "size": {"$value": "SIZE"}}
    migrations.write("postgresql/001_t.json", batch=batch)
    text = "UPDATE t SET a = 1 WHERE id BETWEEN :batch_start AND :batch_end;\n"
    migrations.text("postgresql/001_t.sql", text)
    result = dharma("check", "--strict")
    assert result.exit_code == 0, result.output
    assert result.stderr == "note: not given with --set: INDEX, REPLICAS, SIZE, TABLE\n"
    assert dharma("check", "--set", "SIZE=-1").exit_code == 2
    batch["table"] = "t"
    migrations.write("postgresql/001_t.json", batch=batch)
    migrations.text("postgresql/001_t.sql", text.replace("UPDATE t", "UPDAET t"))
    result = dharma("check")
    assert result.exit_code == 2, "the SQL is checked although the size is not known"
    assert "postgresql/001_t.sql" in result.stdout


def test_status_needs_none(
    monkeypatch: pytest.MonkeyPatch, dharma: Callable[..., Any], migrations: Migrations
) -> None:
    """What is pending is known without them, and so is what has changed."""
    write(migrations, {"index": {"$value": "INDEX"}})
    applied = kept(only(load(migrations.path, Values({"INDEX": "a"}))), MigrationState.APPLIED)
    monkeypatch.setattr(reading, "connect", lambda _name, _settings: FakeDatabase(applied))
    settings = common.read().model_copy(update={"elasticsearch_url": SecretStr("http://x")})
    monkeypatch.setattr(common, "read", lambda: settings)
    document = json.loads(dharma("status", "--json").stdout)
    (found,) = document["databases"]["elasticsearch"]["migrations"]
    assert (found["state"], found["changed"], document["problems"]) == ("applied", False, [])


def test_renumbered(folder: Migrations) -> None:
    """It is known again by its file, not by what its values stand for; else it would run twice."""
    before = only(load(folder.path, Values({"REPLICAS": 2})))
    folder.write(FILE, "1.0.1", operations=[INDEX])
    after = only(load(folder.path, Values({"REPLICAS": 2})))
    (problem,) = refused([after], survey("elasticsearch", (before, MigrationState.APPLIED)))
    assert "1.0.0" in problem
    assert "1.0.1" in problem


def test_an_older_worker_reads_what_a_newer_release_has_added(folder: Migrations) -> None:
    """Law 7: workers and submitters are not updated at the same instant."""
    found = only(load(folder.path))
    newer = found.model_dump(mode="json") | {"added_later": 1}
    assert Migration.model_validate_json(json.dumps(newer)) == found
