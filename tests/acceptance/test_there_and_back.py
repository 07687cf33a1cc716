"""Every operation that can be undone: kill -9 in it on both ways, and all is as it was before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import elasticsearch_state
import mongodb_state
import postgresql_state
import psycopg
import pytest
from disturbed import assert_nothing_left
from elasticsearch import Elasticsearch, helpers
from kill_points import Killing
from place import Place
from pymongo import MongoClient

from dharma_tasks.databases import NAMES

FORWARD = {
    "mongodb": (
        *("create_collection", "create_index", "drop_index"),
        *("add_field", "rename_field", "update_documents", "remove_field"),
    ),
    "postgresql": ("sql", "sql_statements", "sql_batch"),
    "elasticsearch": ("create_index", "reindex", "create_alias"),
}
"""What is killed in, by database. A rollback file of PostgreSQL has the same three kinds."""
BETWEEN = "WHERE id BETWEEN :batch_start AND :batch_end"
FILES: list[tuple[str, dict[str, Any], str, str]] = [
    (
        "plain",
        {},
        "ALTER TABLE users ADD extra int; UPDATE users SET n = n * 3",
        "ALTER TABLE users DROP extra; UPDATE users SET n = n / 3",
    ),
    (
        "alone",
        {"transactional": False},
        """CREATE INDEX CONCURRENTLY by_n ON users (n);
        UPDATE users SET n = n + 1;
        DROP INDEX CONCURRENTLY by_name""",
        """CREATE INDEX CONCURRENTLY by_name ON users (name);
        UPDATE users SET n = n - 1;
        DROP INDEX CONCURRENTLY by_n""",
    ),
    (
        "batched",
        {"batch": {"table": "users", "key": "id", "size": 20}},
        f"UPDATE users SET n = n + 7 {BETWEEN}",
        f"UPDATE users SET n = n - 7 {BETWEEN}",
    ),
]
"""PostgreSQL's: the name, how it is run, the way forward and the way back."""


class Both:
    """Data in three databases, the migrations, and everything that there is, to compare."""

    def __init__(self, place: Place, stack: ExitStack) -> None:
        self.place = place
        self.prefix = place.settings.namespace
        client = stack.enter_context(MongoClient[dict[str, Any]](place.url("mongodb")))
        self.mongodb = client.get_default_database()
        self.postgresql = stack.enter_context(
            psycopg.connect(place.url("postgresql"), autocommit=True)
        )
        self.elasticsearch = stack.enter_context(Elasticsearch(place.url("elasticsearch")))
        self._fill()
        self._write_mongodb()
        self._write_postgresql()
        self._write_elasticsearch()

    def state(self) -> dict[str, Any]:
        """All of it, but for the journals."""
        return {
            "mongodb": mongodb_state.state(self.mongodb),
            "postgresql": postgresql_state.state(self.postgresql, self.prefix),
            "elasticsearch": elasticsearch_state.state(self.elasticsearch, f"{self.prefix}-*"),
        }

    def states(self) -> set[str]:
        """The states of all migrations."""
        status = self.place.status()
        return {each["state"] for name in NAMES for each in status[name]["migrations"]}

    def _fill(self) -> None:
        users = self.mongodb["users"]
        users.insert_many(
            {"_id": n, "n": n, "name": f"name {n}", **({"added": n} if n % 3 else {})}
            for n in range(3000)
        )
        users.create_index("name", name="by_name")
        self.postgresql.execute(
            "CREATE TABLE users (id int PRIMARY KEY, n int, name text);"
            "CREATE INDEX by_name ON users (name);"
            "INSERT INTO users SELECT i, i, 'name ' || i FROM generate_series(1, 60) i"
        )
        old = f"{self.prefix}-old"
        one = {"number_of_replicas": 0}
        self.elasticsearch.indices.create(
            index=old, settings=one, aliases={f"{self.prefix}-alias": {"is_write_index": True}}
        )
        actions = ({"_index": old, "_id": str(n), "n": n} for n in range(60))
        helpers.bulk(self.elasticsearch, actions, refresh=True)

    def _write_mongodb(self) -> None:
        users = {"collection": "users", "keep_before_image": True}
        shapes = [
            {"type": "create_collection", "collection": "made"},
            {"type": "create_index", "collection": "users", "index": [["n", 1]]},
            {"type": "drop_index", "collection": "users", "index": "by_name"},
        ]
        documents = [
            {"type": "add_field", "field": "added", "value": "ours", **users},
            {"type": "rename_field", "old_name": "name", "new_name": "title", **users},
            {"type": "update_documents", "filter": {}, "update": {"$inc": {"n": 1}}, **users},
            {"type": "remove_field", "field": "n", **users},
        ]
        self.place.write("mongodb", "001_shapes", {"version": "1.0.0", "operations": shapes})
        self.place.write("mongodb", "002_documents", {"version": "1.1.0", "operations": documents})

    def _write_postgresql(self) -> None:
        for number, (name, how, forward, back) in enumerate(FILES, start=1):
            definition = {"version": f"1.{number}.0", **how}
            self.place.write("postgresql", f"00{number}_{name}", definition, forward)
            self.place.write("postgresql", f"00{number}_{name}_rollback", definition, back)

    def _write_elasticsearch(self) -> None:
        old, new = f"{self.prefix}-old", f"{self.prefix}-new"
        alias = {"alias": f"{self.prefix}-alias", "exclusive": True}
        operations = [
            {"type": "create_index", "index": new, "settings": {"number_of_replicas": 0}},
            {"type": "reindex", "source": old, "dest": new},
            {"type": "create_alias", "index": new, **alias},
        ]
        self.place.write(
            "elasticsearch", "001_copy", {"version": "1.0.0", "operations": operations}
        )


@pytest.fixture
def both(place: Place) -> Iterator[Both]:
    """All of it. A short lease: what is left of a dead worker's is gone soon."""
    place.settings = place.settings.model_copy(update={"lease_seconds": 2.0})
    with ExitStack() as stack:
        yield Both(place, stack)


def points(*names: str) -> list[str]:
    """These points in each database and kind of operation."""
    return [
        f"{name}.{database}.{kind}"
        for name in names
        for database, kinds in FORWARD.items()
        for kind in kinds
    ]


CASES = [
    pytest.param([], ["batch"], id="back"),
    pytest.param(
        ["taken", "batch", "unacknowledged"],
        ["taken", "batch", "unacknowledged"],
        id="forward and back",
        marks=pytest.mark.campaign,
    ),
]
"""Where the child is killed on each way; `batch` is after its effect, before its checkpoint."""


@pytest.mark.parametrize(("forward", "back"), CASES)
def test_killed_in_every_operation(
    both: Both, tmp_path: Path, forward: list[str], back: list[str]
) -> None:
    """Undone it is as it was, byte for byte; applied again it is as after the first time."""
    killing = Killing(both.place, tmp_path)
    killing.start_worker()
    before = both.state()
    killing.arm(*points(*forward))
    both.place.submit()
    assert killing.left() == []
    assert both.states() == {"applied"}
    applied = both.state()
    assert all(applied[name] != before[name] for name in NAMES)
    killing.arm(*points(*back))
    both.place.dharma("rollback", "0.0.0", "--yes")
    assert killing.left() == []
    assert both.states() == {"rolled_back"}
    assert both.state() == before
    assert mongodb_state.kept(both.mongodb) == 0
    both.place.submit()
    assert both.state() == applied
    assert_nothing_left(both.place)
