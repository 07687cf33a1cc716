"""What users install: the wheel, alone, in an empty environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path) -> str:
    """Run a command to its end, and return what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.long
def test_the_wheel_installs_and_answers(tmp_path: Path) -> None:
    """`dharma --help` works with what the wheel itself asks for, and nothing else."""
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("dharma_tasks-*.whl")
    with ZipFile(wheel) as files:
        kept = {Path(name).name for name in files.namelist() if "/page/static/" in name}
    assert kept == {each.name for each in (ROOT / "dharma_tasks" / "page" / "static").iterdir()}
    empty = tmp_path / "empty"
    run(sys.executable, "-m", "venv", empty)
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(empty / "bin" / "python", "-m", "pip", "install", "--quiet", *constraints, wheel)
    assert "submit" in run(empty / "bin" / "dharma", "--help")
    # The first migrations and the schemas are in it.
    folder = str(tmp_path / "migrations")
    run(empty / "bin" / "dharma", "init", folder)
    run(empty / "bin" / "dharma", "check", "--migrations", folder)
    celery = empty / "bin" / "celery"
    assert "dharma_tasks" in run(celery, "-A", "dharma_tasks", "report")
