"""Folders that somebody has filled with malice: each is read, or refused with a clear message."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dharma_tasks.bounds import Bounds
from dharma_tasks.errors import Refused
from dharma_tasks.loader import load
from dharma_tasks.migration import JSON
from dharma_tasks.settings import Settings
from dharma_tasks.strict_json import parse

SECONDS = 10
"""What a file of the largest size may take; what is quadratic would take hours."""

texts = st.text(st.characters(codec="utf-8")) | st.sampled_from(
    [
        "",
        "\0",
        "a.b",
        "$set",
        "'",
        '"',
        "`;--",
        "../../etc/passwd",
        "users\u202e",
        "\u0430dmin",
        "x" * 10_000,
    ]
)
numbers = st.integers() | st.floats() | st.just(10**400)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(texts, below, max_size=4),
    max_leaves=10,
)
KINDS: dict[str, list[JSON]] = {
    "mongodb": [
        {"type": "create_index", "collection": "users", "index": [["email", 1]]},
        {"type": "add_field", "collection": "users", "field": "a", "value": 1},
        {"type": "update_documents", "collection": "u", "filter": {}, "update": {"$set": {"a": 1}}},
        {"type": "create_collection", "collection": "users", "options": {}},
        {"type": "insert_documents", "collection": "users", "documents": [{"_id": 1}]},
    ],
    "elasticsearch": [
        {"type": "create_index", "index": "a", "mapping": {"properties": {}}},
        {"type": "create_alias", "index": "a", "alias": "b"},
        {"type": "reindex", "source": {"index": "a"}, "dest": {"index": "b"}},
        {"type": "update_settings", "index": "a", "settings": {"refresh_interval": "5s"}},
    ],
}


def content(database: str, **changes: Any) -> JSON:
    """A right file, but for `changes`."""
    whole = {
        "version": "1.0.0",
        "name": "a name",
        "database_type": database,
        "migration_type": "schema",
    }
    return whole | changes


def loaded(files: Iterable[tuple[str, bytes]], bounds: Bounds | None = None) -> list[str]:
    """Load a folder with these files; what it was refused for, every line printable as UTF-8."""
    with tempfile.TemporaryDirectory() as folder:
        for name, raw in files:
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(raw)
        try:
            load(Path(folder), bounds=bounds or Bounds())
        except Refused as refused:
            said = [str(problem) for problem in refused.problems]
            assert "\n".join(said).encode()
            return said
    return []


@given(raw=st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """Whatever the bytes of both files are, nothing but a refusal that names the file comes."""
    said = loaded([("mongodb/001_a.json", raw)])
    assert said
    assert all(each.startswith("mongodb/001_a.json") for each in said)
    right = json.dumps(content("postgresql")).encode()
    loaded([("postgresql/001_a.json", right), ("postgresql/001_a.sql", raw)])


@given(data=st.data())
def test_any_value_anywhere(data: st.DataObject) -> None:
    """A right file in which one key, of the file or of its operation, holds something else."""
    database = data.draw(st.sampled_from(sorted(KINDS)))
    operation = dict(data.draw(st.sampled_from(KINDS[database])))
    file = content(database, operations=[operation])
    target = data.draw(st.sampled_from([file, operation]))
    target[data.draw(st.sampled_from(sorted(target)) | texts)] = data.draw(values)
    loaded([(f"{database}/001_a.json", json.dumps(file, allow_nan=True).encode())])


@given(document=st.dictionaries(texts, values, max_size=4))
def test_what_is_read_is_what_is_written(document: JSON) -> None:
    """A document is read as it is, or refused: NaN is, and numbers that no one can hold."""
    try:
        read, _ = parse(json.dumps(document).encode())
    except Refused:
        assert any(_unfit(value) for value in _leaves(document))
    else:
        assert read == document
        assert not any(_unfit(value) for value in _leaves(document))


def _leaves(value: Any) -> Iterable[Any]:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    yield value
    for each in below:
        yield from _leaves(each)


def _unfit(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


@given(key=texts, other=texts)
def test_a_key_twice(key: str, other: str) -> None:
    """However a key is spelled, the second one of that name is seen."""
    spelled = "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in key)
    raw = f'{{{json.dumps(other)}: {{{json.dumps(key)}: 1, "{spelled}": 2}}}}'.encode()
    with pytest.raises(Refused, match="is there twice"):
        parse(raw)


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=60)


@given(name=names.filter(lambda name: name not in (".", "..")))
def test_any_file_name(name: str) -> None:
    """A name that cannot be read is refused, or it is one that is never looked at."""
    right = json.dumps(content("mongodb", operations=[KINDS["mongodb"][0]])).encode()
    loaded([(f"mongodb/{name}.json", right)])


BIG = 600_000
FLOODS = {
    "no numbers": b'{"a": [' + b"NaN," * (BIG // 4) + b"1]}",
    "duplicates": b"{" + b'"a":1,' * (BIG // 6) + b'"b":1}',
    "one duplicate": b'{"a":1,"a":[' + b"{}," * (BIG // 3) + b"1]}",
    "unknown keys": b"{" + b",".join(b'"k%d":1' % n for n in range(BIG // 30)) + b"}",
    "half pairs": b'{"a": [' + b'"\\ud800",' * (BIG // 9) + b"1]}",
    "levels": b'{"a":' + b"[" * BIG,
    "operations": b'{"operations":[' + b"{}," * (BIG // 60) + b"{}]}",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_mistakes(flood: str) -> None:
    """Much of mistakes are refused in seconds, with a message that a person can read."""
    begun = time.monotonic()
    said = loaded([("mongodb/001_a.json", FLOODS[flood])])
    assert time.monotonic() - begun < SECONDS
    assert 0 < len(said) <= 110


@pytest.mark.parametrize("name", ["postgresql/001_a.json", "postgresql/001_a.sql"])
def test_a_file_that_is_too_large(name: str, tmp_path: Path) -> None:
    """100 MB are refused by the file's name and the setting's, and are not read."""
    (tmp_path / "postgresql").mkdir()
    (tmp_path / "postgresql/001_a.json").write_text(json.dumps(content("postgresql")))
    (tmp_path / "postgresql/001_a.sql").write_text("SELECT 1")
    with (tmp_path / name).open("r+b") as file:
        file.truncate(100_000_000)
    with pytest.raises(Refused) as caught:
        load(tmp_path)
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"{name}: larger than 16 MB. ")
    assert "DHARMA_MAX_FILE_MB" in str(problem)


def test_limits_are_settings() -> None:
    """Each limit is taken from its setting, and what is beyond it says what the limit is."""
    bounds = Bounds.of(
        Settings(_env_file=None, max_file_mb=0.001, max_depth=10, max_files=2, max_name=10)
    )
    file = content("mongodb", operations=[KINDS["mongodb"][0]])

    def said(count: int = 1, **changes: Any) -> str:
        raw = json.dumps(file | changes).encode()
        return "\n".join(loaded([(f"mongodb/00{n}_a.json", raw) for n in range(count)], bounds))

    deep: Any = 1
    for _ in range(12):
        deep = [deep]
    assert not said()
    assert "larger than 0.001 MB" in said(description="x" * 1000)
    assert "nested deeper than 10 levels" in said(other=deep)
    assert "name: has 11 characters, and may have 10" in said(name="x" * 11)
    assert "3 migrations, and no more than 2" in said(3)
