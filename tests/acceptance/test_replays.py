"""After any kill, at most one batch of each open range is done again (issue 4)."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
from disturbed import Batched, Copied, Disturbed, Documents, assert_undisturbed, hastened
from kill_points import Killing
from place import Place, wait_for

from benchmarks.chaos.batches import OPEN_RANGES, again, read

LEASE = 5.0
"""Longer than a busy machine lets a live child wait: only the dead are to lose a batch."""


class ManyDocuments(Documents):
    """Half a millisecond for each, and enough for a new pace, from 2,000 on, after each kill."""

    rows = 60_000
    slow = "function(id) { sleep(id % 2); return true; }"


class ManyCopied(Copied):
    """More than a minute of them."""

    rows = 36_000


CASES = [
    pytest.param(ManyDocuments, "batch.mongodb.update_documents", id="mongodb"),
    pytest.param(Batched, "batch.postgresql.sql_batch", id="postgresql"),
    pytest.param(ManyCopied, "sent.elasticsearch", id="elasticsearch"),
]
"""What is disturbed, and the point after a batch's effect and before its checkpoint."""


@pytest.mark.long
@pytest.mark.parametrize(("kind", "point"), CASES)
def test_at_most_one_batch_of_each_open_range(
    place: Place, tmp_path: Path, kind: type[Disturbed], point: str
) -> None:
    """Kill -9 of the child and of the whole worker, each in a batch, then at any instant.

    Every batch is noted when it is begun, with the process that begins it. What a process has
    begun in vain is what its death has cost: of each range that was open one batch, no more.
    Only those who were killed have begun anything in vain, and each effect is there once.
    """
    work = kind(hastened(place))
    place.settings = place.settings.model_copy(update={"lease_seconds": LEASE})
    killing = Killing(place, tmp_path)
    notes = tmp_path / "batches"
    place.injected["benchmarks.chaos.batches"] = str(notes)

    def start_worker() -> None:
        killing.start_worker(BATCHES_RANGE="500")

    start_worker()
    submitted = place.start_submit()
    for what in ("child", "child", "worker", "child"):
        killing.arm(point, what=f"{what} later")  # after some progress
        wait_for(lambda: not killing.left(), f"a kill of the {what}")
        if what == "worker":
            place.workers[-1].wait()
            start_worker()
    begun = len(read(notes))
    wait_for(lambda: len(read(notes)) > begun + 1, "some batches")
    at_any_instant = wait_for(work.holder, "a lease")
    os.kill(at_any_instant, signal.SIGKILL)
    assert_undisturbed(place, submitted, work)

    lost = Counter(each.pid for each in again(read(notes)))
    assert killing.pids() <= set(lost) <= {*killing.pids(), at_any_instant}
    assert max(lost.values()) <= OPEN_RANGES[work.database]
