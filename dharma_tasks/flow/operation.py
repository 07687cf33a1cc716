"""Confirm -> operation -> what is ready: one operation, from its message to what comes next."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from structlog.contextvars import bound_contextvars

from dharma_tasks.control import OperationControl
from dharma_tasks.control_protocols import Control
from dharma_tasks.errors import Cancelled, MigrationFailed, Outdated, StepAside, Stopped
from dharma_tasks.flow import turning
from dharma_tasks.flow.context import Context, Overtaken, refusing
from dharma_tasks.flow.revealing import parsed
from dharma_tasks.hidden import Hidden
from dharma_tasks.identity import owner
from dharma_tasks.lease import Lease
from dharma_tasks.logs import get_logger
from dharma_tasks.measures import Measure, Outcome
from dharma_tasks.messages import Chain
from dharma_tasks.migration import Key, reference
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.paced import Throttled
from dharma_tasks.range_control import HelperControl, RangeLeases
from dharma_tasks.records import GONE, Direction, MigrationState
from dharma_tasks.run import Event, Job, Next, Progress
from dharma_tasks.runner import Runner
from dharma_tasks.work import Assignment

log = get_logger()

_ENDED = 100
"""Of how many runs and databases it is known what was ended last."""


class FailedForGood(MigrationFailed):
    """An operation failed for good; `instead` is what to send in its chain's place."""

    def __init__(self, failure: MigrationFailed, instead: list[Chain]) -> None:
        self.instead = instead
        super().__init__(str(failure), failure.state)

    def __reduce__(self) -> tuple[type[MigrationFailed], tuple[str, MigrationState]]:
        """What is to be sent is sent by then."""
        return MigrationFailed, (str(self), self.state)


@refusing
def confirm_dependency(context: Context, run: str, database: str, version: str) -> list[Chain]:
    """Let the database of a dependency say itself that it is applied (Law 7).

    On the way back it is one that depends on what is to be undone, and it is to be gone.
    """
    snapshot = context.snapshot(run)
    try:
        found = context.database(database)
        state = context.trying(found, lambda: found.journal.state(version))
    except Exception as error:
        context.tell(snapshot.run, "waiting", context.unreachable(database, error).what)
        msg = f"{reference(database, version)} cannot be confirmed"
        raise StepAside(msg) from error
    forward = snapshot.run.direction is Direction.FORWARD
    if state not in ((MigrationState.APPLIED,) if forward else GONE):
        msg = f"{reference(database, version)} is {state}"
        todo = "Waits for it to be applied" if forward else "Waits for it to be undone"
        context.tell(snapshot.run, "waiting", f"{msg}. {todo}")
        raise StepAside(msg)
    context.runs.confirm(snapshot.run, reference(database, version))
    return []


@refusing
def carry_out(context: Context, run: str, at: Next) -> list[Chain]:
    """Carry out one operation. Returns chains only where its migration ends, or turns back.

    Raises:
        StepAside: the rest of this chain must not be sent.
        MigrationFailed: a lasting error; the journal and the run say so.
    """
    with bound_contextvars(run=run, database=at.database, version=at.version, operation=at.number):
        try:
            job = context.runs.job(run, at)
        except Stopped as reason:
            raise Overtaken(str(reason), context.orphans(run)) from reason
        operation, hidden = parsed(context, job)
        lease = context.leases.acquire(at.key, owner(context.worker, {}), run)
        try:
            return _run(context, job, _runner(context, job, operation, hidden, lease))
        finally:
            lease.release()


@refusing
def carry_out_range(context: Context, run: str, at: Next, number: int) -> list[Chain]:
    """Work through one range of an operation that another worker has, and so goes on with.

    Raises:
        StepAside: it is not to be done, or not here, or not now.
        MigrationFailed: a lasting error; the range's record says so, for that worker.
    """
    key = at.key.of_range(number)
    with bound_contextvars(
        run=run, database=at.database, version=at.version, operation=at.number, range=number
    ):
        job = context.runs.job(run, at)
        if job.cancelled:
            msg = f"run {run} is cancelled"
            raise Stopped(msg)
        operation, hidden = parsed(context, job)
        lease = context.leases.acquire(key, owner(context.worker, {}), run)
        try:
            _runner(context, job, operation, hidden, lease, number).run()
        finally:
            lease.release()
    return []


def _runner(  # noqa: PLR0913, PLR0917 - what is there by then
    context: Context,
    job: Job,
    operation: Operation[Any],
    hidden: Hidden,
    lease: Lease,
    number: int | None = None,
) -> Runner:
    """For the operation, or for one range of it."""
    whole, limits = number is None, job.run.limits
    assignment = replace(_assignment(job), after=_not_seen(context, job))
    if number is not None:
        assignment = assignment.of_range(number)
    max_rate = limits.max_rate if isinstance(operation, Throttled) else None
    heavy = operation.burden(assignment.direction).heavy
    me = owner(context.worker, {})
    watch = OperationControl if whole else partial(HelperControl, crowded=context.crowded)
    control = watch(
        lease=lease,
        leases=context.leases,
        runs=context.runs,
        run=job.run.id,
        key=assignment.key,
        progress=_progress(context, assignment, operation, job, max_rate),
        shutting_down=context.shutting_down,
        forward=job.forward,
        window=limits.window if heavy else None,
        meter=context.meter,
    )
    return Runner(
        operation=operation,
        hidden=hidden,
        assignment=assignment,
        database=context.database(job.at.database),
        control=control,
        settings=context.settings,
        worker=context.worker,
        heavy=heavy,
        max_rate=max_rate,
        stuck_before=job.stuck_for if whole else 0.0,
        handed_on=whole and job.handed_on,
        accept_data_loss=job.run.accept_data_loss,
        passed_over=whole and context.runs.passes_over(job),
        ranges=RangeLeases(control, me) if whole else None,
    )


def _run(context: Context, job: Job, runner: Runner) -> list[Chain]:
    begun, assignment = time.monotonic(), runner.assignment
    log.info("started", type=assignment.type, works_on=runner.operation.summary)
    try:
        if job.cancelled:
            return _cancelled(context, job, runner)
        with _counted(runner.control):
            taken = runner.run()
    except Cancelled:
        context.runs.trusted(job.run.id)  # somebody with the key has cancelled it meanwhile
        return _cancelled(context, job, runner)
    except MigrationFailed as error:
        raise FailedForGood(error, _failed(context, job, error)) from error
    except Outdated as error:
        text = f"{error}. Submit again: a new run goes on from what the journal says"
        context.runs.failed(job.run, job.at, _event("failed", assignment.key, text))
        raise
    seconds = time.monotonic() - begun
    here = taken.done - (runner.first.done if runner.first else 0)
    log.info("finished", seconds=round(seconds, 3), done=taken.done, rate=here / seconds)
    following = None if assignment.last else job.at.after
    ended = not assignment.back or job.run.direction is Direction.BACK
    event = _end(job, assignment)
    ready = context.runs.moved(job.run, job.at, following, event, ended=ended)
    if following is None and ended:
        _note_ended(context, job)
    return context.chains(job.run, ready)


def _not_seen(context: Context, job: Job) -> str | None:
    """The version that must be over before it, unless this process has ended that itself."""
    seen = context.ended.get((job.run.id, job.at.database))
    return None if seen == job.before else job.before


def _note_ended(context: Context, job: Job) -> None:
    """What this process has ended itself it need not look for before what comes next."""
    if len(context.ended) > _ENDED:
        context.ended.clear()
    context.ended[job.run.id, job.at.database] = job.at.version


# -- its end -------------------------------------------------------------------------------


@contextmanager
def _counted(control: Control) -> Iterator[None]:
    """Count what comes of an operation; one whose worker is killed comes to nothing."""
    outcome = Outcome.FAILED
    try:
        yield
        outcome = Outcome.DONE
    except StepAside:
        outcome = Outcome.LEFT
        raise
    finally:
        control.measure(Measure.END, 1, outcome)


def _end(job: Job, assignment: Assignment) -> Event:
    """What is told when the migration ends with this operation."""
    if assignment.outcome is MigrationState.FAILED:
        return _left(job, range(1, assignment.until))
    seconds = time.time() - job.since
    return _event(assignment.outcome.value, assignment.key, job.migration.name, seconds)


def _failed(context: Context, job: Job, error: MigrationFailed) -> list[Chain]:
    """Let the run fail and, where it can, the migration go back."""
    event = _event("failed", job.at.key, f"{job.migration.file_of(job.at.number)}: {error}")
    if (
        error.state is MigrationState.ROLLED_BACK
    ):  # nothing of it was there, or its transaction is gone
        gone = _event("rolled_back", job.at.key, job.migration.name)
        context.runs.add_event(job.run.id, gone)
    turn = turning.after_failure(context, job, error)
    if turn and turn.undo is None:
        context.runs.add_event(job.run.id, _left(job, turn.left))
    ready = context.runs.failed(job.run, job.at, event, turn.undo if turn else None)
    return context.chains(job.run, ready)


def _cancelled(context: Context, job: Job, runner: Runner) -> list[Chain]:
    """Let a cancelled run go back: what is open here is undone, as far as it can be.

    Raises:
        StepAside: the database does not answer; whoever is sent here next tries again.
    """
    at, name = job.at, job.migration.name
    try:
        runner.confirm_order()
        record = turning.journalled(context, at)
        if record is not None and record.state is MigrationState.APPLIED:
            event = _event("applied", at.key, name, time.time() - job.since)
            return context.chains(job.run, context.runs.moved(job.run, at, None, event))
        turn = turning.after_cancel(job, record, runner)
    except StepAside:
        raise
    except Exception as error:
        context.tell(job.run, "waiting", context.unreachable(at.database, error).what)
        msg = f"{at.key} cannot be undone at this moment"
        raise StepAside(msg) from error
    if turn.left:
        left = turning.named(job.migration, turn.left)
        what = f"Left as it is, for it cannot be undone: {left}. A new submit goes on with it"
        event = _event("left", at.key, what)
    else:
        event = _event("cancelled", at.key, f"{at.key} had not begun")
    context.runs.moved(job.run, at, turn.undo, event, ended=False)
    log.info("cancelled", undo_until=turn.undo.until if turn.undo else None)
    return context.chains(job.run, [turn.undo] if turn.undo else [])


def _left(job: Job, numbers: Iterable[int]) -> Event:
    what = "Left is what cannot be undone, and what was before it: "
    return _event("left", job.at.key, what + turning.named(job.migration, numbers))


def _event(kind: str, key: Key, text: str, seconds: float | None = None) -> Event:
    return Event(
        at=datetime.now(UTC),
        kind=kind,
        database=key.database,
        version=key.version,
        text=text,
        seconds=seconds,
    )


# -- its beginning -------------------------------------------------------------------------


def _progress(
    context: Context,
    assignment: Assignment,
    operation: Operation[Any],
    job: Job,
    max_rate: float | None,
) -> Progress:
    now = time.time()
    return Progress(
        version=assignment.key.version,
        name=assignment.name,
        number=assignment.key.number,
        count=assignment.count,
        back=assignment.back,
        type=assignment.type,
        summary=operation.summary,
        worker=context.worker,
        since=now,
        heartbeat=now,
        limit=operation.bounds().slowed(max_rate).rate,
        stuck_for=job.stuck_for,
        handed_on=job.handed_on,
    )


def _assignment(job: Job) -> Assignment:
    migration, at = job.migration, job.at
    direction, outcome = Direction.FORWARD, MigrationState.APPLIED
    count, first = len(migration.operations), 1
    if at.until is not None:
        direction = Direction.BACK
        outcome = MigrationState.ROLLED_BACK if at.until == 1 else MigrationState.FAILED
    elif at.number > count:
        first = count + 1
        count += len(migration.rollback)
        outcome = MigrationState.ROLLED_BACK
    return Assignment(
        run=job.run.id,
        generation=job.generation,
        by=job.run.by,
        key=at.key,
        name=migration.name,
        checksum=migration.stamp,
        type=migration.operation(at.number)["type"],
        count=count,
        direction=direction,
        outcome=outcome,
        until=at.until or 1,
        first=first,
    )
