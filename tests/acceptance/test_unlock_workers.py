"""`dharma unlock` against a worker that goes on giving signs of life."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import psycopg
from disturbed import Batched, gave_up
from place import Place, wait_for

from dharma_tasks.submit import who_asks


def query(place: Place, text: str) -> list[tuple[Any, ...]]:
    """Ask the test's PostgreSQL database."""
    with psycopg.connect(place.url("postgresql")) as connection:
        return connection.execute(text).fetchall()


def unlock(place: Place) -> subprocess.CompletedProcess[str]:
    """Run `dharma unlock postgresql`, as somebody."""
    command = [sys.executable, "-m", "dharma_tasks", "unlock", "postgresql", "--by", "ops@desk"]
    return subprocess.run(
        command, env=place.environment, check=False, capture_output=True, text=True
    )


def test_a_lease_is_broken_under_a_healthy_worker(place: Place) -> None:
    """Its holder steps aside and says why, another goes on, each row once, and it is on record."""
    work = Batched(place)
    place.start_worker("-c", "1")
    submitted = place.start_submit()
    first = wait_for(work.holder, "the lease")
    place.start_worker("-c", "1")
    done = unlock(place)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{place.logs_text()}"
    assert f"pid {first} on " in done.stdout
    assert wait_for(work.holder, "another lease") != first
    work.hurry()
    out, err = submitted.communicate(timeout=90)
    assert submitted.returncode == 0, f"{out}\n{err}\n{place.logs_text()}"
    assert f"{who_asks('ops@desk')} broke the lease of" in out + err
    work.assert_each_once()
    wait_for(lambda: gave_up(place), "the first worker's reason in its log")
    history = f"public.{place.settings.namespace}_history"
    ((run, by, version, number, detail),) = query(
        place, f"SELECT run, by, version, number, detail FROM {history} WHERE event = 'unlocked'"
    )
    assert (by, version, number) == (who_asks("ops@desk"), "1.0.0", 1)
    assert run in done.stdout
    assert f"(pid {first} on " in detail
    assert work.holder() is None
    after = unlock(place)
    assert (after.returncode, "no lease is held" in after.stdout) == (0, True)
