"""A run is paused, resumed and cancelled by hand, on real processes and the real engines."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from disturbed import (
    Batched,
    Copied,
    Disturbed,
    Documents,
    assert_nothing_left,
    assert_undisturbed,
    begin,
    hastened,
)
from place import Place, wait_for
from pymongo.database import Database

from dharma_tasks.run import RunState
from dharma_tasks.submit import who_asks

Document = dict[str, Any]

WITHIN = 10.0
"""Seconds after which what is to stop must have stopped: a batch, or a look at a statement."""


SLOW = {
    "type": "update_documents",
    "collection": "counters",
    "filter": {"$where": "pace(this._id)"},
    "update": {"$set": {"added": 1}},
    "keep_before_image": True,
}
"""What takes `Documents` its time, and can be undone."""


def of(kind: type[Disturbed], *, often: bool = False) -> Any:
    """A case by its database; the others, with which it shares its way, run in campaigns."""
    return pytest.param(kind, id=kind.database, marks=[] if often else pytest.mark.campaign)


@pytest.fixture
def hasty(place: Place) -> Place:
    """With short leases and batches."""
    return hastened(place)


def query(place: Place, text: str) -> list[tuple[Any, ...]]:
    """Ask the test's PostgreSQL database."""
    with psycopg.connect(place.url("postgresql")) as connection:
        return connection.execute(text).fetchall()


def ended(submitted: subprocess.Popen[str], place: Place, status: int) -> tuple[str, str]:
    """What a submit has written that ends with this status."""
    out, err = submitted.communicate(timeout=60)
    assert submitted.returncode == status, f"{out}\n{err}\n{place.logs_text()}"
    return out, err


def states(place: Place, database: str) -> list[str]:
    """The states of a database's migrations."""
    return [each["state"] for each in place.status()[database]["migrations"]]


def attempts(place: Place, database: str) -> int:
    """How often the first operation was begun since it last moved."""
    found: int = place.status()[database]["migrations"][0]["operations"][0]["attempts"]
    return found


def written(work: Disturbed) -> Any:
    """All that the operation has done to the data."""
    if isinstance(work, Documents):
        with work.client() as client:
            documents = client.get_default_database()["counters"]
            return documents.count_documents({"n": 1})
    if isinstance(work, Copied):
        with work.client() as search:
            search.indices.refresh(index=work.dest)
            return search.count(index=work.dest)["count"]
    return query(work.place, "SELECT sum(n) FROM counters")


@pytest.mark.parametrize("kind", [of(Batched), of(Documents, often=True), of(Copied)])
def test_paused_and_resumed(hasty: Place, kind: Callable[[Place], Disturbed]) -> None:
    """Within a batch nothing moves any more, whoever comes; resumed, each effect is there once."""
    work = kind(hasty)
    submitted = begin(hasty, [work], DHARMA_RESCUE_SECONDS="0.5")
    done = hasty.dharma("pause", "--by", "ops@desk")
    assert f"{work.database}: 1.0.0 operation 1" in done.stdout
    assert f"history of {work.database} as done by ops@desk" in done.stdout
    wait_for(lambda: work.holder() is None, "the end of the batch", WITHIN)
    if isinstance(work, Copied):
        wait_for(lambda: not work.tasks(), "the end of the server's own tasks", WITHIN)
    before = (written(work), work.done())
    assert 0 < work.done() < work.rows
    assert attempts(hasty, work.database) == 0
    hasty.start_worker(DHARMA_RESCUE_SECONDS="0.5")  # which looks for work at once
    assert (written(work), work.done()) == before
    assert work.holder() is None
    status = hasty.status()[work.database]
    assert status["run_state"] == "paused"
    shown = hasty.dharma("status").stdout
    assert "(paused)" in shown
    assert "dharma resume" in shown
    assert "paused already" in hasty.dharma("pause").stdout
    done = hasty.dharma("resume", "--by", "ops@desk")
    assert f"history of {work.database} as done by ops@desk" in done.stdout
    wait_for(lambda: work.done() > before[1], "progress")
    assert_undisturbed(hasty, submitted, work)
    hasty.dharma("resume", status=2)


def test_the_history_says_who(hasty: Place) -> None:
    """Each time, with the run and what it was at."""
    work = Batched(hasty)
    submitted = begin(hasty, [work])
    hasty.dharma("pause", "--by", "ann@desk")
    hasty.dharma("resume", "--by", "ben@desk")
    hasty.dharma("pause", "--by", "ann@desk")
    hasty.dharma("cancel", "--keep", "--yes", "--by", "cem@desk")
    ended(submitted, hasty, 5)
    events = "event IN ('paused', 'resumed', 'cancelled')"
    found = query(
        hasty,
        "SELECT event, by, version, number, run"
        f" FROM public.{hasty.settings.namespace}_history WHERE {events} ORDER BY at",
    )
    assert [row[:2] for row in found] == [
        ("paused", who_asks("ann@desk")),
        ("resumed", who_asks("ben@desk")),
        ("paused", who_asks("ann@desk")),
        ("cancelled", who_asks("cem@desk")),
    ]
    assert {row[2:4] for row in found} == {("1.0.0", 1)}
    assert len({row[4] for row in found}) == 1


@pytest.mark.long
def test_cancelled_and_undone(hasty: Place, mongodb: Database[Document]) -> None:
    """What is open is rolled back, in every database; what was applied stays; nothing begins."""
    users = mongodb["users"]
    users.insert_many({"_id": n, **({"kept": "before"} if n % 3 == 0 else {})} for n in range(20))
    before = list(users.find().sort("_id"))
    create = {"type": "create_collection", "collection": "made"}
    field = {"type": "add_field", "collection": "users", "field": "kept", "value": "ours"}
    index = {"type": "create_index", "collection": "users", "index": [["kept", 1]]}
    hasty.write("mongodb", "001_made", {"version": "1.0.0", "operations": [create]})
    slow = Documents(hasty)  # writes 001_count, with the version that is taken
    (hasty.folder / "mongodb" / "001_count.json").unlink()
    hasty.write("mongodb", "002_users", {"version": "1.1.0", "operations": [field, index, SLOW]})
    hasty.write("mongodb", "003_never", {"version": "1.2.0", "operations": [index]})
    needs = {"version": "1.0.0", "dependencies": ["mongodb:1.2.0"]}
    hasty.write("postgresql", "001_never", needs, "CREATE TABLE never ()")
    hasty.start_worker()
    submitted = hasty.start_submit()
    counters = mongodb["counters"]
    wait_for(lambda: counters.count_documents({"added": 1}), "the first batches")
    hasty.dharma("cancel", "--yes")
    out, err = ended(submitted, hasty, 5)
    assert "mongodb 1.1.0 users is rolled back" in err
    assert "1.2.0 never" in err
    assert "cancelled: by" in out
    assert states(hasty, "mongodb") == ["applied", "rolled_back", "pending"]
    assert states(hasty, "postgresql") == ["pending"]
    assert counters.count_documents({"added": {"$exists": True}}) == 0
    assert list(users.find().sort("_id")) == before
    assert set(users.index_information()) == {"_id_"}
    assert "made" in mongodb.list_collection_names()
    assert_nothing_left(hasty)
    slow.hurry()
    hasty.submit()
    assert states(hasty, "mongodb") == ["applied"] * 3
    assert counters.count_documents({"added": 1}) == slow.rows


@pytest.mark.long
@pytest.mark.parametrize("kind", [of(Batched), of(Copied, often=True)])
def test_cancelled_and_kept(hasty: Place, kind: Callable[[Place], Disturbed]) -> None:
    """The run ends at once, its work stops within a batch; a later submit goes on from there."""
    work = kind(hasty)
    submitted = begin(hasty, [work])
    hasty.dharma("cancel", "--keep", "--yes")
    ended(submitted, hasty, 5)
    wait_for(lambda: work.holder() is None, "the end of the batch", WITHIN)
    if isinstance(work, Copied):
        wait_for(lambda: not work.tasks(), "the end of the server's own tasks", WITHIN)
    before = work.done()
    assert before < work.rows
    assert states(hasty, work.database) == ["running"]
    assert attempts(hasty, work.database) == 0
    assert_nothing_left(hasty)
    again = hasty.start_submit()
    wait_for(lambda: work.done() > before, "progress")
    assert_undisturbed(hasty, again, work)


def test_cancelled_where_nothing_can_be_undone(hasty: Place) -> None:
    """Batches that have no way back stay, and so does the checkpoint; that is said."""
    work = Batched(hasty)
    submitted = begin(hasty, [work])
    hasty.dharma("cancel", "--yes")
    _, err = ended(submitted, hasty, 5)
    assert "cannot be undone: 1 sql_batch" in err
    assert states(hasty, "postgresql") == ["running"]
    assert_undisturbed(hasty, hasty.start_submit(), work)


WAITING = """
INSERT INTO steps VALUES (1);
DO $$ BEGIN
    WHILE NOT EXISTS (SELECT FROM go) LOOP PERFORM pg_sleep(0.05); END LOOP;
END $$
"""


@pytest.fixture
def long(hasty: Place) -> Place:
    """A file whose one statement ends when a row is put into `go`."""
    with psycopg.connect(hasty.url("postgresql")) as connection:
        connection.execute("CREATE TABLE go (); CREATE TABLE steps (n int)")
    hasty.write("postgresql", "001_long", {"version": "1.0.0"}, WAITING)
    return hasty


def waits(place: Place) -> bool:
    """Whether the server carries that statement out."""
    ours = "state = 'active' AND datname = current_database() AND pid <> pg_backend_pid()"
    return bool(
        query(place, f"SELECT FROM pg_stat_activity WHERE query LIKE '%FROM go%' AND {ours}")
    )


@pytest.mark.long
def test_a_long_statement_is_cancelled(long: Place) -> None:
    """Within seconds: its transaction rolls back, so all of it is undone; a submit begins anew."""
    long.start_worker()
    submitted = long.start_submit()
    wait_for(lambda: waits(long), "the statement")
    long.dharma("cancel", "--yes")
    wait_for(lambda: not waits(long), "the end of the statement", WITHIN)
    _, err = ended(submitted, long, 5)
    assert "postgresql 1.0.0 long is rolled back" in err
    assert states(long, "postgresql") == ["rolled_back"]
    assert query(long, "SELECT * FROM steps") == []
    with psycopg.connect(long.url("postgresql")) as connection:
        connection.execute("INSERT INTO go DEFAULT VALUES")
    long.submit()
    assert query(long, "SELECT * FROM steps") == [(1,)]


@pytest.mark.campaign
def test_a_long_statement_is_paused(long: Place) -> None:
    """It is ended, which is no attempt, and begun again by whoever goes on."""
    long.start_worker()
    submitted = long.start_submit()
    wait_for(lambda: waits(long), "the statement")
    long.dharma("pause")
    wait_for(lambda: not waits(long), "the end of the statement", WITHIN)
    (open_,) = long.runs.open()
    assert open_.state is RunState.PAUSED
    wait_for(lambda: attempts(long, "postgresql") == 0, "the note of an orderly stop", WITHIN)
    long.dharma("resume")
    wait_for(lambda: waits(long), "the statement again")
    with psycopg.connect(long.url("postgresql")) as connection:
        connection.execute("INSERT INTO go DEFAULT VALUES")
    ended(submitted, long, 0)
    assert query(long, "SELECT * FROM steps") == [(1,)]


@pytest.mark.campaign
def test_cancelled_without_a_worker(hasty: Place, mongodb: Database[Document]) -> None:
    """Its worker was killed: the next one to come turns back, and does nothing else."""
    work = Documents(hasty)
    (hasty.folder / "mongodb" / "001_count.json").unlink()
    hasty.write("mongodb", "001_field", {"version": "1.0.0", "operations": [SLOW]})
    submitted = begin(hasty, [work])
    os.killpg(hasty.workers[0].pid, 9)
    hasty.workers[0].wait()
    done = hasty.dharma("cancel", "--yes")
    assert "as soon as a worker is free" in done.stdout
    (open_,) = hasty.runs.open()
    assert open_.state is RunState.CANCELLING
    hasty.start_worker()
    ended(submitted, hasty, 5)
    assert states(hasty, "mongodb") == ["rolled_back"]
    assert mongodb["counters"].count_documents({"added": {"$exists": True}}) == 0
