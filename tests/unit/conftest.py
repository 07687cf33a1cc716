"""A migrations folder of the test's own, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_folder import CATALOGUES, Migrations

from dharma_tasks import contents, folder, judge, loader
from dharma_tasks.cli import common
from dharma_tasks.errors import Refused


@pytest.fixture(autouse=True)
def logs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that runs in this process does not set structlog up for the tests after it."""
    monkeypatch.setattr(common, "configure_on_use", lambda _settings: None)


@pytest.fixture
def fake_catalogues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read with small catalogues, so that these tests are about the reading alone."""
    monkeypatch.setattr(folder, "catalogue", CATALOGUES.__getitem__)
    monkeypatch.setattr(contents, "catalogue", CATALOGUES.__getitem__)
    monkeypatch.setattr(judge, "catalogue", CATALOGUES.__getitem__)


@pytest.fixture
def migrations(tmp_path: Path) -> Migrations:
    """An empty migrations folder."""
    (tmp_path / "migrations").mkdir()
    return Migrations(tmp_path / "migrations")


@pytest.fixture
def refusal(migrations: Migrations, fake_catalogues: None) -> Callable[[], list[str]]:
    """Load the folder, which must be refused, and return what it says."""
    del fake_catalogues

    def load() -> list[str]:
        with pytest.raises(Refused) as caught:
            loader.load(migrations.path)
        return [str(problem) for problem in caught.value.problems]

    return load
