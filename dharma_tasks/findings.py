"""What `dharma doctor` finds: one thing a check, how grave it is, and the way out."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict

__all__ = ["Examination", "Finding", "Grade", "problem", "warning"]


class Grade(StrEnum):
    """How grave it is, the least first."""

    OK = "ok"
    WARNING = "warning"
    """It works, but not as well as it could."""
    PROBLEM = "problem"
    """Migrations would fail, or be refused."""
    UNREACHABLE = "unreachable"
    """Nobody could look."""


class Finding(BaseModel):
    """`check` is what was looked at, in a word; `todo` what helps where it is not well."""

    model_config = ConfigDict(frozen=True)

    check: str
    what: str
    grade: Grade = Grade.OK
    todo: str = ""


class Examination(BaseModel):
    """What was found in one database, and by which worker; None where it was read directly."""

    worker: str | None = None
    findings: list[Finding]


def warning(check: str, what: str, todo: str) -> Finding:
    """It works, but not as well as it could."""
    return Finding(check=check, what=what, grade=Grade.WARNING, todo=todo)


def problem(check: str, what: str, todo: str) -> Finding:
    """Migrations would fail, or be refused."""
    return Finding(check=check, what=what, grade=Grade.PROBLEM, todo=todo)
