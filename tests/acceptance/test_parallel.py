"""One operation by several workers at once: whoever of them is lost, each effect is there once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any, ClassVar

import psutil
import psycopg
import pytest
from disturbed import Batched, Disturbed, Documents, assert_undisturbed, hastened
from kill_points import Killing
from place import Place, wait_for

from dharma_tasks.lease import Leases
from dharma_tasks.redis_client import connect_redis

RANGES = 4


class BatchedInRanges(Batched):
    """PostgreSQL, a quarter of the rows in each range: more than seven seconds."""

    definition: ClassVar[dict[str, Any]] = {
        "batch": {"table": "counters", "key": "id", "size": 100, "parallel": RANGES}
    }


class DocumentsInRanges(Documents):
    """MongoDB, likewise; each batch is undone with its range, so it keeps what it has changed."""

    rows = 12_000
    more: ClassVar[dict[str, Any]] = {"parallel": RANGES, "batch": {"max": 100}}


class FailingInRanges(DocumentsInRanges):
    """The last document but a hundred is refused; all is undone then."""

    rows = 8_000
    more: ClassVar[dict[str, Any]] = {**DocumentsInRanges.more, "keep_before_image": True}

    def fill(self) -> None:
        """With one that does not count."""
        super().fill()
        with self.client() as client:
            documents = client.get_default_database()["counters"]
            documents.update_one({"_id": self.rows - 100}, {"$set": {"n": "a text"}})

    def documents(self) -> list[bytes]:
        """All of them, byte by byte."""
        with self.client() as client:
            found = client.get_default_database()["counters"].find_raw_batches(sort=[("_id", 1)])
            return list(found)


def holders(work: Disturbed) -> dict[int, int]:
    """By the number of each range that is held the pid of who holds it."""
    leases = Leases(connect_redis(work.place.settings), work.place.settings.namespace, 3)
    found = {number: leases.holder(work.key.of_range(number)) for number in range(1, RANGES + 1)}
    return {number: owner.pid for number, owner in found.items() if owner}


def several(work: Disturbed) -> dict[int, int]:
    """Wait until at least three processes have a range, and return which."""
    found: dict[int, int] = wait_for(
        lambda: now if len(set((now := holders(work)).values())) >= 3 else None,
        "three workers in ranges",
    )
    return found


@pytest.mark.long
@pytest.mark.parametrize("kind", [BatchedInRanges, DocumentsInRanges])
def test_killed_one_after_the_other(place: Place, kind: type[Disturbed]) -> None:
    """Kill -9 of who only helps, of who has the operation, and of a whole worker."""
    work = kind(hastened(place))
    first = place.start_worker()
    place.start_worker()
    submitted = place.start_submit()
    found = several(work)
    wait_for(lambda: work.done() > 0, "a checkpoint of the operation")
    whole = wait_for(work.holder, "the operation's lease")
    helper = next(pid for pid in found.values() if pid != whole)
    os.kill(helper, signal.SIGKILL)
    wait_for(lambda: helper not in holders(work).values(), "another one in its range")
    os.kill(whole, signal.SIGKILL)
    wait_for(lambda: work.holder() not in {None, whole}, "another one with the operation")
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert_undisturbed(place, submitted, work)


@pytest.mark.long
def test_killed_in_a_batch_of_a_range(place: Place, tmp_path: Path) -> None:
    """After its effect and before its checkpoint, three times, in whatever range."""
    work = DocumentsInRanges(hastened(place))
    killing = Killing(place, tmp_path)
    killing.start_worker()
    submitted = place.start_submit()
    several(work)
    for _ in range(3):
        killing.arm("range_batch")
        wait_for(lambda: not killing.left(), "a kill in a batch")
    assert_undisturbed(place, submitted, work)


def test_a_failure_undoes_all_ranges(place: Place) -> None:
    """FAULTS 22: one range fails while the worker of another one is frozen in it."""
    work = FailingInRanges(hastened(place))
    before = work.documents()
    place.start_worker()
    submitted = place.start_submit()
    found = several(work)
    whole = work.holder()
    frozen = psutil.Process(next(pid for n, pid in found.items() if n < RANGES and pid != whole))
    frozen.suspend()
    work.hurry()
    out, err = submitted.communicate(timeout=90)
    assert submitted.returncode == 1, f"{out}\n{err}\n{place.logs_text()}"
    assert "range 4 of 4: Cannot apply $inc to a value of non-numeric type" in out + err
    assert work.documents() == before
    frozen.resume()
    wait_for(lambda: "stepped_aside" in place.log(), "what the frozen one says when it wakes")
    assert work.documents() == before
    migration = work.migration()
    assert migration
    assert migration.state == "rolled_back"


@pytest.mark.long
def test_who_helps_makes_room(place: Place) -> None:
    """Another database's run does not wait until the ranges are done."""
    work = BatchedInRanges(hastened(place))
    work.pace(1.0)
    place.write(
        "mongodb",
        "001_make",
        {"version": "1.0.0", "operations": [{"type": "create_collection", "collection": "made"}]},
    )
    place.start_worker("-c", "2")
    submitted = place.start_submit("--databases", "postgresql")
    wait_for(lambda: len(set(holders(work).values())) == 2, "both children in ranges")
    place.submit("--databases", "mongodb")
    ours = f"public.{place.settings.namespace}_ranges"
    with psycopg.connect(work.url) as connection:
        states = connection.execute(f"SELECT DISTINCT state FROM {ours}").fetchall()
    assert ("done",) not in states, "it had to wait for the end of a range"
    work.hurry()
    out, err = submitted.communicate(timeout=90)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    work.assert_applied()


@pytest.mark.long
def test_paused_in_ranges(place: Place) -> None:
    """Nothing moves in any of them until it is resumed; then each goes on from its checkpoint."""
    work = BatchedInRanges(hastened(place))
    place.start_worker()
    submitted = place.start_submit()
    several(work)
    place.dharma("pause")
    wait_for(lambda: not holders(work) and work.holder() is None, "rest in all ranges")

    def rows() -> int:
        with psycopg.connect(work.url) as connection:
            row = connection.execute("SELECT count(*) FROM counters WHERE n = 1").fetchone()
        return int(row[0]) if row else 0

    rested = rows()
    assert 0 < rested < work.rows
    place.dharma("status")
    assert rows() == rested
    place.dharma("resume")
    several(work)
    assert_undisturbed(place, submitted, work)
