"""The loader: what is read, and what is refused with which words."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_folder import Migrations
from hypothesis import given
from hypothesis import strategies as st

from dharma_tasks.bounds import Bounds
from dharma_tasks.errors import Refused
from dharma_tasks.loader import load
from dharma_tasks.migration import JSON
from dharma_tasks.strict_json import line_of, parse, path_of, text_of

pytestmark = pytest.mark.usefixtures("fake_catalogues")

Refusal = Callable[[], list[str]]


def index(**changes: Any) -> JSON:
    """A right `create_index`, but for `changes`."""
    whole = {
        "type": "create_index",
        "collection": "users",
        "index": [["email", 1]],
        "options": {"name": "by_email"},
    }
    return {key: value for key, value in (whole | changes).items() if value is not None}


# -- what is read --------------------------------------------------------------------------


def test_three_databases(migrations: Migrations) -> None:
    """Migrations come sorted by database and version, whole, each with its rollback."""
    migrations.write("mongodb/010_b.json", "1.10.0", dependencies=["1.9.0", "postgresql:1.0.0"])
    migrations.write("mongodb/009_a.json", "1.9.0", description="first")
    migrations.write("mongodb/009_a_rollback.json", "1.9.0")
    migrations.write("postgresql/0001_a-b.c.json", alone=True)
    migrations.write("elasticsearch/001_x.json")
    migrations.text("README.md", "#")
    migrations.text("mongodb/.gitkeep", "")
    loaded = load(migrations.path)
    assert [m.reference for m in loaded.migrations] == [
        "mongodb:1.9.0",
        "mongodb:1.10.0",
        "postgresql:1.0.0",
        "elasticsearch:1.0.0",
    ]
    first, second, sql, _ = loaded.migrations
    assert first.description == "first"
    assert first.operations == (index(),)
    assert second.dependencies == ("mongodb:1.9.0", "postgresql:1.0.0")
    assert second.file == "mongodb/010_b.json"
    assert sql.operations == ({"type": "sql", "sql": "SELECT 1;\n", "alone": True},)
    assert [bool(each.rollback) for each in loaded.migrations] == [True, False, False, False]
    assert first.rollback == first.operations
    assert loaded.warnings == ()


def test_checksum_covers_meaning_only(migrations: Migrations) -> None:
    """White space and the rollback do not count; SQL text does."""
    path = migrations.write("postgresql/001_a.json")
    (before,) = load(migrations.path).migrations
    path.write_text(json.dumps(json.loads(path.read_text())))
    migrations.write("postgresql/001_a_rollback.json")
    (spaced,) = load(migrations.path).migrations
    migrations.text("postgresql/001_a.sql", "SELECT 2;\n")
    (changed,) = load(migrations.path).migrations
    assert len(before.checksum) == 64
    assert spaced.checksum == before.checksum
    assert changed.checksum != before.checksum


def test_warnings(migrations: Migrations) -> None:
    """What may run but should be known is said with its place."""
    migrations.write("mongodb/001_a.json", operations=[index(options={})])
    migrations.write("mongodb/002_b.json", "1.1.0", dependencies=["1.0.0", "mongodb:1.0.0"])
    loaded = load(migrations.path)
    assert [str(warning) for warning in loaded.warnings] == [
        "mongodb/001_a.json, line 16, operations[0].options: has no name.",
        "mongodb/002_b.json, line 23, dependencies[1]: mongodb:1.0.0 is named twice. Remove one.",
    ]
    assert loaded.migrations[1].dependencies == ("mongodb:1.0.0",)


def test_empty_folder_is_a_warning(migrations: Migrations) -> None:
    """A folder without migrations is probably the wrong one, but not wrong."""
    loaded = load(migrations.path)
    assert loaded.migrations == ()
    assert "there are no migrations in" in str(loaded.warnings[0])


def test_links_inside_are_read(migrations: Migrations) -> None:
    """A mounted ConfigMap: each file is a link to a hidden folder beside it."""
    migrations.write("mongodb/..data/001_a.json", database_type="mongodb")
    link = migrations.path / "mongodb/001_a.json"
    link.symlink_to("..data/001_a.json")
    assert [m.file for m in load(migrations.path).migrations] == ["mongodb/001_a.json"]


# -- the folder ----------------------------------------------------------------------------


def test_missing_folder(tmp_path: Path) -> None:
    """The path is named, and how to name another."""
    with pytest.raises(Refused) as caught:
        load(tmp_path / "nowhere")
    text = str(caught.value)
    assert str(tmp_path / "nowhere") in text
    assert "No such file or directory" in text
    assert "--migrations DIR" in text
    assert "DHARMA_MIGRATIONS_DIR" in text


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("mongo/001_a.json", ("mongo: not in a database's folder, so nothing would read it. "
         "Did you mean 'mongodb'?")),
        ("pg/001_a.sql", ("pg: not in a database's folder, so nothing would read it. "
         "Known folders: elasticsearch, mongodb, postgresql.")),
        ("001_a.json", ("001_a.json: not in a database's folder, so nothing would read it. "
         "Move it to the folder of its database: mongodb, postgresql, elasticsearch.")),
        ("mongodb/1_a.json", "Rename it, for instance 001_a.json."),
        ("mongodb/create users.json", "Rename it, for instance 001_create_users.json."),
        ("mongodb/001_.json", "the name is not NNN_name.json"),
        ("mongodb/001_a.JSON", ("not a kind of file that mongodb migrations are made of. "
         "Did you mean 001_a.json?")),
        ("mongodb/001_a.jsn", "Did you mean 001_a.json?"),
        ("mongodb/001_a.sql", ("not a kind of file that mongodb migrations are made of. "
         "Move it out of this folder.")),
        ("mongodb/old/001_a.json", "mongodb/old: a folder inside a database's folder is not read"),
        ("mongodb/001_a.json/x", "mongodb/001_a.json: a folder with the name of a file"),
        ("mongodb", "mongodb: not a folder"),
        ("postgresql/001_a.sql", "postgresql/001_a.sql: there is no 001_a.json for it"),
    ],
)  # fmt: skip
def test_stray_files(migrations: Migrations, refusal: Refusal, file: str, said: str) -> None:
    """Nothing that looks like a migration is passed over in silence."""
    migrations.text(file, "{}")
    (problem,) = refusal()
    assert said in problem


def test_missing_companion(migrations: Migrations, refusal: Refusal) -> None:
    """A .json without its .sql, and a .sql beside it under another name: both are named."""
    migrations.write("postgresql/001_create_users.json")
    (migrations.path / "postgresql/001_create_users.sql").rename(
        migrations.path / "postgresql/001_create_user.sql"
    )
    assert refusal() == [
        (
            "postgresql/001_create_user.sql: there is no 001_create_user.json for it. Write that "
            "file, or rename. Did you mean '001_create_users.json'?"
        ),
        (
            "postgresql/001_create_users.json: there is no 001_create_users.sql beside it. "
            "Write it, or rename the one you have."
        ),
    ]


def test_orphan_rollback(migrations: Migrations, refusal: Refusal) -> None:
    """A rollback belongs to a migration of the same stem."""
    migrations.write("mongodb/001_create_users.json")
    migrations.write("mongodb/001_create_user_rollback.json")
    (problem,) = refusal()
    assert "a rollback of 001_create_user.json, which is not there" in problem
    assert "Did you mean '001_create_users'?" in problem


def test_rollback_fits_its_migration(migrations: Migrations, refusal: Refusal) -> None:
    """A rollback has the version of its migration, no dependencies, and right operations."""
    migrations.write("mongodb/001_a.json", "1.0.0")
    migrations.write(
        "mongodb/001_a_rollback.json",
        "1.0.1",
        dependencies=[],
        operations=[index(type="create_indx")],
    )
    assert refusal() == [
        (
            "mongodb/001_a_rollback.json, line 21, dependencies: unknown key 'dependencies'. "
            "Known keys: $schema, database_type, description, migration_type, name, operations, "
            "version."
        ),
        (
            "mongodb/001_a_rollback.json, line 8, operations[0].type: no such operation: "
            "'create_indx'. Did you mean 'create_index'?"
        ),
        (
            "mongodb/001_a_rollback.json, line 2, version: has the version 1.0.1, but undoes "
            "1.0.0. Give it the version of mongodb/001_a.json."
        ),
    ]


def test_links_that_leave(migrations: Migrations, refusal: Refusal, tmp_path: Path) -> None:
    """Files, companions and folders outside are not read through a link; nor are broken ones."""
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    for database in ("mongodb", "postgresql"):
        (migrations.path / database).mkdir()
    (migrations.path / "mongodb/001_a.json").symlink_to(outside)
    (migrations.path / "mongodb/002_b.json").symlink_to("003_c.json")
    (migrations.path / "mongodb/004_d.json").symlink_to("004_d.json")
    migrations.write("postgresql/001_a.json")
    (migrations.path / "postgresql/001_a.sql").unlink()
    (migrations.path / "postgresql/001_a.sql").symlink_to(outside)
    (migrations.path / "elasticsearch").symlink_to(tmp_path)
    assert [problem.partition(". ")[0] for problem in refusal()] == [
        "elasticsearch: a symbolic link that leaves the migrations folder",
        "mongodb/001_a.json: a symbolic link that leaves the migrations folder",
        "mongodb/002_b.json: a symbolic link that leads nowhere",
        "mongodb/004_d.json: a symbolic link that leads nowhere",
        "postgresql/001_a.sql: a symbolic link that leaves the migrations folder",
    ]


def test_not_a_regular_file(migrations: Migrations, refusal: Refusal) -> None:
    """A pipe would be waited for without end."""
    (migrations.path / "mongodb").mkdir()
    os.mkfifo(migrations.path / "mongodb/001_a.json")
    assert refusal() == ["mongodb/001_a.json: not a regular file. Remove it."]


def test_unreadable_file(
    migrations: Migrations, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's own words are kept (root may read everything, so they are played here)."""
    migrations.write("mongodb/001_a.json")
    migrations.write("postgresql/001_b.json")
    read = Bounds.read

    def denied(bounds: Bounds, path: str) -> bytes:
        if path.endswith(("001_a.json", "001_b.sql")):
            raise PermissionError(13, "Permission denied", path)
        return read(bounds, path)

    monkeypatch.setattr(Bounds, "read", denied)
    one, other = refusal()
    assert one.startswith("mongodb/001_a.json: cannot be read: Permission denied")
    assert other.startswith("postgresql/001_b.sql: cannot be read: Permission denied")


def test_file_name_that_is_not_utf8(migrations: Migrations, refusal: Refusal) -> None:
    """A message can always be printed."""
    (migrations.path / "mongodb").mkdir()
    Path(os.fsdecode(os.fsencode(migrations.path) + b"/mongodb/001_\xff.json")).write_text("{}")
    (problem,) = refusal()
    assert problem.encode().startswith(rb"mongodb/001_\xff.json: the name is not")


# -- the JSON ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'\xef\xbb\xbf{"a": 1}', "line 1: the file begins with a byte order mark. Save the file"),
        (b'{"a": 1,\n"b": "\xe4"}', "line 2: byte 0xe4 is not UTF-8. Save the file as UTF-8."),
        (b'{"a": 1,\n "b" 2}', "line 2, column 6: not valid JSON: Expecting ':' delimiter."),
        (b"", "line 1, column 1: not valid JSON: Expecting value."),
        (b'{"a": 1} x', "line 1, column 10: not valid JSON: Extra data."),
        (b'{"a": {"b": 1,\n\n "b": 2}}', "line 3, a.b: the key 'b' is there twice (first in"),
        (b'{"a":\n [1, NaN]}', "line 2, a[1]: not a finite number; JSON has none."),
        (b'{"a": -Infinity}', "line 1, a: not a finite number"),
        (b'{"a": 1e999}', "line 1, a: not a finite number"),
        (b'{"a": "\\ud800"}', "line 1, a: half of a surrogate pair"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number cannot be read: Exceeds the limit"),
        (b"[1]", "line 1: the file must hold one JSON object. Begin it with '{'."),
        (b'{"a": ' * 150 + b"1" + b"}" * 150, "nested deeper than 100 levels. Make it flatter."),
        (b"[" * 100_000, "nested deeper than 100 levels. Make it flatter."),
        (b'{"a": ' * 900 + b"1" + b"}" * 900, "nested deeper than 100 levels. Make it flatter."),
    ],
)  # fmt: skip
def test_bad_json(migrations: Migrations, refusal: Refusal, raw: bytes, said: str) -> None:
    """What Python's parser takes and what it does not: refused with the place."""
    migrations.text("mongodb/001_a.json", "").write_bytes(raw)
    problems = refusal()
    assert problems[0].startswith("mongodb/001_a.json")
    assert said in problems[0]
    assert len(problems) == 1


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda below: (
        st.lists(below, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), below, max_size=4)
    ),
    max_leaves=20,
)


@given(document=st.dictionaries(st.text("ab.[]\"'$ \n"), documents, max_size=4), data=st.data())
def test_paths_and_lines(document: JSON, data: st.DataObject) -> None:
    """Every path of every document can be written, read back and found in its line."""
    text = json.dumps(document, indent=1)
    assert parse(text.encode()) == (document, text)
    path: tuple[str | int, ...] = ()
    here: Any = document
    while isinstance(here, dict | list) and here:
        step = data.draw(
            st.sampled_from(list(here if isinstance(here, dict) else range(len(here))))
        )
        path, here = (*path, step), here[step]
    if "" not in path:
        assert path_of(text_of(path)) == path
    line = text.splitlines()[line_of(text, path) - 1] if path else ""
    if path and isinstance(path[-1], str):
        assert line.strip().startswith(json.dumps(path[-1]))


# -- the keys ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"versoin": "1"}, ", versoin: unknown key 'versoin'. Did you mean 'version'?"),
        ({"alone": True}, "unknown key 'alone'. Known keys: $schema, breaking, "),
        ({"version": None}, "line 1, version: 'version' is missing. Add it."),
        ({"version": "1.0"}, "line 2, version: '1.0' is not a version: write MAJOR.MINOR.PATCH"),
        ({"version": "1.0.0-rc1"}, "'1.0.0-rc1' is not a version"),
        ({"version": "1.0.0\n"}, "is not a version"),
        ({"version": "01.0.0"}, "'01.0.0' is not a version"),
        ({"version": "0.0.0"}, "'0.0.0' stands for nothing applied: begin with '0.0.1'"),
        ({"version": 1}, "version: must be a valid string"),
        ({"name": " "}, "name: must be one line of printable characters"),
        ({"name": "a\x1b[2J"}, "name: must be one line of printable characters"),
        ({"database_type": "postgresql"}, ("database_type: says 'postgresql', but the file is in "
         "the folder of mongodb. Correct it, or move the file.")),
        ({"database_type": "mongo"}, "must be 'mongodb', 'postgresql' or 'elasticsearch'"),
        ({"migration_type": "both"}, "migration_type: must be 'schema' or 'data'"),
        ({"dependencies": "1.0.0"}, "dependencies: must be a list"),
        ({"dependencies": ["mongo:1.0.0"]}, ("dependencies[0]: no such database: 'mongo'. "
         "Did you mean 'mongodb'?")),
        ({"dependencies": ["v1"]}, "dependencies[0]: 'v1' is not a version"),
        ({"operations": None}, "'operations' is missing"),
        ({"operations": []}, "operations: must be a list of at least one operation"),
        ({"operations": {}}, "operations: must be a list of at least one operation"),
        ({"operations": ["drop"]}, "operations[0]: must be an object"),
        ({"operations": [index(type=None)]}, ("operations[0]: 'type' is missing. "
         "Known operations: create_index.")),
        ({"operations": [index(type=["a"])]}, "operations[0].type: no such operation: ['a']"),
        ({"operations": [index(), index(type="createindex")]}, ("operations[1].type: no such "
         "operation: 'createindex'. Did you mean 'create_index'?")),
        ({"operations": [index(colection="a")]}, ("operations[0].colection: unknown key "
         "'colection'. Did you mean 'collection'?")),
        ({"operations": [index(collection=None)]}, ("operations[0].collection: 'collection' is "
         "missing")),
        ({"operations": [index(index=[["a", 1], ["b", "up"]])]}, ("operations[0].index[1][1]: "
         "must be a valid integer")),
        ({"operations": [index(index=[])]}, "operations[0].index: has no key. Name a field."),
    ],
)  # fmt: skip
def test_bad_keys(migrations: Migrations, refusal: Refusal, keys: JSON, said: str) -> None:
    """Each wrong key or value is named with its place, and with what to do."""
    migrations.write("mongodb/001_a.json", **keys)
    (problem,) = refusal()
    assert said in problem
    assert "line " in problem or keys == {"operations": None}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (5, "operations[0].source: must be a valid string or an object"),
        ({"index": 5}, "operations[0].source.index: must be a valid string"),
        ({"index": "a", "qery": {}}, ("operations[0].source.qery: unknown key 'qery'. "
         "Did you mean 'query'?")),
        ({}, "operations[0].source.index: 'index' is missing"),
    ],
)  # fmt: skip
def test_parameters_of_two_shapes(
    migrations: Migrations, refusal: Refusal, source: object, said: str
) -> None:
    """Complaints about the shape that was plainly not meant are left out."""
    operation = {"type": "reindex", "source": source, "dest": "b"}
    migrations.write("elasticsearch/001_a.json", operations=[operation])
    (problem,) = refusal()
    assert said in problem


def test_companion_problems(migrations: Migrations, refusal: Refusal) -> None:
    """A line means the .sql file; a key of an operation that is no list's has no index."""
    migrations.write("postgresql/001_a.json", "1.0.0")
    migrations.text("postgresql/001_a.sql", "SELECT 1;\nBEGIN;\n")
    migrations.write("postgresql/002_b.json", "1.1.0", alone="maybe")
    migrations.write("postgresql/003_c.json", "1.2.0")
    migrations.text("postgresql/003_c.sql", "")
    assert refusal() == [
        "postgresql/001_a.sql, line 2: no BEGIN here.",
        (
            "postgresql/002_b.json, line 6, alone: must be a valid boolean, unable to "
            "interpret input. Correct it."
        ),
        "postgresql/003_c.sql, line 1: it is empty. Write some.",
    ]


def test_everything_at_once(migrations: Migrations, refusal: Refusal) -> None:
    """One refusal shows the problems of every file, and those between files."""
    migrations.write("mongodb/001_a.json", "1.0.0", nmae="x", operations=[index(collection=5)])
    migrations.write("mongodb/002_b.json", "1.0.0", name=None, dependencies=["postgresql:1.0.0"])
    migrations.text("elasticsearch/001_a.json", "{")
    said = refusal()
    for part in ("unknown key 'nmae'", "must be a valid string", "'name' is missing",
                 "has the version 1.0.0, as mongodb/001_a.json has",
                 "dependencies[0]: depends on postgresql:1.0.0",
                 "elasticsearch/001_a.json, line 1, column 2: not valid JSON"):  # fmt: skip
        assert any(part in problem for problem in said), part


def test_dependency_on_a_file_that_cannot_be_read(migrations: Migrations, refusal: Refusal) -> None:
    """It may well be the one that is meant, so the dependency is not called unknown as well."""
    migrations.text("postgresql/001_a.json", "{")
    migrations.text("postgresql/001_a.sql", "SELECT 1;")
    migrations.write("mongodb/001_a.json", dependencies=["postgresql:1.0.0"])
    (problem,) = refusal()
    assert problem.startswith("postgresql/001_a.json, line 1")
