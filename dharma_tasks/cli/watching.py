"""`dharma status --watch`: in place on a terminal, lines or JSON documents everywhere else."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NoReturn, Protocol, Self

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from dharma_tasks import words
from dharma_tasks.cli import common
from dharma_tasks.cli.screen import console
from dharma_tasks.cli.status_report import Report, notes, old, one_line, standing
from dharma_tasks.records import MigrationState
from dharma_tasks.report import plain_line
from dharma_tasks.watching.statuses import Moment, Statuses

__all__ = ["Watching", "leave"]

_STOPPED = (MigrationState.FAILED, MigrationState.ROLLED_BACK)


class Watching:
    """Looks and shows until somebody says that it is enough."""

    def __init__(self, looks: Statuses, interval: float, *, json: bool) -> None:
        """`interval` is in seconds, from one look to the next."""
        self._looks = looks
        self._interval = interval
        self._shown = _shown(json=json, interval=interval)
        self._last: Moment | None = None

    def run(self) -> int:
        """Watch until Ctrl-C, which is how it is meant to end; the exit status of the last look."""
        with suppress(KeyboardInterrupt), self._shown:
            while True:
                began = time.monotonic()
                self._last = self._looks.look()
                self._shown.show(self._last)
                time.sleep(max(0, began + self._interval - time.monotonic()))
        unreachable = self._last is not None and self._last.status.unreachable
        return common.UNREACHABLE if unreachable else 0


def leave(status: int) -> NoReturn:
    """End at once: nobody waits for a database that does not answer."""
    sys.stdout.flush()
    os._exit(status)


class _Shown(Protocol):
    """Where a moment is shown."""

    def __enter__(self) -> Self:
        """Begin."""

    def __exit__(self, *_: object) -> None:
        """End; what was shown last stays."""

    def show(self, moment: Moment) -> None:
        """Show it in place of the one before."""


def _shown(*, json: bool, interval: float) -> _Shown:
    out = console(sys.stdout)
    if json:
        return _Documents()
    if out.is_terminal and not out.is_dumb_terminal:
        return _InPlace(out, interval)
    return _Lines(out)


class _Documents:
    """One JSON document a line, the status with its time."""

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def show(self, moment: Moment) -> None:
        """Print it."""
        status = moment.status.model_dump(mode="json")
        click.echo(json.dumps({"at": moment.at.isoformat(), **status}))


class _Lines(_Documents):
    """Plain lines: each thing that is another one than at the look before."""

    def __init__(self, out: Console) -> None:
        """`out` is where the lines go."""
        self._out = out
        self._said: dict[str, str] = {}

    def show(self, moment: Moment) -> None:
        """Print what is new."""
        for about, line in _lines(moment):
            if line and self._said.get(about) != line:
                self._out.print(Text(line))
            self._said[about] = line


def _lines(moment: Moment) -> Iterator[tuple[str, str]]:
    """What each line is about, and the line; an empty one is nothing to say."""
    for name, found in moment.status.databases.items():
        if found.known:
            yield name, f"{name} {standing(found)}"
            yield f"{name} error", f"{_said(name, found.error)}{old(found)}" if found.error else ""
        for migration in found.migrations:
            title = f"{name} {migration.version}"
            stopped = migration.error and migration.state in _STOPPED
            error = words.first_line(migration.error or "")
            yield title, f"{title} {migration.state}: {error}" if stopped else ""
        row = moment.rows.get(name)
        yield f"{name} row", plain_line(row) if row else ""
    for number, note in enumerate(notes(moment.status)):
        yield f"note {number}", note


def _said(name: str, error: str) -> str:
    said = words.first_line(error).rstrip(".")
    return f"{said}." if said.startswith(name) else f"{name}: {said}."


class _InPlace:
    """The report, drawn anew at the same place; where it is too high, briefly."""

    def __init__(self, out: Console, interval: float) -> None:
        """`out` is a terminal."""
        self._out = out
        self._interval = interval
        self._live = Live(console=out, auto_refresh=False)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """What was drawn last stays."""
        self._live.stop()

    def show(self, moment: Moment) -> None:
        """Draw it."""
        self._live.update(self._fitting(moment), refresh=True)

    def _fitting(self, moment: Moment) -> RenderableType:
        for brief in (False, True):
            drawn = self._drawn(moment, brief=brief)
            if len(self._out.render_lines(drawn)) < self._out.height:
                break
        return drawn

    def _drawn(self, moment: Moment, *, brief: bool) -> RenderableType:
        how = f"{moment.at:%H:%M:%S} UTC, every {self._interval:g} s, until Ctrl-C"
        report = Report(moment.status, moment.rows, brief=brief)
        return Group(one_line(how, "dim"), Text(), *report.parts())
