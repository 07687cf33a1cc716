"""A healthy worker keeps its lease, however busy the machine is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.chaos.ground import Ground
from benchmarks.chaos.load import under_load
from dharma_tasks.local import LocalEngines
from dharma_tasks.settings import Settings

SECONDS = 15


@pytest.mark.long
@pytest.mark.alone
def test_no_lease_is_lost_under_full_load(
    engines: LocalEngines, settings: Settings, tmp_path: Path
) -> None:
    """One and a half leases with twice as many busy loops as processors, and another worker.

    One statement that lasts all the time, one walk in batches of a second, and short
    copies; the settings are the defaults. No operation is ever taken over: each fence is the
    first. Shown to fail with `DHARMA_LEASE_SECONDS=1`.
    """
    ground = Ground(engines, settings, tmp_path)
    begun = time.monotonic()
    try:
        found = under_load(ground, SECONDS)
    finally:
        ground.close()
    assert not ground.findings
    assert not found.taken_over
    assert time.monotonic() - begun > SECONDS
    assert found.operations > 2
    assert found.shortest < settings.lease_seconds  # the leases were seen at all
