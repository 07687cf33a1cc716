"""Somebody writes to Redis, and has no key: workers do nothing of what is wanted there."""

from __future__ import annotations

import base64
import json
import pickle
import uuid
from typing import Any

import psycopg
from place import DEADLINE, Place, wait_for
from redis import Redis

from dharma_tasks.redis_client import connect_redis
from dharma_tasks.run import RunState

SLOW = "CREATE TABLE begun (id int); SELECT pg_sleep(2)"
DROP = "DROP TABLE step1"


def tables(place: Place) -> set[str]:
    """What the test's own database has, without the journal."""
    with psycopg.connect(place.url("postgresql")) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in found if not name.startswith(place.settings.namespace)}


def attacker(place: Place) -> Any:
    """Redis, all of it."""
    return connect_redis(place.settings)


def newest(redis: Redis, place: Place) -> str:
    """The run that was submitted last."""
    found: Any = redis.keys(f"{place.settings.namespace}:run:*:migrations")
    return max(str(key).split(":")[2] for key in found)


def garbage(
    redis: Any, place: Place, task: str, body: bytes, kind: str = "json", **changed: Any
) -> None:
    """Put a message into the queue, as the broker's envelope has it, but for what is `changed`."""
    number = str(uuid.uuid4())
    envelope = {
        "body": base64.b64encode(body).decode(),
        "content-encoding": "utf-8" if kind == "json" else "binary",
        "content-type": "application/json" if kind == "json" else "application/x-python-serialize",
        "headers": {"lang": "py", "task": task, "id": number, "root_id": number},
        "properties": {
            "correlation_id": number,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "postgresql"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
        **changed,
    }
    redis.lpush(f"{place.settings.namespace}:postgresql", json.dumps(envelope))


def arguments(**given: Any) -> bytes:
    """The body of a message."""
    return json.dumps([[], given, {}]).encode()


def test_who_writes_to_redis_has_nothing_executed(place: Place) -> None:
    """Other SQL in the middle of a run, a run of one's own, an old rollback (FAULTS 27)."""
    redis, prefix = attacker(place), f"{place.settings.namespace}:"
    place.write("postgresql", "001_one", {"version": "1.0.0"}, "CREATE TABLE step1 (id int)")
    place.write("postgresql", "001_one_rollback", {"version": "1.0.0"}, DROP)
    place.start_worker("-Q", "postgresql")
    place.submit()
    place.dharma("rollback", "0.0.0", "--yes")
    rollback = newest(redis, place)
    old = {key: redis.dump(key) for key in redis.keys(f"{prefix}run:{rollback}*")}
    assert tables(place) & {"step1"} == set()
    place.submit()

    place.write("postgresql", "002_slow", {"version": "1.1.0"}, SLOW)
    place.write("postgresql", "003_more", {"version": "1.2.0"}, "CREATE TABLE more (id int)")
    before = newest(redis, place)
    submitted = place.start_submit()
    wait_for(lambda: newest(redis, place) > before, "the run")
    run = f"{prefix}run:{newest(redis, place)}"
    wait_for(lambda: redis.hget(run, "working:postgresql") == "1.1.0 1", "its first migration")
    forged = redis.hget(f"{run}:migrations", "postgresql:1.2.0")
    redis.hset(
        f"{run}:migrations", "postgresql:1.2.0", forged.replace("CREATE TABLE more (id int)", DROP)
    )
    out, err = submitted.communicate(timeout=DEADLINE)
    assert submitted.returncode == 1, f"{out}\n{err}\n{place.logs_text()}"
    assert "a migration in the run's record was changed in Redis" in out + err
    assert tables(place) >= {"step1", "begun"}
    assert "more" not in tables(place)

    unsigned = place.dharma("submit", "--target", "latest", status=2, DHARMA_SIGNING_KEY="")
    assert "Set DHARMA_SIGNING_KEY to the one that the workers have" in unsigned.stderr

    for changed in (
        {"state": RunState.RUNNING, "working:postgresql": "1.0.0 2"},
        {"state": "planning"},
    ):
        for key, value in old.items():
            redis.restore(key, 0, value, replace=True)
        redis.hset(f"{prefix}run:{rollback}", mapping=changed)
        redis.hset(f"{prefix}active", "postgresql", rollback)
        redis.sadd(f"{prefix}runs", rollback)
        message = {"run": rollback, "database": "postgresql"}
        garbage(redis, place, "dharma_tasks.survey", arguments(**message))
        wait_for(
            lambda: place.runs.state(rollback) in {RunState.REFUSED, RunState.FAILED}, "an end"
        )
    assert "step1" in tables(place)

    place.submit()
    assert tables(place) >= {"step1", "begun", "more"}
    assert place.workers[0].poll() is None


def test_a_worker_survives_garbage(place: Place) -> None:
    """What is no JSON, no task, no run, or has other arguments, is refused; the worker goes on.

    None of it stays with the worker, which would take no more when it has as many as it may have.
    """
    redis = attacker(place)
    place.start_worker("-Q", "postgresql")
    for headers in ({"task": "os.system"}, {"task": []}, {"task": {}}, {}, [], 7, None):
        garbage(redis, place, "", b"[]", headers=headers)
    for tag in ("one", "one", True, None, [], {}):
        delivery = {"exchange": "", "routing_key": "postgresql"}
        given = {"delivery_tag": tag, "delivery_info": delivery, "body_encoding": "base64"}
        garbage(redis, place, "", b"[]", headers={"task": []}, properties=given)
    deep: list[Any] = []
    for _ in range(900):  # JSON just so, and not what the pool's pipe carries
        deep = [deep]
    for more in ({"timelimit": 7}, {"timelimit": ["x", "y"]}, {"more": deep}):
        for number in range(4):  # one for each child of the pool
            headers = {"task": "dharma_tasks.survey", "id": f"{number}", **more}
            garbage(redis, place, "", arguments(run="none", database="x"), headers=headers)
    older = json.dumps({"args": [], "kwargs": {}, "callbacks": deep}).encode()
    for number in range(4):
        headers = {"task": "dharma_tasks.survey", "id": f"{number}"}
        garbage(redis, place, "", older, headers=headers)
    garbage(redis, place, "dharma_tasks.survey", json.dumps([deep, {}, {}]).encode())
    for entry in (b"\xff", b"no JSON", b"7", b"{}", b'{"properties": 1}', b"[" * 100_000):
        redis.lpush(f"{place.settings.namespace}:postgresql", entry)
    for body in (b"\x00", b"{}", b"[]", b"[[], 7, {}]", b"[" * 100_000, b'"' + b"x" * 5_000_000):
        garbage(redis, place, "dharma_tasks.survey", body)
    garbage(redis, place, "dharma_tasks.survey", pickle.dumps([[], {}, {}]), "pickle")
    garbage(redis, place, "os.system", arguments(command="true"))
    garbage(redis, place, "dharma_tasks.survey", arguments(sql="DROP TABLE users"))
    garbage(redis, place, "dharma_tasks.survey", arguments(run="none", database="postgresql"))
    garbage(redis, place, "dharma_tasks.survey", arguments(run=7, database=["x"]))
    garbage(redis, place, "dharma_tasks.declare", arguments(reply="x"))
    garbage(redis, place, "dharma_tasks.declare", arguments())
    operation = {"run": "none", "version": "1.0.0", "operation": "DROP TABLE users"}
    garbage(redis, place, "dharma_tasks.postgresql.sql", arguments(**operation))
    queued, kept = (f"{place.settings.namespace}:{name}" for name in ("postgresql", "unacked"))
    wait_for(lambda: not (redis.llen(queued) or redis.hlen(kept)), "all of it to be gone")
    place.write("postgresql", "001_one", {"version": "1.0.0"}, "CREATE TABLE step1 (id int)")
    place.submit()
    assert "step1" in tables(place)
    assert place.workers[0].poll() is None, place.log()
