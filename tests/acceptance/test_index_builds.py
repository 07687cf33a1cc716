"""An index build of MongoDB, which takes hours elsewhere: it ends with its run, and only then."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from failing import FailingMongod
from place import Place, wait_for
from pymongo import MongoClient
from pymongo.database import Database

from dharma_tasks.lease import Leases
from dharma_tasks.migration import Key
from dharma_tasks.redis_client import connect_redis

WITHIN = 15.0
"""Three looks at the statement, and a busy machine."""


@pytest.fixture
def users(place: Place, failing_mongod: FailingMongod) -> Iterator[Database[dict[str, Any]]]:
    """A collection on a server that stands still in a build, and a migration that builds."""
    failing_mongod.serve(place)
    index = {"type": "create_index", "collection": "users", "index": [["n", 1]]}
    place.write("mongodb", "001_index", {"version": "1.0.0", "operations": [index]})
    with MongoClient[dict[str, Any]](place.url("mongodb")) as client:
        database = client.get_default_database()
        database["users"].insert_many({"n": n} for n in range(100))
        yield database


def operations(database: Database[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the server does."""
    return list(database.client.admin.aggregate([{"$currentOp": {"allUsers": True}}]))


def building(database: Database[dict[str, Any]]) -> bool:
    """Whether the server builds an index."""
    return any("Index Build" in each.get("msg", "") for each in operations(database))


def commands(database: Database[dict[str, Any]]) -> set[str]:
    """The labels of the workers' commands that wait for a build."""
    found = [each["command"] for each in operations(database) if "msg" not in each]
    return {each["comment"] for each in found if "createIndexes" in each}


def attempts(place: Place) -> int:
    """How often the operation was begun without a word about its end."""
    (migration,) = place.status()["mongodb"]["migrations"]
    return int(migration["operations"][0]["attempts"])


@pytest.mark.long
@pytest.mark.parametrize("verb", ["pause", pytest.param("cancel", marks=pytest.mark.campaign)])
def test_a_build_ends_with_its_run(
    place: Place, users: Database[dict[str, Any]], failing_mongod: FailingMongod, verb: str
) -> None:
    """Within seconds, on the server too; nothing is left of the index until the run goes on."""
    place.start_worker()
    with failing_mongod.fails("hangAfterStartingIndexBuild"):
        submitted = place.start_submit()
        wait_for(lambda: building(users), "the index build")
        place.dharma(verb, *(["--yes"] if verb == "cancel" else []))
        wait_for(lambda: not building(users), "the end of the build", WITHIN)
        wait_for(lambda: set(users["users"].index_information()) == {"_id_"}, "no index", WITHIN)
        if verb == "pause":
            wait_for(lambda: attempts(place) == 0, "the note of an orderly stop", WITHIN)
    if verb == "pause":
        place.dharma("resume")
    out, err = submitted.communicate(timeout=60)
    assert submitted.returncode == (0 if verb == "pause" else 5), f"{out}\n{err}"
    expected = {"_id_", "n_1"} if verb == "pause" else {"_id_"}
    assert set(users["users"].index_information()) == expected


@pytest.mark.campaign
def test_a_build_outlives_a_worker_that_is_told_to_end(
    place: Place, users: Database[dict[str, Any]], failing_mongod: FailingMongod
) -> None:
    """The worker ends in order, the server goes on, and the next worker waits for the same one."""
    worker = place.start_worker()
    with failing_mongod.fails("hangAfterStartingIndexBuild"):
        submitted = place.start_submit()
        wait_for(lambda: building(users), "the index build")
        worker.terminate()
        assert worker.wait(timeout=WITHIN) == 0
        assert building(users)
        assert attempts(place) == 0
        place.start_worker()
    out, err = submitted.communicate(timeout=60)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    assert set(users["users"].index_information()) == {"_id_", "n_1"}


@pytest.mark.campaign
def test_a_build_on_the_way_back_is_waited_for(
    place: Place, users: Database[dict[str, Any]], failing_mongod: FailingMongod
) -> None:
    """The successor of who was killed in it does not take an index for built that is not."""
    users["users"].create_index("n")
    drop = {"type": "drop_index", "collection": "users", "index": "n_1"}
    place.write("mongodb", "001_index", {"version": "1.0.0", "operations": [drop]})
    place.settings = place.settings.model_copy(update={"lease_seconds": 2.0})
    place.start_worker()
    place.submit()
    leases = Leases(connect_redis(place.settings), place.settings.namespace, 2.0)
    with failing_mongod.fails("hangAfterStartingIndexBuild"):
        back = place.start_submit("--rollback-to", "0.0.0")
        (first,) = wait_for(lambda: building(users) and commands(users), "the index build")
        holder = leases.holder(Key(database="mongodb", version="1.0.0", number=1))
        assert holder is not None
        os.kill(holder.pid, signal.SIGKILL)
        wait_for(lambda: commands(users) - {first}, "the command of the successor")
        assert back.poll() is None
    out, err = back.communicate(timeout=60)
    assert back.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    assert set(users["users"].index_information()) == {"_id_", "n_1"}
