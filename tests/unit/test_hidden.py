"""Secrets and encrypted values: where they may stand, who puts them in, what never shows them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner
from fake_folder import Migrations
from hypothesis import given
from hypothesis import strategies as st
from model import Faults, Increment
from pydantic import SecretStr
from test_runner import FakeControl, make_runner, make_server
from test_schemas import file
from test_schemas import refused as marked

from dharma_tasks import settings as reading
from dharma_tasks.cli import main
from dharma_tasks.encryption import Cipher, NotOurs, cipher, new_key
from dharma_tasks.errors import MigrationFailed, OperationFailed, Refused, Stopped, Unequipped
from dharma_tasks.flow.revealing import parsed
from dharma_tasks.hidden import Hidden, reveal
from dharma_tasks.loader import load
from dharma_tasks.migration import JSON, Migration
from dharma_tasks.operations import catalogue
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.run import Next
from dharma_tasks.settings import Settings
from dharma_tasks.work import SEALED, Step, Work

SECRET = {"$secret": "API_TOKEN"}
VALUE = 'pa55"wörd\\that is long enough to be cut off somewhere'
FILE = "mongodb/001_a.json"

ADD: JSON = {"type": "add_field", "collection": "c", "field": "f", "value": SECRET}
INSERT: JSON = {
    "type": "insert_documents",
    "collection": "c",
    "documents": [{"_id": 1, "deep": {"list": [SECRET]}}],
}
UPDATE: JSON = {"type": "update_documents", "collection": "c", "filter": {}}
SET: JSON = UPDATE | {"update": {"$set": {"f": SECRET}}}
PIPELINE: JSON = UPDATE | {"update": [{"$set": {"f": {"$literal": SECRET}}}]}
LEGAL = [ADD, ADD | {"value": {"a": [SECRET]}}, INSERT, SET, PIPELINE]


def refusal(migrations: Migrations) -> str:
    """What is said of the folder."""
    with pytest.raises(Refused) as caught:
        load(migrations.path)
    return str(caught.value)


# -- where they may stand ------------------------------------------------------------------


@pytest.mark.parametrize("operation", LEGAL)
def test_they_stay_as_they_are_written(migrations: Migrations, operation: JSON) -> None:
    """For the run's record, the checksum and editors alike."""
    migrations.write(FILE, operations=[operation])
    (found,) = load(migrations.path).migrations
    assert found.operations == (operation,)
    assert json.dumps(SECRET) in found.model_dump_json().replace('":"', '": "')
    assert marked(file("mongodb", operations=[operation])) == []


@pytest.mark.parametrize(
    "operation",
    [
        ADD | {"collection": SECRET},
        ADD | {"filter": {"f": SECRET}},
        INSERT | {"documents": SECRET},
        INSERT | {"documents": [SECRET]},
        INSERT | {"documents": [{"_id": SECRET}]},
        INSERT | {"documents": [{"_id": {"a": SECRET}}]},
        SET | {"filter": {"f": SECRET}},
        SET | {"update": SECRET},
        SET | {"update": {"$set": SECRET}},
        SET | {"update": {"$rename": {"f": SECRET}}},
        SET | {"update": [{"$set": {"f": SECRET}}]},
        SET | {"array_filters": [{"x": SECRET}]},
        {"type": "create_collection", "collection": "c", "options": {"validator": {"a": SECRET}}},
    ],
)
def test_nowhere_else(migrations: Migrations, operation: JSON) -> None:
    """Not in what decides where an operation works, is shown, or kept in the journal."""
    migrations.write(FILE, operations=[operation])
    said = refusal(migrations)
    assert "a '$secret' cannot stand here" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("operations", [[[SECRET]], {"a": [SECRET]}, [SECRET], SECRET])
def test_where_no_operation_is(migrations: Migrations, operations: JSON) -> None:
    """What is not formed like a list of operations is refused, and does not end the reading."""
    migrations.write(FILE, operations=operations)
    assert "operations" in refusal(migrations)


def test_nor_in_other_databases(migrations: Migrations) -> None:
    """An index is defined, and a batch of PostgreSQL goes by its key; a version is none's."""
    migrations.write("postgresql/001_a.json", batch={"table": SECRET, "key": "id"})
    migrations.text("postgresql/001_a.sql", "UPDATE t SET a = 1 WHERE id BETWEEN :batch_start "
                    "AND :batch_end")  # fmt: skip
    index = {"type": "create_index", "index": "i", "mapping": {"_meta": SECRET}}
    migrations.write("elasticsearch/001_a.json", operations=[index])
    migrations.write(FILE, operations=[ADD], description=SECRET)
    said = refusal(migrations).splitlines()
    places = ["batch.table", "operations[0].mapping._meta", "description"]
    assert all(any(place in line and "$secret" in line for line in said) for place in places)
    assert len(said) == len(places)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ({"$secret": "token"}, "'token' is no name of a secret"),
        ({"$secret": "TOKEN_FILE"}, "'TOKEN_FILE' is no name of a secret"),
        ({"$secret": 1}, "1 is no name of a secret"),
        ({"$secret": "A", "default": 1}, "unknown key 'default'"),
        ({"$encrypted": "what is plain"}, "not an encrypted value"),
        ({"$encrypted": Cipher([new_key()]).write(VALUE)[:-1]}, "not an encrypted value"),
    ],
)
def test_what_is_none(migrations: Migrations, written: JSON, said: str) -> None:
    """A name that no setting can have, a default, a text that nobody has encrypted."""
    migrations.write(FILE, operations=[ADD | {"value": written}])
    assert said in refusal(migrations)


# -- where they come from ------------------------------------------------------------------


def test_secrets_are_settings_or_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is read when it is asked for; both together are refused; neither is shown."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DHARMA_SECRET_ONE", VALUE)
    monkeypatch.setenv("DHARMA_SECRET_TWO_FILE", "two")
    (tmp_path / "two").write_text(f"{VALUE}\n")
    found = reading.read()
    assert found.secret_text("ONE") == found.secret_text("TWO") == VALUE
    assert found.secret_text("THREE") is None
    assert VALUE not in repr(found)
    (tmp_path / "two").write_text("another\n")
    assert found.secret_text("TWO") == "another"
    monkeypatch.setenv("DHARMA_SECRET_TWO", VALUE)
    with pytest.raises(Refused, match="DHARMA_SECRET_TWO_FILE: is set beside"):
        reading.read().secret_text("TWO")


@dataclass
class Stage:
    """A worker that is asked to carry out one operation."""

    settings: Settings = field(default_factory=lambda: Settings(_env_file=None))
    worker: str = "w"
    told: list[str] = field(default_factory=list)

    def tell(self, _run: Any, _kind: str, text: str) -> None:
        """Keep it."""
        self.told.append(text)

    def parse(self, operation: JSON, *, back: bool = False, cancelled: bool = False) -> Any:
        """The operation as it is carried out."""
        migration = Migration(
            database="mongodb", version="1.0.0", name="a", migration_type="data",
            operations=(operation,), file=FILE,
        )  # fmt: skip
        at = Next("mongodb", "1.0.0", 1, 1 if back else None)
        job = SimpleNamespace(migration=migration, at=at, cancelled=cancelled, run=None)
        return parsed(self, job)  # type: ignore[arg-type]


def stage(**given: Any) -> Stage:
    """A worker with these settings."""
    return Stage(Settings(_env_file=None, **given))


def test_a_worker_puts_them_in() -> None:
    """The value itself, of any type where it is encrypted, and not in what it shows of itself."""
    key = new_key()
    written = Cipher([key]).write({"$numberLong": "5"})
    worker = stage(secret={"api_token": SecretStr(VALUE)}, encryption_key=SecretStr(key))
    operation, hidden = worker.parse(ADD | {"value": [SECRET, {"$encrypted": written}]})
    assert operation.value == [VALUE, 5]
    assert type(operation.value[1]).__name__ == "Int64"
    assert hidden.secrets == {"API_TOKEN": VALUE}
    assert VALUE not in operation.summary + repr(hidden)


def test_a_short_one_is_put_in_too() -> None:
    """Although it is not looked for in messages."""
    operation, hidden = stage(secret={"api_token": SecretStr("x")}).parse(ADD)
    assert operation.value == "x"
    assert hidden.scrub("x is no word") == "x is no word"


@pytest.mark.parametrize(
    ("value", "given", "said"),
    [
        (SECRET, {}, "DHARMA_SECRET_API_TOKEN is not set there"),
        (SECRET, {"secret": {"api_token_file": SecretStr("/none")}}, "cannot be read"),
        ({"$encrypted": Cipher([new_key()]).write(VALUE)}, {}, "DHARMA_ENCRYPTION_KEY is not set"),
        (
            {"$encrypted": Cipher([new_key()]).write(VALUE)},
            {"encryption_key": SecretStr(new_key())},
            "is not the one of this value",
        ),
        (
            {"$encrypted": Cipher([new_key()]).write(VALUE)[:-4]},
            {"encryption_key": SecretStr(new_key())},
            "is not the one of this value",
        ),
        (
            {"$encrypted": Cipher([new_key()]).write(VALUE)},
            {"encryption_key": SecretStr("abc")},
            "holds something that is no key",
        ),
    ],
    ids=["no secret", "no file", "no key", "another key", "cut off", "a bad key"],
)
def test_a_worker_that_has_not_got_it(value: JSON, given: JSON, said: str) -> None:
    """The operation waits for another worker, and the run says why."""
    worker = stage(**given)
    with pytest.raises(Unequipped):
        worker.parse(ADD | {"value": value})
    assert said in worker.told[0]
    assert VALUE not in worker.told[0]


def test_what_is_encrypted_and_does_not_fit() -> None:
    """No other worker could carry it out, so it fails; it is not shown, although it is wrong."""
    key = new_key()
    written = Cipher([key]).write({"$oid": VALUE})
    worker = stage(encryption_key=SecretStr(key))
    operation, hidden = worker.parse(ADD | {"value": {"$encrypted": written}})
    assert hidden.unfit == "value"
    assert VALUE not in repr(operation)
    server = make_server()
    runner = make_runner(server, Faults())
    runner.hidden = hidden
    with pytest.raises(MigrationFailed, match="a hidden value does not fit into 'value'"):
        runner.run()
    assert "does not fit" in str(server.error)
    assert set(server.documents.values()) == {0}


def test_not_where_a_record_has_it_in_another_place() -> None:
    """Whoever writes a run's record past `submit` gets no secret out."""
    worker = stage(secret={"api_token": SecretStr(VALUE)})
    with pytest.raises(Unequipped):
        worker.parse(ADD | {"filter": {"f": SECRET}})


def test_the_way_back_asks_for_them_where_it_looks_at_them() -> None:
    """Not for what is put back from before-images or known by digests, nor to cancel."""
    bare = stage()
    for operation in (INSERT, SET, PIPELINE, ADD | {"keep_before_image": True}):
        bare.parse(operation, back=True)
    bare.parse(ADD, cancelled=True)
    _, hidden = bare.parse(ADD, back=True)
    assert "DHARMA_SECRET_API_TOKEN is not set there" in str(hidden.missing)


def test_a_way_back_without_anything_to_undo_needs_none() -> None:
    """Who has not got the secret ends it; where something is there, another worker must have it."""
    missing = Hidden(missing="DHARMA_SECRET_API_TOKEN is not set there")
    server = make_server()
    with pytest.raises(Stopped, match="told to"):
        make_runner(server, Faults(), FakeControl(stop_after=4)).run()
    control = FakeControl()
    runner = make_runner(server, Faults(), control, back=True)
    runner.hidden = missing
    with pytest.raises(Unequipped):
        runner.run()
    assert control.waits == ["DHARMA_SECRET_API_TOKEN is not set there"]
    untouched = make_server()
    runner = make_runner(untouched, Faults(), back=True)
    runner.hidden = missing
    runner.run()
    assert set(untouched.documents.values()) == {0}


# -- what never shows them -----------------------------------------------------------------


@given(st.text(min_size=4), st.text(), st.text())
def test_texts_lose_them(value: str, before: str, after: str) -> None:
    """As it is, in JSON, as Python shows it; where a server cuts it off its beginning is enough."""
    _, hidden = reveal({"value": SECRET}, lambda _: value, lambda _: None)
    for written in (value, json.dumps(value)[1:-1], repr(value)[1:-1]):
        said = hidden.scrub(f"{before}{written}{after}")
        assert value in {"***", "****"} or written not in said
    assert value[:16] not in hidden.scrub(f"|{value[:20]}|") or "*" in value[:16]


def test_all_that_is_encrypted_is_taken_out() -> None:
    """Each text and number in it."""
    plain = {"a": ["first one", 123456], "b": None}
    _, hidden = reveal({"value": {"$encrypted": "…"}}, str, lambda _: plain)
    assert hidden.scrub("dup key: first one, 123456") == "dup key: ***, ***"


class Loud(Increment):
    """Fails, and quotes what it was given."""

    def step(self, work: Work[dict[int, int]]) -> Step:
        work.warn(f"met {VALUE}")
        raise OperationFailed(f"dup key: {VALUE}")


def test_a_failure_shows_none(caplog: pytest.LogCaptureFixture) -> None:
    """Neither what the journal keeps, nor what is raised, with all that has caused it."""
    import traceback

    server, control = make_server(), FakeControl()
    runner = make_runner(server, Faults(), control, operation=Loud())
    runner.hidden = Hidden({"API_TOKEN": VALUE}, frozenset({VALUE}))
    with pytest.raises(MigrationFailed) as caught:
        runner.run()
    told = "".join(traceback.format_exception(caught.value))
    assert "dup key: ***" in told
    for text in (told, str(server.error), *control.warnings, caplog.text, repr(server.undo)):
        assert VALUE not in text


def test_another_secret_is_not_gone_on_with() -> None:
    """An operation has one secret from its beginning to its end; who has another steps aside.

    Its attempts do not count, and whoever has the right one ends it.
    """
    server = make_server()
    first, other = ({"API_TOKEN": each} for each in (VALUE, "another one"))
    control = FakeControl(stop_after=4)
    runner = make_runner(server, Faults(), control)
    runner.hidden = Hidden(first, frozenset(first.values()))
    with pytest.raises(Exception, match="told to"):
        runner.run()
    assert 0 < sum(server.documents.values()) < len(server.documents)
    for _ in range(8):
        control = FakeControl()
        runner = make_runner(server, Faults(), control)
        runner.hidden = Hidden(other, frozenset(other.values()))
        with pytest.raises(Unequipped, match="the secret API_TOKEN is another one at w"):
            runner.run()
        assert "API_TOKEN" in control.waits[0]
    runner = make_runner(server, Faults())
    runner.hidden = Hidden(first, frozenset(first.values()))
    runner.run()
    assert set(server.documents.values()) == {1}
    assert VALUE not in repr(server.undo)


def test_what_another_key_has_sealed_is_not_gone_on_with() -> None:
    """In neither direction, or what is kept next would be readable; whoever has the key goes on.

    A person may accept on the way back that nobody has it, where the plan says so: else somebody
    may have it.
    """
    server = make_server()
    control = FakeControl(stop_after=4)
    with pytest.raises(Stopped, match="told to"):
        make_runner(server, Faults(), control).run()
    before = dict(server.documents)
    assert server.undo is not None
    server.undo |= {SEALED: "encrypted", "irreversible": "encrypted"}
    for back, accepted in ((False, False), (True, False), (True, True)):
        control = FakeControl()
        runner = make_runner(server, Faults(), control, back=back, accept_data_loss=accepted)
        with pytest.raises(Unequipped, match="encrypted, at w, and it waits for a worker that has"):
            runner.run()
        assert "it waits for a worker that has that key" in control.waits[0]
        assert server.documents == before
    make_runner(server, Faults(), back=True, accept_data_loss=True, passed_over=True).run()
    assert server.documents == before
    assert server.migration is MigrationState.ROLLED_BACK


def test_what_an_operation_finds_missing_it_waits_for() -> None:
    """On its way, and not when it is taken over: that is told too, and it does not fail."""
    server, control = make_server(), FakeControl()
    make_runner(server, Faults()).run()
    runner = make_runner(server, Faults(), control, operation=Sealed(), back=True)
    with pytest.raises(Unequipped, match="a part is sealed"):
        runner.run()
    assert control.waits == ["a part is sealed"]
    assert server.state is OperationState.UNDOING
    make_runner(server, Faults(), back=True).run()
    assert set(server.documents.values()) == {0}


class Sealed(Increment):
    """Has kept a part with a key that is not here."""

    def undo(self, work: Work[dict[int, int]]) -> Step:
        raise Unequipped("a part is sealed")


# -- encryption ----------------------------------------------------------------------------


def keyed(monkeypatch: pytest.MonkeyPatch, key: str) -> CliRunner:
    """A command line with a key."""
    reading.settings.cache_clear()
    monkeypatch.setenv("DHARMA_ENCRYPTION_KEY", key)
    return CliRunner()


def test_the_command_encrypts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it prints may stand in a migration; text is text, and JSON with --json."""
    key = new_key()
    runner = keyed(monkeypatch, key)
    text = runner.invoke(main, ["encrypt"], input=f"{VALUE}\n")
    value = runner.invoke(main, ["encrypt", "--json"], input='{"a": 1}')
    known = Cipher([key])
    assert known.read(json.loads(text.stdout)["$encrypted"]) == VALUE
    assert known.read(json.loads(value.stdout)["$encrypted"]) == {"a": 1}
    catalogue("mongodb").parse(ADD | {"value": json.loads(text.stdout)})
    reading.settings.cache_clear()


@pytest.mark.parametrize(
    ("key", "arguments", "given", "said"),
    [
        ("", (), "x", "DHARMA_ENCRYPTION_KEY is not set"),
        ("abc", (), "x", "no key"),
        ("abc,", (), "x", "no key"),
        (new_key(), ("--json",), "{'a': 1}", "not the JSON"),
        (new_key(), ("--json",), '{"a": 1, "a": 2}', "not the JSON"),
        (new_key(), (), "\n", "there is no value"),
    ],
    ids=["none", "bad", "bad and none", "no JSON", "a key twice", "nothing"],
)
def test_what_cannot_be_encrypted(
    monkeypatch: pytest.MonkeyPatch, key: str, arguments: tuple[str, ...], given: str, said: str
) -> None:
    """Without a key, with none that is one, what is no JSON, nothing at all."""
    found = keyed(monkeypatch, key).invoke(main, ["encrypt", *arguments], input=given)
    reading.settings.cache_clear()
    assert found.exit_code == 2
    assert said in found.stderr


def test_keys_are_changed_one_after_the_other() -> None:
    """A new one goes first; what the old one has encrypted is read as long as that is there."""
    old, new = new_key(), new_key()
    before = Cipher([old]).write(VALUE)
    both = cipher(Settings(_env_file=None, encryption_key=SecretStr(f"{new},\n{old}")))
    assert both is not None
    assert both.read(before) == VALUE
    assert Cipher([new]).read(both.write(VALUE)) == VALUE
    with pytest.raises(NotOurs):
        Cipher([new]).read(before)
    with pytest.raises(NotOurs):
        Cipher([old]).read(both.write(VALUE))


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: who has a key and not the library is told how to get it."""
    monkeypatch.setattr("dharma_tasks.encryption.Fernet", None)
    with pytest.raises(Refused, match="pip install 'dharma-tasks"):
        cipher(Settings(_env_file=None, encryption_key=SecretStr("key")))
    assert cipher(Settings(_env_file=None)) is None
