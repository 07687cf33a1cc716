"""Where a run is shown: bars on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Sequence
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dharma_tasks import words
from dharma_tasks.report import Row, View, event_line, numbers, plain_line, rows
from dharma_tasks.run import Event

_EVERY_SECONDS = 5
"""A plain log gets a line of progress no more often than this."""
_UNLIMITED = 10_000
_BAR = 20
_STYLES = {
    "failed": "bold red",
    "left": "bold red",
    "warning": "yellow",
    "waiting": "yellow",
    "applied": "green",
    "rolled_back": "green",
    "paused": "yellow",
    "cancelled": "yellow",
}


def console(file: TextIO) -> Console:
    """A console that takes text as it is: no markup, and no line breaks in a log."""
    width = None if file.isatty() else _UNLIMITED
    return Console(file=file, width=width, markup=False, highlight=False, emoji=False)


class Lines:
    """Plain lines, one an event; for a long operation one every few seconds."""

    def __init__(self, out: Console) -> None:
        """`out` is where the lines go."""
        self._out = out
        self._said: set[str] = set()
        self._last: dict[str, tuple[float, str]] = {}

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""

    def say(self, text: str, style: str = "") -> None:
        """Write one line."""
        self._out.print(Text(text, style))

    def happened(self, events: Sequence[Event]) -> None:
        """Write what is new; somebody who waits says so again and again, and is heard once."""
        for event in events:
            line = event_line(event)
            if event.kind == "waiting" and line in self._said:
                continue
            self._said.add(line)
            self.say(line, _STYLES.get(event.kind, ""))

    def update(self, view: View) -> None:
        """Write how it stands, where something has been going on for a while."""
        now = time.monotonic()
        for row in rows(view):
            since, said = self._last.setdefault(row.database, (now, ""))
            line = plain_line(row)
            if line and line != said and now - since >= _EVERY_SECONDS:
                self._last[row.database] = (now, line)
                self.say(line)


class Bars(Lines):
    """Events as lines, and below them two lines a database that move."""

    def __init__(self, out: Console) -> None:
        """`out` is a terminal."""
        super().__init__(out)
        self._live = Live(console=out, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        """Begin to move."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take the bars away: the lines above them stay."""
        self._live.stop()

    def update(self, view: View) -> None:
        """Draw the bars anew."""
        self._live.update(draw(rows(view)), refresh=True)


class Indented:
    """Text with room on its left: wrapped on a terminal, line by line as it is in a log."""

    def __init__(self, text: str, by: int, style: str = "") -> None:
        """`by` is in columns."""
        self._text = text.strip()
        self._by = by
        self._style = style

    def __rich_console__(self, target: Console, options: ConsoleOptions) -> RenderResult:
        """Rich asks for this when it prints."""
        if target.is_terminal:
            yield Padding.indent(Text(self._text, self._style), self._by)
        else:
            yield Text(textwrap.indent(self._text, " " * self._by), self._style)


def screen(out: Console) -> Lines:
    """What fits where `out` goes."""
    return Bars(out) if out.is_terminal and not out.is_dumb_terminal else Lines(out)


def stdout(*, json: bool) -> Console:
    """Where people read: stdout, unless a program reads that."""
    return console(sys.stderr if json else sys.stdout)


def draw(found: Sequence[Row]) -> RenderableType:
    """The moving part: two lines a database, the same height from one moment to the next."""
    lines = (line for row in found for line in two_lines(row, f"{row.database:<13}  "))
    return Group(Text(), *lines)


def two_lines(row: Row, name: str) -> tuple[RenderableType, RenderableType]:
    """One database, `name` first."""
    title = Text(row.title, "dim" if row.over else "")
    head = Text.assemble((name, "bold"), f"{row.position:<7}  ", title)
    if row.waits:
        return _line(head, _bar(row)), _line(Text(f"  {words.first_line(row.waits)}", "yellow"))
    shown = "  ".join(numbers(row.progress)) if row.progress else ""
    return _line(head, _bar(row)), _line(Text(f"  {row.detail}", "dim"), Text(shown))


def _line(left: Text, right: RenderableType = "") -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    grid.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    grid.add_column(no_wrap=True, justify="right")
    grid.add_row(left, right)
    return grid


def _bar(row: Row) -> RenderableType:
    progress = row.progress
    if progress is None or not progress.total:
        return Text()
    part = min(progress.done / progress.total, 1)
    bar = Table.grid(padding=(0, 1, 0, 0))
    bar.add_row(ProgressBar(total=1, completed=part, width=_BAR), f"{part:4.0%}")
    return bar
