"""What is only planned, or refused, on the four real engines: it leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from elasticsearch import Elasticsearch, helpers
from place import Place
from psycopg import sql
from pymongo.database import Database

from dharma_tasks.redis_client import connect_redis

COUNT = 1500
"""Documents: enough for a rate."""
Document = dict[str, Any]


@pytest.fixture
def elastic(place: Place) -> Iterator[Elasticsearch]:
    """A client of the test's Elasticsearch."""
    with Elasticsearch(place.url("elasticsearch")) as client:
        yield client


@pytest.fixture
def rows(place: Place) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the test's PostgreSQL database."""
    with psycopg.connect(place.url("postgresql"), autocommit=True) as connection:
        yield connection


@pytest.fixture
def filled(place: Place, mongodb: Database[Document], elastic: Elasticsearch, rows: Any) -> Place:
    """Documents and rows, and for each database a first migration that goes through them."""
    prefix = place.settings.namespace
    mongodb["users"].insert_many({"_id": n} for n in range(COUNT))
    rows.execute("CREATE TABLE orders (id int PRIMARY KEY, total int)")
    rows.execute(f"INSERT INTO orders SELECT n, n FROM generate_series(1, {COUNT}) AS n")
    rows.execute("ANALYZE orders")
    source = f"{prefix}-source"
    for name in (source, f"{prefix}-v1", f"{prefix}-v2"):
        elastic.indices.create(index=name)
    helpers.bulk(elastic, [{"_index": source, "_id": str(n), "n": n} for n in range(COUNT)])
    elastic.indices.refresh(index=source)

    for number in (1, 2):
        version, stem = f"1.{number}.0", f"00{number}_change"
        field = {"type": "add_field", "collection": "users", "field": f"f{number}", "value": 1}
        place.write("mongodb", stem, {"version": version, "operations": [field]})
        text = "UPDATE orders SET total = 1 WHERE id BETWEEN :batch_start AND :batch_end"
        batch = {"table": "orders", "key": "id"}
        place.write("postgresql", stem, {"version": version, "batch": batch}, text)
        copy = {"type": "reindex", "source": source, "dest": f"{prefix}-v{number}"}
        place.write("elasticsearch", stem, {"version": version, "operations": [copy]})
    text = "ALTER TABLE orders ALTER total TYPE bigint;\n"
    place.write("postgresql", "003_wider", {"version": "2.0.0"}, text)
    return place


@pytest.fixture
def dump(
    place: Place, mongodb: Database[Document], elastic: Elasticsearch, rows: Any
) -> Callable[[], Document]:
    """Everything that is anywhere."""
    prefix = place.settings.namespace
    redis = connect_redis(place.settings)

    def documents() -> Document:
        names = sorted(mongodb.list_collection_names())
        return {name: list(mongodb[name].find().sort("_id")) for name in names}

    def tables() -> Document:
        names = rows.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace ="
                             " 'public'::regnamespace").fetchall()  # fmt: skip
        query = sql.SQL("SELECT xmin, * FROM {} AS t ORDER BY t::text")
        return {n: rows.execute(query.format(sql.Identifier(n))).fetchall() for (n,) in names}

    def indices() -> Document:
        elastic.indices.refresh(index=f"{prefix}*")
        found = elastic.indices.get(index=f"{prefix}*").body
        hits = helpers.scan(elastic, index=f"{prefix}*", query={"seq_no_primary_term": True})
        return found | {"hits": sorted(hits, key=lambda hit: (hit["_index"], hit["_id"]))}

    def everything() -> Document:
        keys = {key: redis.dump(key) for key in redis.scan_iter(f"*{prefix}*")}
        return {"m": documents(), "p": tables(), "e": indices(), "r": keys}

    return everything


def assert_untouched(before: Document, after: Document) -> None:
    """Nothing is new or changed; of Redis' keys some may have come to their time."""
    assert after.pop("r").items() <= before.pop("r").items()
    assert after == before


def test_estimates_from_what_was_seen(filled: Place, dump: Callable[[], Document]) -> None:
    """How much there is, and how long it takes after one of its kind has run; no trace anywhere."""
    before = dump()
    first = json.loads(filled.dharma("plan", "--target", "1.1.0", "--json").stdout)
    assert_untouched(before, dump())
    estimates = {
        name: found[0]["operations"][0]["estimate"] for name, found in first["databases"].items()
    }
    assert {name: found["count"] for name, found in estimates.items()} == {
        "mongodb": COUNT,
        "postgresql": COUNT,
        "elasticsearch": COUNT,
    }
    assert {found["seconds"] for found in estimates.values()} == {None}

    filled.submit("--inline", "--target", "1.1.0")
    before = dump()
    second = json.loads(filled.dharma("submit", "--dry-run", "--allow-major", "--json").stdout)
    back = json.loads(
        filled.dharma(
            "plan", "--rollback-to", "0.0.0", "--databases", "mongodb,elasticsearch", "--json"
        ).stdout
    )
    assert_untouched(before, dump())

    for name, found in second["databases"].items():
        estimate = found[0]["operations"][0]["estimate"]
        assert estimate["count"] == COUNT
        complete = name != "postgresql"
        assert second["times"][name] == {"seconds": estimate["seconds"], "complete": complete}
        assert 0 < estimate["seconds"] < 60
    wider = second["databases"]["postgresql"][1]["operations"][0]
    assert (wider["heavy"], wider["estimate"]["count"]) == (True, COUNT)
    assert wider["blocking"][0].startswith("line 1: ALTER TABLE locks orders")
    for found in back["databases"].values():
        operation = found[0]["operations"][0]
        assert (operation["undo"], operation["estimate"]["count"]) == (True, COUNT)
        assert operation["estimate"]["seconds"] is None


def spoil(place: Place) -> None:
    """Change, remove and renumber files that are applied, and add one that comes late."""
    folder = place.folder
    changed = folder / "mongodb" / "001_change.json"
    changed.write_text(changed.read_text().replace('"value": 1', '"value": 2'))
    (folder / "mongodb" / "002_change.json").unlink()
    moved = folder / "elasticsearch" / "002_change.json"
    moved.write_text(moved.read_text().replace("1.2.0", "1.2.5"))
    place.write("postgresql", "000_late", {"version": "1.0.0"}, "CREATE TABLE late ()")


@pytest.mark.long
def test_refusals_leave_no_trace(filled: Place, dump: Callable[[], Document]) -> None:
    """Each reason in its own words, all at once; journals and data are what they were."""

    def refused(*arguments: str) -> str:
        before = dump()
        done = filled.dharma(*arguments, status=2)
        after = dump()
        assert [after[each] for each in "mpe"] == [before[each] for each in "mpe"]
        return " ".join(done.stderr.split())

    field = {"type": "add_field", "collection": "users", "field": "f3", "value": 1}
    needs = {"version": "1.3.0", "dependencies": ["postgresql:1.2.0"], "operations": [field]}
    filled.write("mongodb", "003_change", needs)
    said = refused("submit", "--inline", "--databases", "mongodb")
    assert "1.3.0 needs postgresql:1.2.0, which is pending and is not part of this run" in said
    assert "_head" not in str(dump()), "there is no journal yet"

    filled.submit("--inline", "--target", "1.3.0")
    spoil(filled)
    said = refused("submit", "--inline")
    assert "1.1.0 is applied, and its file was changed since" in said
    assert "1.2.0 (change) is applied, but has no file, while older and newer ones" in said
    assert "says the version 1.2.5, and is applied as 1.2.0. Put the version 1.2.0 back." in said
    assert "1.0.0 comes late: 1.2.0 is applied already" in said
    assert "takes postgresql from 1.2.0 to 2.0.0, a MAJOR version" in said
    assert "1.1.0 is applied, and its file was changed since" in refused(
        "submit", "--inline", "--rollback-to", "0.0.0", "--databases", "mongodb"
    )
    assert "1.1.0 is applied, and its file was changed since" in refused(
        "baseline", "1.3.0", "--yes"
    )
    assert "is applied: there is nothing to retry" in refused(
        "repair", "mongodb", "1.3.0", "--retry", "--yes"
    )
