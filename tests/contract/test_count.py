"""How many documents or rows there are, for the estimates of a plan: quickly, changing nothing."""

from __future__ import annotations

import time
from typing import Any

import psycopg
from elasticsearch import Elasticsearch
from pymongo import MongoClient
from pymongo.uri_parser import parse_uri

from dharma_tasks.databases import connect
from dharma_tasks.flow import asked
from dharma_tasks.flow.context import Context
from dharma_tasks.reading import COUNTS
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.settings import Settings

DEADLINE = 15


def count(settings: Settings, name: str, *names: str) -> dict[str, int | None]:
    """What a database says of these."""
    database = connect(name, settings)
    try:
        return database.count(names)
    finally:
        database.close()


def url(settings: Settings, name: str) -> str:
    """Where it is."""
    found = settings.url(name)
    assert found is not None
    return found.get_secret_value()


def test_mongodb(settings: Settings) -> None:
    """A view is there, and nobody knows how much it shows without looking."""
    address = url(settings, "mongodb")
    with MongoClient[dict[str, Any]](address) as client:
        documents = client[str(parse_uri(address)["database"])]
        documents["users"].insert_many({"n": n} for n in range(7))
        documents.create_collection("empty")
        documents.create_collection("seen", viewOn="users", pipeline=[])
    found = count(settings, "mongodb", "users", "empty", "seen", "missing")
    assert found == {"users": 7, "empty": 0, "seen": None}


def test_postgresql(settings: Settings) -> None:
    """Partitions are added up; what never was analysed is counted as it grows."""
    with psycopg.connect(url(settings, "postgresql"), autocommit=True) as connection:
        connection.execute("""
            CREATE TABLE users (id int);
            CREATE TABLE untouched (id int);
            CREATE TABLE emptied (id int);
            CREATE VIEW seen AS SELECT * FROM users;
            CREATE SCHEMA s;
            CREATE TABLE s."Old Users" (id int) PARTITION BY RANGE (id);
            CREATE TABLE s.low PARTITION OF s."Old Users" FOR VALUES FROM (0) TO (50);
            CREATE TABLE s.high PARTITION OF s."Old Users" FOR VALUES FROM (50) TO (90);
            INSERT INTO users SELECT generate_series(1, 300);
            INSERT INTO s."Old Users" SELECT generate_series(0, 69);
        """)
        connection.execute("VACUUM emptied")
        connection.execute("ANALYZE s.low; SELECT pg_stat_force_next_flush()")
    names = ("users", "public.users", "untouched", "emptied", "seen", 's."Old Users"')
    names += ("missing", "a.b.c.d", '"')
    until = time.monotonic() + DEADLINE
    while (found := count(settings, "postgresql", *names)).get("users") != 300:
        assert time.monotonic() < until, found
        time.sleep(0.05)
    assert found == {
        "users": 300,
        "public.users": 300,
        "untouched": None,
        "emptied": 0,
        "seen": None,
        's."Old Users"': 70,
    }


def test_elasticsearch(settings: Settings) -> None:
    """An alias counts like what it stands for; a closed index says nothing."""
    index = f"{settings.namespace}-users"
    with Elasticsearch(url(settings, "elasticsearch")) as client:
        for number in range(3):
            client.index(index=index, document={"n": number})
        client.indices.refresh(index=index)
        client.indices.put_alias(index=index, name=f"{index}-alias")
        client.indices.create(index=f"{index}-closed")
        client.indices.close(index=f"{index}-closed")
    names = (index, f"{index}-alias", f"{index}-closed", f"{index}-missing")
    found = count(settings, "elasticsearch", *names)
    assert found == {index: 3, f"{index}-alias": 3, f"{index}-closed": None}


def test_through_a_worker(settings: Settings) -> None:
    """Who has no URL is told the same; names are all that a worker is given."""
    index, reply = f"{settings.namespace}-users", f"{settings.namespace}:reply"
    with Elasticsearch(url(settings, "elasticsearch")) as client:
        client.index(index=index, document={}, refresh=True)
    redis = connect_redis(settings)
    context = Context(settings, redis, worker="w", shutting_down=lambda: False)
    try:
        wanted = asked.Wanted(count=[index, "missing"])
        assert asked.read(context, "elasticsearch", reply, wanted) == []
        _, answer = redis.blpop([reply], timeout=1)
    finally:
        context.close()
        redis.close()
    assert COUNTS.validate_json(answer) == {index: 1}
