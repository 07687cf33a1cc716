"""From one MAJOR version to the next only where a person has decided it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dharma_tasks.errors import Problem
from dharma_tasks.migration import Migration, Version
from dharma_tasks.operations import catalogue

__all__ = ["Leap", "major_problems"]


@dataclass(frozen=True)
class Leap:
    """The highest version that a database has, and the first to come with a higher MAJOR."""

    applied: Version
    first: Migration


def major_problems(leaps: Sequence[Leap], migrations: Sequence[Migration]) -> list[Problem]:
    """Say for each what to read, how to back up, and how far it goes without this decision."""
    if not leaps:
        return []
    below = Version(min(leap.applied.major for leap in leaps) + 1)
    quiet = max((m.order for m in migrations if m.order < below), default=None)
    return [_problem(leap, quiet) for leap in leaps]


def _problem(leap: Leap, quiet: Version | None) -> Problem:
    first = leap.first
    what = f"takes {first.database} from {leap.applied} to {first.version}, a MAJOR version"
    todo = [f"Read: {text}" for text in (first.description, first.breaking) if text]
    todo.append(f"Back it up first, for instance: {catalogue(first.database).backup}")
    short = f", or only go up to there with --target {quiet}" if quiet else ""
    todo.append(f"Then submit with --allow-major{short}.")
    return Problem(first.file, "version", what, "\n".join(todo))
