"""What a worker says when it starts, or does not start for."""

from __future__ import annotations

import subprocess
import sys

import pytest
from place import DEADLINE, Place

WORKER = ("-m", "celery", "-A", "dharma_tasks", "worker")


@pytest.mark.parametrize(
    ("options", "given", "said"),
    [
        ((), {"DHARMA_ENCRYPTION_KEY": "abc"}, "DHARMA_ENCRYPTION_KEY holds something"),
        (("--pool=solo",), {}, "stops the rescue timer"),
    ],
    ids=["a bad key", "a pool without a timer"],
)
def test_what_it_does_not_start_with(
    place: Place, options: tuple[str, ...], given: dict[str, str], said: str
) -> None:
    """It ends at once and says why, before it takes anything."""
    done = subprocess.run(
        [sys.executable, *WORKER, *options],
        env=place.environment | given,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert place.alive() == []


def test_without_a_signing_key_it_warns(place: Place) -> None:
    """And works: see docs/security.md."""
    place.start_worker(DHARMA_SIGNING_KEY="")
    assert "DHARMA_SIGNING_KEY is not set: whoever can write to Redis" in place.log()
