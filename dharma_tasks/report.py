"""What a run looks like to a person: one row a database, one line an event. Pure functions.

Where it is written (a terminal, a log, a JSON document) is decided in `dharma_tasks/cli/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dharma_tasks import words
from dharma_tasks.databases import NAMES
from dharma_tasks.migration import Migration, Reference, reference
from dharma_tasks.planner import Plan
from dharma_tasks.records import Direction
from dharma_tasks.run import Event, Next, Progress, Run, RunState, Snapshot

__all__ = ["ENDED", "START_A_WORKER", "Row", "View", "ended", "event_line", "numbers", "rows"]

START_A_WORKER = "celery -A dharma_tasks worker"
ENDED = {"applied": "applied", "rolled_back": "rolled back"}
"""The kinds of events with which a migration ends as it was meant to, in words."""
_STILL_SECONDS = 3
"""After so long without a sign of life no rate is shown any more."""
_QUIET_SECONDS = 15
"""A sign of life that is older is worth a word: a lease has run out by then."""


@dataclass(frozen=True)
class View:
    """All that is known of a run at one moment.

    `plan` is None until a worker has made it; `migrations` are the folder's, by name;
    `surveyed` are the databases whose journals were read; `unserved` those that no live worker
    serves; `now` is in seconds since 1970.
    """

    snapshot: Snapshot
    now: float
    plan: Plan | None = None
    migrations: Mapping[Reference, Migration] = field(default_factory=dict)
    surveyed: frozenset[str] = frozenset()
    unserved: frozenset[str] = frozenset()


def ended(run: Run) -> str:
    """What a migration is when this run is through with it."""
    return "applied" if run.direction is Direction.FORWARD else "rolled back"


@dataclass(frozen=True)
class Row:
    """One database. `progress` is set while an operation moves, `waits` says why none does."""

    database: str
    position: str
    """Which migration of how many: `3/7`."""
    title: str
    """Version and name of that migration."""
    detail: str = ""
    """What it does: `2/3 create_index users(email)`."""
    progress: Progress | None = None
    waits: str = ""
    over: bool = False


def rows(view: View) -> list[Row]:
    """One row for each database that the run works on."""
    snapshot = view.snapshot
    if RunState.PLANNING in {snapshot.state, snapshot.was}:
        return [_planning(view, database) for database in _ordered(snapshot.run.surveyed)]
    return [
        _working(view, database, snapshot.working[database])
        if database in snapshot.working
        else _resting(view, database)
        for database in _ordered(snapshot.total)
        if snapshot.total[database]
    ]


def _ordered(databases: Iterable[str]) -> list[str]:
    return sorted(databases, key=NAMES.index)


def _planning(view: View, database: str) -> Row:
    if database in view.surveyed:
        return Row(database, "", "journal read", over=True)
    waits = _paused(view) or _no_worker(view, database)
    return Row(database, "", "reads its journal", waits=waits)


def _working(view: View, database: str, at: Next) -> Row:
    progress = view.snapshot.progress.get(database)
    moving = progress and (progress.version, progress.number) == (at.version, at.number)
    detail = _operation(view, database, at)
    waits = _paused(view) or _no_worker(view, database)
    if progress and moving:
        undo = "undo " if at.until is not None else ""
        place = _of(at.number, progress.count, view.migrations.get(reference(database, at.version)))
        left = len(view.snapshot.ranges.get(database, ()))
        ranges = f" ({words.several(left, 'range')} left)" if left else ""
        detail = f"{place}{undo}{progress.type} {progress.summary}{ranges}"
        quiet = view.now - progress.heartbeat
        if quiet > _STILL_SECONDS:
            progress = _still(progress)
        if progress.waiting and not waits:
            waits = f"waits: {progress.waiting}"
        if not waits and quiet > _QUIET_SECONDS:
            waits = f"no sign of life from {progress.worker} for {words.duration(quiet)}"
    elif not waits:
        waits = _unconfirmed(view, database, at)
    return Row(
        database=database,
        position=_position(view, database, upcoming=True),
        title=_title(view, database, at.version),
        detail=detail,
        progress=progress if moving else None,
        waits=waits,
    )


def _resting(view: View, database: str) -> Row:
    snapshot = view.snapshot
    done, total = snapshot.done.get(database, 0), snapshot.total[database]
    if done >= total:
        what = f"{words.several(total, 'migration')} {ended(snapshot.run)}"
        return Row(database, _position(view, database), what, over=True)
    if RunState.RUNNING not in {snapshot.state, snapshot.was}:
        what = f"stopped: {words.several(total - done, 'migration')} not {ended(snapshot.run)}"
        return Row(database, _position(view, database), what, over=True)
    version = view.plan.orders[database][done] if view.plan else ""
    waits = _paused(view) or _no_worker(view, database)
    if not waits and database not in snapshot.generations:
        waits = "opens its journal"
    if not waits:
        waits = "waits for " + ", ".join(_needs(view, database, version))
    position = _position(view, database, upcoming=True)
    return Row(database, position, _title(view, database, version), waits=waits)


def _needs(view: View, database: str, version: str) -> Iterator[str]:
    """The migrations in other databases that are still in the way."""
    if view.plan is None:
        return
    for needed in view.plan.dependencies.get(reference(database, version), ()):
        other, _, wanted = needed.partition(":")
        order = view.plan.orders.get(other, ())
        if wanted in order[view.snapshot.done.get(other, 0) :]:
            yield needed


def _unconfirmed(view: View, database: str, at: Next) -> str:
    """Before its first operation a migration's dependencies are confirmed (Law 7).

    On the way back, which begins anywhere, before every chain.
    """
    if view.snapshot.run.direction is Direction.FORWARD and at.text != f"{at.version} 1":
        return ""
    for needed in (view.plan.dependencies if view.plan else {}).get(
        reference(database, at.version), ()
    ):
        other = needed.partition(":")[0]
        if other in view.unserved:
            return f"cannot confirm {needed}: {_no_worker(view, other)}"
    return ""


def _paused(view: View) -> str:
    if view.snapshot.state is not RunState.PAUSED:
        return ""
    return f"paused (go on: dharma resume {view.snapshot.run.id})"


def _no_worker(view: View, database: str) -> str:
    if database not in view.unserved:
        return ""
    return f"no worker alive for {database} (start one: {START_A_WORKER})"


def _position(view: View, database: str, *, upcoming: bool = False) -> str:
    total = view.snapshot.total[database]
    return f"{min(view.snapshot.done.get(database, 0) + upcoming, total)}/{total}"


def _title(view: View, database: str, version: str) -> str:
    found = view.migrations.get(reference(database, version))
    return f"{version} {found.name}" if found else version


def _operation(view: View, database: str, at: Next) -> str:
    """The operation that is next, before any worker says what it does: `2/3 create_index`."""
    found = view.migrations.get(reference(database, at.version))
    if found is None or at.number > len(found.operations) + len(found.rollback):
        return f"operation {at.number}"
    what = str(found.operation(at.number)["type"])
    by_file = at.number > len(found.operations)
    count = len(found.operations) + (len(found.rollback) if by_file else 0)
    return _of(at.number, count, found) + (f"undo {what}" if at.until else what)


def _of(number: int, count: int, found: Migration | None) -> str:
    """Which operation of how many; those of a rollback file, numbered on, are counted by itself."""
    before = len(found.operations) if found and number > len(found.operations) else 0
    return f"{number - before}/{count - before} " if count - before > 1 else ""


def numbers(progress: Progress) -> list[str]:
    """Done and total, the rate and its limit, and the time left, as far as they are known."""
    found = words.progress(progress.done, progress.total, progress.rate)
    return found if progress.limit is None else [*found, f"at most {words.rate(progress.limit)}"]


def _still(progress: Progress) -> Progress:
    """Without a rate: nothing has moved for a while."""
    return progress.model_copy(update={"heartbeat": progress.since})


def event_line(event: Event) -> str:
    """What happened, in one line."""
    text = words.first_line(event.text)
    name = f"{event.database} {event.version}"
    if event.kind in ENDED:
        took = "" if event.seconds is None else f" in {words.duration(event.seconds)}"
        return f"{name} {text} {ENDED[event.kind]}{took}"
    if event.kind == "left":
        return f"{name} {text}"
    return f"{event.kind}: {text}"


def plain_line(row: Row) -> str:
    """A row as one line of a log; empty where it says nothing that an event does not."""
    if row.over:
        return ""
    start = f"{row.database} {row.title}".rstrip()
    if row.waits:
        what = f" {row.detail}" if row.progress else ""
        return f"{start}{what}: {words.first_line(row.waits)}"
    if row.progress and (shown := numbers(row.progress)):
        return f"{start} {row.detail}: {', '.join(shown)}"
    return ""
