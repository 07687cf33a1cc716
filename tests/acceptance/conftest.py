"""One test's corner of the engines, with worker processes of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from place import Place

from dharma_tasks.local import LocalEngines
from dharma_tasks.settings import Settings


@pytest.fixture
def place(engines: LocalEngines, settings: Settings, tmp_path: Path) -> Iterator[Place]:
    """A folder, a namespace and databases of the test's own; ends the workers it started."""
    logs = tmp_path / "logs"
    logs.mkdir()
    made = Place(
        settings.model_copy(update={"migrations_dir": tmp_path}), tmp_path / "migrations", logs
    )
    yield made
    for worker in made.workers:
        if worker.poll() is None:
            os.killpg(worker.pid, 9)
            worker.wait()
