"""`scripts/migrate.py` means what `dharma` means."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/migrate.py"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("migrate", "submit --target latest"),
        ("migrate --version 1.2.0", "submit --target 1.2.0"),
        (
            "migrate --databases mongodb postgresql --version 2.0.0",
            "submit --target 2.0.0 --databases mongodb,postgresql",
        ),
        ("migrate --databases mongodb,postgresql --no-wait", None),
        ("status --json", "status --json"),
        ("rollback 1.0.0", "rollback 1.0.0"),
        (
            "rollback --databases mongodb,postgresql --yes 1.0.0",
            "rollback 1.0.0 --databases mongodb,postgresql --yes",
        ),
        (
            "rollback 1.0.0 --databases mongodb postgresql",
            "rollback 1.0.0 --databases mongodb,postgresql",
        ),
    ],
)
def test_translation(typed: str, meant: str | None) -> None:
    """The classic commands become those of `dharma`, further options included."""
    meant = meant or "submit --target latest --databases mongodb,postgresql --no-wait"
    assert runpy.run_path(str(SCRIPT))["translate"](typed.split()) == meant.split()


def test_no_command_is_refused() -> None:
    """Without a command it says what there is, and ends like `dharma` does for bad input."""
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(SCRIPT))["translate"]([])
    assert refused.value.code == 2
