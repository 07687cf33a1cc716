"""Flower's configuration in `workers/`: who may look, and what is kept."""

from __future__ import annotations

from pathlib import Path

import flower.options  # noqa: F401 - it defines what the configuration may set
import pytest
from tornado.options import OptionParser, options

CONFIG = Path(__file__).parents[2] / "workers" / "flowerconfig.py"


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> OptionParser:
    """Flower's options as they are before it reads the file; put back after the test."""
    for name in options:
        monkeypatch.setattr(options.mockable(), name, getattr(options, name))
    monkeypatch.delenv("FLOWER_DB", raising=False)
    return options


@pytest.mark.parametrize("logins", [[], [""], ["nobody"]])
def test_nobody_looks_without_a_login(parsed: OptionParser, logins: list[str]) -> None:
    """Flower does not start, and says what to set; a name without a password is no login."""
    parsed.basic_auth = logins
    with pytest.raises(SystemExit) as ended:
        parsed.parse_config_file(str(CONFIG), final=False)
    assert "FLOWER_BASIC_AUTH=user:password" in str(ended.value)


@pytest.mark.parametrize("login", [{"basic_auth": ["me:secret"]}, {"auth": r".*@example\.org"}])
def test_with_a_login(parsed: OptionParser, login: dict[str, object]) -> None:
    """It shows, does not touch, and remembers what ran."""
    for name, value in login.items():
        setattr(parsed, name, value)
    parsed.parse_config_file(str(CONFIG), final=False)
    assert parsed.read_only
    assert parsed.persistent
    assert parsed.state_save_interval > 0
    assert "args" in parsed.tasks_columns
