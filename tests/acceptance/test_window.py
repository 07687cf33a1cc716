"""Bulk work that rests outside its run's window, on a real worker and a real engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from place import Place, wait_for
from pymongo.database import Database

ROWS = 6_000
RATE = 400


@pytest.mark.campaign
def test_rests_and_goes_on(place: Place, mongodb: Database[dict[str, Any]]) -> None:
    """It stops at the end of a batch, leaves the worker free, says until when, and goes on."""
    counters = mongodb["counters"]
    counters.insert_many({"_id": n} for n in range(ROWS))
    update = {"collection": "counters", "filter": {}, "update": {"$inc": {"n": 1}}}
    operation = {"type": "update_documents", **update, "batch": {"seconds": 0.2}}
    place.write("mongodb", "001_count", {"version": "1.0.0", "operations": [operation]})
    place.start_worker("-c", "1", DHARMA_RESCUE_SECONDS="0.5")
    now = datetime.now(UTC)
    closes, opens = now + timedelta(seconds=10), now + timedelta(seconds=25)
    window = f"{opens:%H:%M:%S}-{closes:%H:%M:%S}"
    submitted = place.start_submit("--max-rate", str(RATE), "--window", window)

    def waits() -> str:
        progress = place.status()["mongodb"]["progress"]
        return (progress and progress["waiting"]) or ""

    said = wait_for(waits, "the window to close")
    assert f"outside the window {window} (UTC)" in said
    assert f"goes on at {opens:%Y-%m-%d %H:%M}" in said
    done = counters.count_documents({"n": 1})
    assert 0 < done < ROWS
    status = place.status()["mongodb"]  # read by the one child that the worker has
    assert status["progress"]["holder"] is None
    assert status["migrations"][0]["operations"][0]["attempts"] == 0
    assert datetime.now(UTC) < opens
    assert counters.count_documents({"n": 1}) == done
    out, err = submitted.communicate(timeout=60)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    assert datetime.now(UTC) >= opens
    assert counters.count_documents({"n": 1}) == ROWS
    # The rate is kept over the rest in the middle: what was left took its time.
    left = timedelta(seconds=(ROWS - done) / RATE - 1)
    assert datetime.now(UTC) - opens >= left
