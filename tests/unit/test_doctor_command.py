"""`dharma doctor`: what it prints, its exit status, and its JSON."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from fake_run import without_settings

from dharma_tasks.cli import common, main
from dharma_tasks.cli import doctor as command
from dharma_tasks.doctor import Diagnosis
from dharma_tasks.findings import Examination, Finding, Grade, problem, warning
from dharma_tasks.settings import Settings

FINE = Finding(check="version", what="6.2.14")
WARNING = warning("clock", "120 s apart", "Let both follow a time server (NTP).")
PROBLEM = problem("permission", "ann may not write\nthe journal", "GRANT it")
AWAY = Finding(check="connection", what="refused", grade=Grade.UNREACHABLE, todo="Start it.")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    without_settings(monkeypatch)
    monkeypatch.setattr(common, "read", lambda: Settings(_env_file=None))  # type: ignore[call-arg]


def doctor(monkeypatch: pytest.MonkeyPatch, *findings: Finding, options: str = "") -> Result:
    """Run `dharma doctor` where this is found in PostgreSQL by a worker."""
    subjects = {"postgresql": Examination(worker="w1@a", findings=list(findings))}
    monkeypatch.setattr(command, "examine", lambda *_: Diagnosis(subjects=subjects))
    return CliRunner().invoke(main, ["doctor", *options.split()])


@pytest.mark.parametrize(
    ("findings", "status", "last"),
    [
        ((FINE,), 0, "All is there."),
        ((FINE, WARNING), 0, "warning: 1"),
        ((WARNING, PROBLEM, FINE), 1, "problem: 1, warning: 1"),
        ((PROBLEM, AWAY, AWAY), 4, "unreachable: 2, problem: 1"),
    ],
)
def test_exit_status(
    monkeypatch: pytest.MonkeyPatch, findings: tuple[Finding, ...], status: int, last: str
) -> None:
    """The gravest decides; warnings do not stop a deployment."""
    result = doctor(monkeypatch, *findings)
    assert result.exit_code == status
    assert result.stdout.splitlines()[-1] == last


def test_one_line_a_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the way out, and by whom it was looked at."""
    lines = doctor(monkeypatch, FINE, PROBLEM).stdout.splitlines()
    assert lines == [
        "postgresql  by w1@a",
        "  ok           version     6.2.14",
        "  problem      permission  ann may not write the journal. GRANT it",
        "problem: 1",
    ]


def test_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same, with messages as they came."""
    result = doctor(monkeypatch, FINE, PROBLEM, options="--json")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["grade"]) == (1, "problem")
    seen = found["subjects"]["postgresql"]
    assert seen["worker"] == "w1@a"
    assert seen["findings"][1] == PROBLEM.model_dump(mode="json")
