"""`dharma history`: who has done what to the databases, and when."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC

import click
from rich.console import Console
from rich.text import Text

from dharma_tasks import words
from dharma_tasks.cli import common
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import Indented, console
from dharma_tasks.databases import NAMES
from dharma_tasks.settings import Settings
from dharma_tasks.trail import DECLARED, History, Told, gather

_MOST = 10_000
"""What Elasticsearch gives at once."""
_STYLES = {
    "applied": "green",
    "failed": "bold red",
    "rolled_back": "yellow",
    "unlocked": "yellow",
    "passed_over": "yellow",
    **dict.fromkeys(DECLARED, "yellow"),
    "taken": "dim",
    "done": "dim",
}


@click.command(epilog=examples("dharma history", "dharma history postgresql --limit 10"))
@click.argument("database", type=click.Choice(NAMES), required=False)
@click.option(
    "--limit",
    metavar="N",
    type=click.IntRange(1, _MOST),
    default=50,
    show_default=True,
    help="How many entries to show: the newest ones.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def history(*, database: str | None, limit: int, as_json: bool) -> None:
    """Show what was done to DATABASE, or to all of them: when, in which run, by whom.

    Each database keeps it itself, and entries are only ever added. It is read directly where
    the database's URL is set, and through a worker where it is not.

    Exit status: 0, or 4 when a database cannot be reached.
    """
    settings: Settings | None = None
    try:
        settings = common.settings()
        found = gather(settings, (database,) if database else NAMES, limit, common.send)
    except Exception as error:  # noqa: BLE001 - told in one place
        text = common.message_of(error, settings) or str(error)
        console(sys.stderr).print(Text(text, "bold red"))
        sys.exit(common.status_of(error))
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        _Report(found).show(console(sys.stdout))
    sys.exit(common.UNREACHABLE if found.unreachable else 0)


class _Report:
    """The history for a person: a line an entry, below the run that it belongs to."""

    def __init__(self, found: History) -> None:
        self._found = found
        # A run is one person's; what was done to it may be another one's.
        self._by = {entry.run: entry.by for entry in found.entries if not _by_hand(entry)}
        rows = [_cells(entry) for entry in found.entries]
        self._widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def show(self, out: Console) -> None:
        """Print all of it; on a terminal a line that is too long is cut."""
        heading, last = "", list[str]()
        for entry in self._found.entries:
            if heading != (heading := self._heading(entry)):
                out.print(Text(heading, "bold"))
                last = []
            out.print(self._line(entry), no_wrap=True, overflow="ellipsis")
            below = list(_below(entry))
            if below != last or entry.event not in DECLARED:
                for text in below:
                    out.print(Indented(text, 4))
            last = below
        for error in self._found.errors.values():
            out.print(Text(error, "bold red"))
        for name in self._found.unknown:
            text = f"{name}: not known: no URL is set, and no live worker serves it"
            out.print(Text(text, "yellow"))
        if not (self._found.entries or self._found.errors or self._found.unknown):
            out.print(Text("Nothing has been done yet."))

    def _heading(self, entry: Told) -> str:
        by = f" by {self._by[entry.run]}" if entry.run in self._by else ""
        return f"{entry.at.astimezone(UTC):%Y-%m-%d} (UTC)  run {entry.run}{by}"

    def _line(self, entry: Told) -> Text:
        *cells, last = _cells(entry)
        padded = [cell.ljust(width) for cell, width in zip(cells, self._widths, strict=False)]
        return Text(f"  {'  '.join([*padded, last])}".rstrip(), _STYLES.get(entry.event, ""))


def _cells(entry: Told) -> tuple[str, ...]:
    number = f" #{entry.number}" if entry.number else ""  # a run may have nothing open there
    return (
        f"{entry.at.astimezone(UTC):%H:%M:%S}",
        entry.database,
        entry.event,
        f"{entry.version or ''}{number}",
        "" if entry.seconds is None else words.duration(entry.seconds),
        _last(entry),
    )


def _last(entry: Told) -> str:
    """What is short: a run's direction, who took an operation, the name of what has ended."""
    return (entry.detail if entry.event == "run" else entry.worker or entry.name) or ""


def _by_hand(entry: Told) -> bool:
    """Whether it was done to a run, by somebody who need not be the run's."""
    return bool(entry.detail) and entry.event not in {"run", *DECLARED}


def _below(entry: Told) -> Iterator[str]:
    """What is long, or needs to be said whole; for several entries that say the same, once."""
    if entry.error:
        yield entry.error
    if _by_hand(entry):
        yield f"by {entry.by}: {entry.detail}"
    elif entry.event in DECLARED and entry.detail:
        yield entry.detail
