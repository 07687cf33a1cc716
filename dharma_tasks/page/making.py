"""From what is known to what is shown. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dharma_tasks import advice, report, words
from dharma_tasks.databases import NAMES
from dharma_tasks.page.known import Known
from dharma_tasks.page.shown import (
    DatabaseShown,
    EntryShown,
    Moving,
    Now,
    RunShown,
    Shown,
    Step,
    Trouble,
)
from dharma_tasks.page.submissions import Submission
from dharma_tasks.records import Direction, MigrationState
from dharma_tasks.report import Row, View
from dharma_tasks.run import Run, RunState
from dharma_tasks.status import DatabaseStatus, Pulse, at_work
from dharma_tasks.trail import Told

__all__ = ["Facts", "make"]

_EARLIER = 8
"""How many applied steps are shown before the first one that is not."""
_LATER = 14
"""How many are shown from there on."""
_FEW = 2
"""So few are not worth leaving out."""
_HISTORY = 15
_QUIET_SECONDS = 15
"""An older sign of life is worth a word: a lease has run out by then."""
_SMALL = frozenset(("started", "taken", "done"))
"""Entries of the audit trail about single operations, which `dharma history` has."""
_WHAT = {
    MigrationState.FAILED: "has failed",
    MigrationState.ROLLED_BACK: "has failed, and was rolled back",
}
_WORKED_ON = (MigrationState.RUNNING, MigrationState.ROLLING_BACK)
_SUBMIT = "dharma submit --target latest"


@dataclass(frozen=True)
class Facts:
    """All that the page knows at `now` (seconds since 1970).

    `pulse` is what Redis said last; if it has an error, that was before `lost`. `journals` is what
    the journals say, in as far as they were read. `busy` is when an open run was last seen to have
    a database: what its journal said before that is not the end of it.
    """

    now: float
    pulse: Pulse
    known: Mapping[str, Known]
    journals: Mapping[str, DatabaseStatus] = field(default_factory=dict)
    submissions: Mapping[str, Submission] = field(default_factory=dict)
    lost: float | None = None
    busy: Mapping[str, float] = field(default_factory=dict)


def make(facts: Facts) -> Shown:
    """Put together what is shown."""
    rows = _rows(facts)
    there = facts.journals.keys() | rows.keys()
    return Shown(
        at=_time(facts.now),
        lost=facts.pulse.error,
        lost_since=_maybe(facts.lost),
        workers=list(facts.pulse.workers),
        runs=[_run(found.run, found.state) for found in facts.pulse.snapshots],
        databases=[
            _database(name, rows.get(name), facts)
            for name in NAMES
            if name in there or facts.known[name].error
        ],
        history=_history(facts.known),
    )


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _maybe(seconds: float | None) -> datetime | None:
    return None if seconds is None else _time(seconds)


def _rows(facts: Facts) -> dict[str, Row]:
    """What `submit` would show of each database at this moment."""
    unserved = frozenset(NAMES) - facts.pulse.served
    found: dict[str, Row] = {}
    for name, submission in facts.submissions.items():
        view = View(
            snapshot=submission.snapshot,
            now=facts.now,
            plan=submission.plan,
            migrations=submission.migrations,
            surveyed=submission.surveyed,
            unserved=unserved,
        )
        found |= {row.database: row for row in report.rows(view) if row.database == name}
    return found


def _run(run: Run, state: RunState) -> RunShown:
    back = run.direction is Direction.BACK
    return RunShown(
        id=run.id,
        by=run.by,
        created=run.created,
        goal=f"back to {run.target}" if back else f"to {run.target}",
        state=state,
        databases=[name for name in NAMES if name in run.databases],
        command=f"dharma resume {run.id}" if state is RunState.PAUSED else None,
    )


# -- a database ----------------------------------------------------------------------------


def _database(name: str, row: Row | None, facts: Facts) -> DatabaseShown:
    known, found = facts.known[name], facts.journals.get(name, DatabaseStatus())
    snapshot = facts.pulse.snapshot(name)
    states = _states(found, name, facts.submissions.get(name))
    begin, end = _around(states)
    late = (known.at or 0) < facts.busy.get(name, 0)
    applied = [n for n, state in enumerate(states) if state is MigrationState.APPLIED]
    return DatabaseShown(
        name=name,
        current=found.migrations[applied[-1]].version if applied else None,
        applied=len(applied),
        total=len(states),
        steps=[
            Step(version=each.version, name=each.name, state=state)
            for each, state in zip(found.migrations[begin:end], states[begin:end], strict=True)
        ],
        earlier=begin,
        later=len(states) - end,
        moving=_moving(row, facts) if row and not row.over else None,
        ended=f"{'This' if snapshot else 'Last'} run: {row.title}" if row and row.over else "",
        troubles=list(_troubles(name, found, open_=snapshot is not None or late)),
        read=_maybe(known.at),
        stale=known.error,
        stale_since=_maybe(known.since),
    )


def _states(
    found: DatabaseStatus, database: str, submission: Submission | None
) -> list[MigrationState]:
    """As the journal says them, or as an open run has moved them on since that was read."""
    states = [each.state for each in found.migrations]
    if submission is None or submission.plan is None or submission.snapshot.state.over:
        return states
    snapshot = submission.snapshot
    back = snapshot.run.direction is Direction.BACK
    over = MigrationState.ROLLED_BACK if back else MigrationState.APPLIED
    order = submission.plan.orders.get(database, ())
    ended = frozenset(order[: snapshot.done.get(database, 0)])
    at = snapshot.working.get(database)
    for number, each in enumerate(found.migrations):
        if each.version in ended:
            states[number] = over
        elif at is not None and at.version == each.version and each.state is not over:
            undone = back or at.until is not None
            states[number] = MigrationState.ROLLING_BACK if undone else MigrationState.RUNNING
    return states


def _around(states: Sequence[MigrationState]) -> tuple[int, int]:
    """The part of the line that is shown: around the first step that is not applied."""
    first = next(
        (n for n, state in enumerate(states) if state is not MigrationState.APPLIED), len(states)
    )
    begin = first - _EARLIER
    return begin if begin > _FEW else 0, min(first + _LATER, len(states))


def _moving(row: Row, facts: Facts) -> Moving:
    return Moving(
        version=row.title.partition(" ")[0],
        title=row.title,
        position=row.position,
        now=_now(row, facts) if row.detail else None,
        waits=row.waits,
    )


def _now(row: Row, facts: Facts) -> Now:
    progress = row.progress
    if progress is None:
        return Now(what=row.detail)
    snapshot = facts.submissions[row.database].snapshot
    alive = at_work(row.database, snapshot, facts.pulse.leases)
    share = None if progress.total is None else progress.done / max(progress.total, 1)
    # That of the row is another one, where it is to show no rate.
    quiet = max(facts.now - snapshot.progress[row.database].heartbeat, 0)
    rests = snapshot.state is RunState.PAUSED or progress.opens is not None
    return Now(
        what=row.detail,
        share=None if share is None else min(share, 1.0),
        numbers=report.numbers(progress),
        worker=(alive and alive.holder) or progress.worker,
        heartbeat=f"{words.duration(quiet)} ago",
        quiet=quiet > _QUIET_SECONDS and not rests,
    )


# -- troubles ------------------------------------------------------------------------------


def _troubles(name: str, found: DatabaseStatus, *, open_: bool) -> Iterator[Trouble]:
    """`open_` says that a run has the database, and goes on with what it has begun.

    Or that it had it when the journal was read: what that says then is not the end of it.
    """
    for migration in found.migrations:
        title = f"{migration.version} {migration.name}"
        back = None
        if migration.half_undone:
            back = advice.rollback(name, found.below(migration))
        if migration.error and migration.state in _WHAT:
            yield Trouble(
                title=f"{title} {_WHAT[migration.state]}",
                error=migration.error.strip(),
                todo=advice.after_stop(migration.state, back),
                command=back or _SUBMIT,
            )
        elif migration.error and migration.state is MigrationState.ROLLING_BACK and open_:
            yield Trouble(
                title=f"{title} has failed",
                error=migration.error.strip(),
                todo="What was done of it is being undone.",
            )
        elif migration.state in _WORKED_ON and not open_:
            yield Trouble(
                title=f"{title} is {_said(migration.state)}",
                error=migration.error,
                todo="No run that Redis knows goes on with it.",
                command=back or _SUBMIT,
            )


def _said(word: str) -> str:
    return word.replace("_", " ")


# -- the audit trails ----------------------------------------------------------------------


def _history(known: Mapping[str, Known]) -> list[EntryShown]:
    """The last entries of all audit trails, newest first."""
    entries = [
        entry for each in known.values() for entry in each.entries if entry.event not in _SMALL
    ]
    entries.sort(key=lambda entry: entry.at, reverse=True)
    return [_entry(entry) for entry in entries[:_HISTORY]]


def _entry(entry: Told) -> EntryShown:
    number = f" #{entry.number}" if entry.number is not None else ""
    what, text = f"{entry.version}{number} {entry.name or ''}", entry.error or entry.detail
    if entry.event == "run":
        what, text = f"{entry.run} {entry.detail or ''}", None
    elif not entry.version:  # done to the run, while nothing was open here
        what = entry.run
    return EntryShown(
        at=entry.at,
        database=entry.database,
        event=_said(entry.event),
        what=what.strip(),
        took="" if entry.seconds is None else words.duration(entry.seconds),
        by=entry.by,
        text=(text or "").strip(),
    )
