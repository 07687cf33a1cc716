"""What bulk operations let a user say of their batches, and that it is no part of their meaning."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dharma_tasks.databases import NAMES
from dharma_tasks.migration import Migration
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.paced import Throttled
from dharma_tasks.operations.postgresql.files import read
from dharma_tasks.pace import LARGEST, Bounds

RENAME = {"type": "rename_field", "collection": "c", "old_name": "a", "new_name": "b"}
REINDEX = {"type": "reindex", "source": "a", "dest": "b"}


def migration(**parameters: object) -> Migration:
    """A migration whose one operation has these too."""
    return Migration(
        database="mongodb",
        version="1.0.0",
        name="n",
        migration_type="data",
        operations=({**RENAME, **parameters},),
        file="mongodb/001_n.json",
    ).with_checksum()


def test_which_operations_are_paced() -> None:
    """All that go through documents or rows batch by batch."""
    kinds = {name: catalogue(name).operations.items() for name in NAMES}
    found = {kind for each in kinds.values() for kind, made in each if issubclass(made, Throttled)}
    assert found == {
        *("add_field", "remove_field", "rename_field", "update_documents"),
        *("sql_batch", "reindex", "update_by_query"),
    }


def parsed(database: str, operation: dict[str, Any]) -> Operation[Any]:
    """The operation that a worker makes of it."""
    return catalogue(database).parse(operation)


def test_bounds_of_each_database() -> None:
    """They are said in the same words."""
    assert parsed("mongodb", RENAME).bounds() == Bounds()
    batch = {"min": 10, "max": 20, "seconds": 0.5}
    wanted = Bounds(10, 20, 0.5, 100)
    assert parsed("mongodb", {**RENAME, "batch": batch, "throttle": 100}).bounds() == wanted
    sql = {"type": "sql_batch", "sql": "", "table": "t", "key": "id"}
    assert parsed("postgresql", {**sql, "batch": batch, "throttle": 100}).bounds() == wanted
    assert parsed("postgresql", {**sql, "size": 70}).bounds() == Bounds(70, 70)
    found = parsed("elasticsearch", {**REINDEX, "batch": {"max": 7}, "throttle": 100})
    assert found.bounds() == Bounds(most=LARGEST, rate=100)


@pytest.mark.parametrize(
    "wrong",
    [
        {"throttle": 0},
        {"throttle": -1},
        {"throttle": float("inf")},
        {"batch": {"min": 0}},
        {"batch": {"min": 10, "max": 9}},
        {"batch": {"seconds": 0}},
        {"batch": {"size": 5}},
    ],
)
def test_refused(wrong: dict[str, Any]) -> None:
    """What no batch can keep to."""
    with pytest.raises(ValidationError):
        parsed("mongodb", {**RENAME, **wrong})


def test_how_fast_is_not_what() -> None:
    """An applied or a half done file may be slowed down: the journal knows it all the same.

    So may whoever was refused for want of disk space say that he knows better.
    """
    plain = migration()
    assert migration(throttle=5, batch={"max": 3}).checksum == plain.checksum
    assert migration(check_disk=False).checksum == plain.checksum
    assert migration(filter={"x": 1}).checksum != plain.checksum


def test_a_rate_that_is_a_value_is_not_what_either() -> None:
    """From `--set RATE=…`: it may be another one in each run."""
    written = migration(throttle={"$value": "RATE"})
    fast, slow = (written.resolved([{**RENAME, "throttle": rate}]) for rate in (100, 1))
    assert fast.stamp == slow.stamp == migration().stamp


def test_in_the_batch_of_a_sql_file() -> None:
    """All keys stand side by side in the JSON, and problems name them there."""
    batch: dict[str, Any] = {"table": "t", "key": "id", "min": 5, "max": 9, "throttle": 3}
    ([operation], problems) = read({"batch": batch}, b"SELECT 1")
    assert problems == []
    assert parsed("postgresql", operation).bounds() == Bounds(5, 9, None, 3)
    _, problems = read({"batch": {**batch, "seconds": -1}}, b"SELECT 1")
    assert [problem.place for problem in problems] == ["batch.seconds"]
    _, problems = read({"batch": {**batch, "throtle": 1}}, b"SELECT 1")
    assert ["throttle" in problem.todo for problem in problems] == [True]
