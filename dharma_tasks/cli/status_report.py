"""The status for a person: a table for each database, and what to do below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.text import Span, Text

from dharma_tasks import advice, words
from dharma_tasks.cli.screen import Indented, two_lines
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.report import Row
from dharma_tasks.run import RunState
from dharma_tasks.status import Alive, DatabaseStatus, MigrationStatus, Status

__all__ = ["Report", "notes", "old", "one_line", "standing"]

_NAME = 24
"""Longer names are cut, so that a line has 80 columns."""
_STYLES = {
    MigrationState.PENDING: "dim",
    MigrationState.RUNNING: "bold cyan",
    MigrationState.APPLIED: "green",
    MigrationState.FAILED: "bold red",
    MigrationState.ROLLING_BACK: "bold yellow",
    MigrationState.ROLLED_BACK: "yellow",
}
_USUAL = {None, RunState.RUNNING}
_STOPPED = (MigrationState.FAILED, MigrationState.ROLLED_BACK)
_WORKED_ON = (MigrationState.RUNNING, MigrationState.ROLLING_BACK)
_Cells = tuple[str, str, str, str, str, str]
_OPEN = (OperationState.RUNNING, OperationState.FAILED, OperationState.UNDOING)


class Report:
    """A status as it was read at one moment; `rows` are what an open run does in its databases.

    A `brief` one has no tables, and one line of each error.
    """

    def __init__(
        self, result: Status, rows: Mapping[str, Row] | None = None, *, brief: bool = False
    ) -> None:
        """Nothing is printed yet."""
        self._result = result
        self._rows = rows or {}
        self._brief = brief

    def show(self, out: Console) -> None:
        """Print all of it."""
        for part in self.parts():
            out.print(part)

    def parts(self) -> Iterator[RenderableType]:
        """All of it, from the top."""
        databases = self._result.databases
        names = [len(m.name) for found in databases.values() for m in found.migrations]
        width = min(max([len("name"), *names]), _NAME)
        for name, found in databases.items():
            yield from self._database(name, found, width)
        for note in notes(self._result):
            yield _note(note, "yellow")
        for problem in self._result.problems:
            yield Indented(problem, 2)

    def _database(self, name: str, found: DatabaseStatus, width: int) -> Iterator[RenderableType]:
        """One database; `width` is that of the names, so that the tables look alike."""
        yield Text.assemble((name, "bold"), f"  {standing(found)}")
        if found.error:
            error = words.first_line(found.error) if self._brief else found.error
            yield Indented(error, 2, "bold red")
        if found.migrations and not self._brief:
            yield Group(_table(found.migrations, width))  # print() forgets a bare text's no_wrap
        if row := self._rows.get(name):
            yield from two_lines(row, "  ")[: 1 if row.over else 2]
            if found.progress:
                yield Indented(_held(found.progress, found.run_state), 2, "dim")
        elif found.progress:
            yield Indented(_alive(found.progress, found.run_state), 2, "cyan")
        if self._brief:
            yield from _briefly(name, found)
        else:
            for migration in found.migrations:
                yield from _below(name, found, migration)
        if not (self._result.redis or found.as_of):  # else a run may well have it, or have had it
            yield from (part for each in found.migrations for part in _idle(name, found, each))
        yield Text()


def _note(text: str, style: str = "") -> RenderableType:
    return Text(text, style)


def one_line(text: str, style: str = "") -> RenderableType:
    """Cut at the edge of the terminal."""
    return Group(Text(text, style, no_wrap=True, overflow="ellipsis"))


def notes(result: Status) -> Iterator[str]:
    """What is to be said of all databases."""
    if result.redis:
        yield f"{result.redis}. Without it nothing that runs now can be seen."
    elif not result.workers:
        yield "No worker is alive (start one: celery -A dharma_tasks worker)."
    if result.problems:
        count = words.several(len(result.problems), "problem")
        yield f"The folder has {count}, so what is pending is not known; submit would refuse:"


def standing(found: DatabaseStatus) -> str:
    """How far it is, in one line."""
    if found.error and not found.as_of:
        return "not known"
    if not found.known:
        return "not known: no URL is set, and no live worker serves it"
    at = f"at {found.current}" if found.current else "nothing applied"
    total = len(found.migrations)
    parts = [at, f"{found.applied:,} of {words.several(total, 'migration')}"] if total else [at]
    if found.run:
        shown = "" if found.run_state in _USUAL else f" ({found.run_state})"
        parts.append(f"run {found.run}{shown}")
    return ", ".join(parts)


def old(found: DatabaseStatus) -> str:
    """Of when it is what is shown, where that cannot be read now."""
    return f" What is shown is as of {found.as_of:%H:%M:%S} UTC." if found.as_of else ""


def _table(migrations: Sequence[MigrationStatus], width: int) -> Text:
    """A line each. Rich's own table takes longer for a thousand than all the rest does."""
    rows = [_head(width), *(_cells(found, width) for found in migrations)]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    head, *lines = (_line(row, widths) for row in rows)
    text = "".join(head)
    spans = [Span(0, len(text), "dim")]
    for found, (before, state, after) in zip(migrations, lines, strict=True):
        start = len(text) + len("\n") + len(before)
        spans.append(Span(start, start + len(state), _STYLES[found.state]))
        text += f"\n{before}{state}{after}"
    return Text(text, no_wrap=True, overflow="ellipsis", spans=spans)


def _head(width: int) -> _Cells:
    return "version", _fitted("name", width), "state      ", "done", "began (UTC)     ", "  took"


def _cells(found: MigrationStatus, width: int) -> _Cells:
    done = sum(operation.state is OperationState.DONE for operation in found.operations)
    return (
        found.version,
        _fitted(found.name, width),
        found.state + _mark(found),
        f"{done}/{len(found.operations)}",
        f"{found.started:%Y-%m-%d %H:%M}" if found.started else "",
        "" if found.seconds is None else words.duration(found.seconds),
    )


def _fitted(name: str, width: int) -> str:
    """Cut or filled; some characters are two columns wide."""
    if cell_len(name) > width:
        name = f"{set_cell_size(name, width - 1)}…"
    return set_cell_size(name, width)


def _line(cells: _Cells, widths: Sequence[int]) -> tuple[str, str, str]:
    """What comes before the state, the state, and what comes after it."""
    version, name, state, done, began, took = cells
    left, _, middle, *right = widths
    numbers = f"{done:>{right[0]}}  {began:{right[1]}}  {took:>{right[2]}}"
    return f"  {version:{left}}  {name}  ", f"{state:{middle}}", f"  {numbers}"


def _mark(found: MigrationStatus) -> str:
    """What is said of it below the table."""
    for sign, marked in (("*", found.changed), ("?", found.missing), ("!", found.late)):
        if marked:
            return f" {sign}"
    return ""


def _alive(alive: Alive, state: RunState | None) -> str:
    moved = ", ".join(words.progress(alive.done, alive.total, alive.rate if alive.holder else 0))
    of = f"{alive.operation}/{alive.operations} " if alive.operations > 1 else ""
    lines = [
        f"{alive.version} {of}{'undo ' if alive.undo else ''}{alive.type} {alive.summary}",
        *([f"  {moved}"] if moved else []),
        f"  {_held(alive, state)}",
    ]
    if alive.waiting:
        lines.append(f"  waits: {words.first_line(alive.waiting)}")
    return "\n".join(lines)


def _held(alive: Alive, state: RunState | None) -> str:
    """The last sign of life, and who has the lease."""
    nobody = "no lease: a worker will take it over"
    if state is RunState.PAUSED:
        nobody = f"paused (go on: dharma resume {alive.run})"
    holder = f"held by {alive.holder}" if alive.holder else nobody
    return f"heartbeat {words.duration(alive.age)} ago, {holder}"


def _tried(
    found: DatabaseStatus, migration: MigrationStatus, number: int
) -> Iterator[RenderableType]:
    """Who had an operation last, how often it was begun, and what came in between."""
    operation = migration.operations[number - 1]
    parts = [f"last worker {operation.worker}"] if operation.worker else []
    if operation.attempts > 1:
        parts.append(f"begun {operation.attempts} times without progress")
    if parts:
        what = f"{migration.version} {number}/{len(migration.operations)} {operation.type}"
        yield Indented(f"{what} {operation.state}: {', '.join(parts)}", 2)
    error = operation.error
    told = (migration.error or "", (found.progress and found.progress.waiting) or "")
    if error and not any(error in each for each in told):
        yield Indented(f"last error: {error.strip()}", 4, "yellow")


def _rollback(name: str, found: DatabaseStatus, migration: MigrationStatus) -> str:
    """The command that finishes the way back of `migration`."""
    return advice.rollback(name, found.below(migration))


def _left(migration: MigrationStatus) -> str:
    """What is there of one that could not be undone as a whole."""
    parts = []
    for number, each in enumerate(migration.operations, start=1):
        if each.state is OperationState.DONE:
            parts.append(f"{number} {each.type}")
        elif each.done:
            parts.append(f"{number} {each.type} ({words.amount(each.done, each.total)})")
    return ", ".join(parts)


def _unfit(migration: MigrationStatus) -> Iterator[str]:
    """How its file does not fit, with the mark that it has in the table, and what to do."""
    there = f"{migration.version} is {migration.state}, and its file"
    if migration.moved:
        todo = f"put {migration.version} back"
        yield f"{_mark(migration).strip()} {there} says the version {migration.moved} now: {todo}."
    elif migration.changed:
        yield f"* {there} was changed since: put it back as it was."
    elif migration.missing:
        yield f"? {_missing(migration)}"
    if migration.late:
        text = f"! {migration.version} is late: a higher version is there already"
        todo = "give it a version above, or submit with --allow-out-of-order if it may run after it"
        yield f"{text}: {todo}."


def _missing(migration: MigrationStatus) -> str:
    there = f"{migration.version} is {migration.state}, and"
    if migration.newer and migration.state is MigrationState.APPLIED:
        return f"{there} newer than every file in this folder: look whether it is the right one."
    return f"{there} its file is not in the folder: put it back as it was submitted."


def _below(
    name: str, found: DatabaseStatus, migration: MigrationStatus
) -> Iterator[RenderableType]:
    """What needs a word: a failure with its message, a file that does not fit."""
    for number, operation in enumerate(migration.operations, start=1):
        if operation.state in _OPEN:
            yield from _tried(found, migration, number)
    if migration.error and migration.state in _STOPPED:
        yield Indented(f"{migration.version} {migration.state}:", 2, "bold red")
        yield Indented(migration.error.strip(), 4)
        failed = migration.state is MigrationState.FAILED
        if failed and not migration.half_undone and (left := _left(migration)):
            yield Indented(f"Left of it: {left}", 2)
        yield Indented(_todo(name, found, migration), 2)
    yield from (Indented(text, 2, "yellow") for text in _unfit(migration))


def _todo(name: str, found: DatabaseStatus, migration: MigrationStatus) -> str:
    """What to do about one that has failed."""
    command = _rollback(name, found, migration) if migration.half_undone else None
    return advice.after_stop(migration.state, command)


def _idle(name: str, found: DatabaseStatus, migration: MigrationStatus) -> Iterator[RenderableType]:
    """Of one that was begun, and that nobody goes on with."""
    if migration.state in _WORKED_ON and found.run is None:
        text = (
            f"{migration.version} is {migration.state}, and no run that Redis knows goes on with it"
        )
        back = migration.half_undone
        todo = _rollback(name, found, migration) if back else "submit again."
        yield Indented(f"{text}: {todo}", 2, "yellow")


def _briefly(name: str, found: DatabaseStatus) -> Iterator[RenderableType]:
    """What is to come, and what needs a word, in a line or two each."""
    for migration in found.migrations:
        if migration.error and migration.state in _STOPPED:
            error = words.first_line(migration.error)
            yield one_line(f"  {migration.version} {migration.state}: {error}", "bold red")
            yield Indented(_todo(name, found, migration), 2)
    pending = [each for each in found.migrations if each.state is MigrationState.PENDING]
    if pending:
        some = ", ".join(f"{each.version} {each.name}" for each in pending)
        yield one_line(f"  {len(pending):,} pending: {some}", "dim")
