"""Every operation there is: kill -9 in it on both ways, and all is as it was before."""

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
from dharma_tasks.operations import catalogue

FINAL = {"mongodb.drop_collection", "elasticsearch.update_mapping", "elasticsearch.delete_index"}
"""What nobody can undo: rollback files do it, with operations of other kinds."""
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
        self._fill_databases()
        self._fill_elasticsearch()
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

    def _fill_databases(self) -> None:
        validation = {"validationLevel": "moderate", "validationAction": "warn"}
        users = self.mongodb.create_collection(
            "users", validator={"_id": {"$gte": 0}}, **validation
        )
        users.insert_many(
            {"_id": n, "n": n, "name": f"name {n}", **({"added": n} if n % 3 else {})}
            for n in range(3000)
        )
        users.create_index("name", name="by_name")
        self.mongodb["gone"].insert_one({"_id": 1, "may": ["come", "back"]})
        self.postgresql.execute(
            "CREATE TABLE users (id int PRIMARY KEY, n int, name text);"
            "CREATE INDEX by_name ON users (name);"
            "INSERT INTO users SELECT i, i, 'name ' || i FROM generate_series(1, 60) i"
        )

    def _fill_elasticsearch(self) -> None:
        old, one = f"{self.prefix}-old", {"number_of_replicas": 0}
        aliases = {
            f"{self.prefix}-alias": {"is_write_index": True},
            f"{self.prefix}-few": {"filter": {"range": {"n": {"lt": 9}}}},
        }
        self.elasticsearch.indices.create(index=old, settings=one, aliases=aliases)
        fields = {"properties": {"n": {"type": "long"}}}  # what a mapping has got it keeps
        for name in ("copies", "gone"):
            self.elasticsearch.indices.create(
                index=f"{self.prefix}-{name}", settings=one, mappings=fields
            )
        actions = ({"_index": old, "_id": str(n), "n": n} for n in range(60))
        helpers.bulk(self.elasticsearch, actions, refresh=True)

    def _write_mongodb(self) -> None:
        users = {"collection": "users", "keep_before_image": True}
        more = [{"_id": n, "n": n, "name": "more"} for n in range(3000, 3009)]
        shapes = [
            {"type": "create_collection", "collection": "made"},
            {"type": "insert_documents", "collection": "users", "documents": more},
            {"type": "modify_collection", "collection": "users", "validator": {}, "level": "off"},
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
        drop = {
            "version": "1.2.0",
            "operations": [{"type": "drop_collection", "collection": "gone"}],
        }
        again = [
            {"type": "create_collection", "collection": "gone"},
            {"type": "insert_documents", "collection": "gone",
             "documents": [{"_id": 1, "may": ["come", "back"]}]},
        ]  # fmt: skip
        self.place.write("mongodb", "003_drop", drop)
        self.place.write("mongodb", "003_drop_rollback", {"version": "1.2.0", "operations": again})

    def _write_postgresql(self) -> None:
        for number, (name, how, forward, back) in enumerate(FILES, start=1):
            definition = {"version": f"1.{number}.0", **how}
            self.place.write("postgresql", f"00{number}_{name}", definition, forward)
            self.place.write("postgresql", f"00{number}_{name}_rollback", definition, back)

    def _write_elasticsearch(self) -> None:
        old, new, gone = (f"{self.prefix}-{name}" for name in ("old", "new", "gone"))
        alias = {"alias": f"{self.prefix}-alias", "exclusive": True}
        one = {"number_of_replicas": 0}
        copy = [
            {"type": "create_index", "index": new, "settings": one},
            {"type": "reindex", "source": old, "dest": f"{self.prefix}-copies"},
            {"type": "create_alias", "index": new, **alias},
            {"type": "update_settings", "index": old, "settings": {"refresh_interval": "9s"}},
            {"type": "update_by_query", "index": old},
            {"type": "delete_alias", "alias": f"{self.prefix}-few"},
        ]
        self.place.write("elasticsearch", "001_copy", {"version": "1.0.0", "operations": copy})
        mapping = {"properties": {"more": {"type": "keyword"}}}
        final = [
            {"type": "update_mapping", "index": new, "mapping": mapping},
            {"type": "delete_index", "index": gone},
        ]
        self.place.write("elasticsearch", "002_gone", {"version": "1.1.0", "operations": final})
        fields = {"properties": {"n": {"type": "long"}}}
        again = {"type": "create_index", "index": gone, "settings": one, "mapping": fields}
        self.place.write(
            "elasticsearch", "002_gone_rollback", {"version": "1.1.0", "operations": [again]}
        )


@pytest.fixture
def both(place: Place) -> Iterator[Both]:
    """All of it. A short lease: what is left of a dead worker's is gone soon."""
    place.settings = place.settings.model_copy(update={"lease_seconds": 2.0})
    with ExitStack() as stack:
        yield Both(place, stack)


def points(*names: str) -> list[str]:
    """These points in each database and every kind of operation that it has."""
    kinds = (f"{database}.{kind}" for database in NAMES for kind in catalogue(database).operations)
    return [f"{name}.{kind}" for kind in kinds for name in names]


def undone(*names: str) -> list[str]:
    """Those of them that are passed on the way back."""
    return [point for point in points(*names) if point.partition(".")[2] not in FINAL]


CASES = [
    pytest.param(["batch"], id="batch"),
    pytest.param(["taken", "batch", "unacknowledged"], id="all", marks=pytest.mark.campaign),
]
"""Where the child is killed, on each way; `batch` is after its effect, before its checkpoint."""


@pytest.mark.long
@pytest.mark.parametrize("where", CASES)
def test_killed_in_every_operation(both: Both, tmp_path: Path, where: list[str]) -> None:
    """Undone it is as it was, byte for byte; applied again it is as after the first time."""
    killing = Killing(both.place, tmp_path)
    killing.start_worker()
    before = both.state()
    killing.arm(*points(*where))
    both.place.submit()
    assert killing.left() == []
    assert both.states() == {"applied"}
    applied = both.state()
    assert all(applied[name] != before[name] for name in NAMES)
    killing.arm(*undone(*where))
    both.place.dharma("rollback", "0.0.0", "--yes")
    assert killing.left() == []
    assert both.states() == {"rolled_back"}
    assert both.state() == before
    assert mongodb_state.kept(both.mongodb) == 1, (
        "the rollback file's own: the next begin removes it"
    )
    both.place.submit()
    assert both.state() == applied
    assert_nothing_left(both.place)
