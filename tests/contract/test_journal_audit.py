"""The audit trail on the real databases: what a person did to a run is there, once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from elasticsearch import Elasticsearch
from psycopg.rows import dict_row
from pymongo import MongoClient

from dharma_tasks.databases import NAMES, Database, connect
from dharma_tasks.journal import Entry, Opening
from dharma_tasks.migration import Key
from dharma_tasks.records import Direction, Owner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Assignment, Step

pytestmark = pytest.mark.parametrize("name", NAMES)

WHAT = ("event", "run", "by", "version", "number", "detail")


def url(settings: Settings, name: str) -> str:
    """Where a database is."""
    found = settings.url(name)
    assert found is not None
    return found.get_secret_value()


def history(settings: Settings, name: str) -> list[dict[str, Any]]:
    """Every entry, read by hand."""
    ours = f"{settings.namespace}_history"
    where = url(settings, name)
    if name == "postgresql":
        with psycopg.connect(where, row_factory=dict_row) as connection:
            return connection.execute(f"SELECT * FROM public.{ours} ORDER BY at").fetchall()
    if name == "mongodb":
        with MongoClient[dict[str, Any]](where) as client:
            return list(client.get_default_database()[ours].find().sort("at"))
    with Elasticsearch(where) as client:
        client.indices.refresh(index=ours)
        hits = client.search(index=ours, sort="at", size=1000)["hits"]["hits"]
        return [hit["_source"] for hit in hits]


@pytest.fixture
def new(name: str, settings: Settings) -> Iterator[Callable[[], Database[Any]]]:
    """Make connections, each as another worker has it, to a database whose journal is made."""
    made: list[Database[Any]] = []

    def make() -> Database[Any]:
        made.append(connect(name, settings))
        return made[-1]

    make().journal.begin(Opening("run-1", Direction.FORWARD, "plan", "somebody"), 0)
    yield make
    for database in made:
        database.close()


def entry(name: str, detail: str = "lease 1 of w (pid 7 on n)") -> Entry:
    """What an unlock writes."""
    key = Key(database=name, version="1.0.0", number=2)
    return Entry("unlocked", "run-1", "me@here", key, detail)


def unlocked(settings: Settings, name: str) -> list[tuple[Any, ...]]:
    """The entries of unlocks, without their time."""
    found = [each for each in history(settings, name) if each["event"] == "unlocked"]
    assert all(each["at"] for each in found)
    return [tuple(each[field] for field in WHAT) for each in found]


def test_an_entry_says_who_did_what(
    name: str, settings: Settings, new: Callable[[], Database[Any]]
) -> None:
    """It is beside the journal's own entries, which stay."""
    before = history(settings, name)
    assert before
    new().journal.audit(entry(name))
    assert unlocked(settings, name) == [
        ("unlocked", "run-1", "me@here", "1.0.0", 2, "lease 1 of w (pid 7 on n)")
    ]
    assert len(history(settings, name)) == len(before) + 1


def test_a_replay_adds_nothing(
    name: str, settings: Settings, new: Callable[[], Database[Any]]
) -> None:
    """The same entry again, by the same worker and by four at once; another one is another."""
    workers = [new() for _ in range(4)]
    workers[0].journal.audit(entry(name))
    workers[0].journal.audit(entry(name))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda worker: worker.journal.audit(entry(name, "two")), workers))
    workers[1].journal.audit(replace(entry(name), by="another@here"))
    assert [each[2:] for each in unlocked(settings, name)] == [
        ("me@here", "1.0.0", 2, "lease 1 of w (pid 7 on n)"),
        ("me@here", "1.0.0", 2, "two"),
        ("another@here", "1.0.0", 2, "lease 1 of w (pid 7 on n)"),
    ]


def test_an_entry_disturbs_nobody(
    name: str, settings: Settings, new: Callable[[], Database[Any]]
) -> None:
    """A worker in the middle of a batch commits it, though an entry was written meanwhile."""
    owner = new()
    key = Key(database=name, version="1.0.0", number=1)
    assignment = Assignment("run-1", 1, "somebody", key, "first", "sum", "kind", 1)
    resources = owner.resources()
    me = Owner(worker="w", node="n", boot="b", pid=1, started=2.5, resources=resources)
    taken = owner.journal.take(assignment, me, counted=True)

    def batch(_handle: object) -> Step:
        new().journal.audit(entry(name))
        return Step(cursor="on", done=1)

    assert owner.journal.step(taken, batch, transactional=True).cursor == "on"
    assert len(unlocked(settings, name)) == 1
