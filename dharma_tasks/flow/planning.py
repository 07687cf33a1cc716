"""Survey -> plan -> begin: what is to be done, decided once and from the journals."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import DharmaError, FenceLost, Problem, Refused, Stopped, Unsigned
from dharma_tasks.flow.context import Context, Overtaken, refusing
from dharma_tasks.journal import Opening
from dharma_tasks.logs import get_logger, stack_of
from dharma_tasks.messages import Chain, begin_message
from dharma_tasks.planned import TODO
from dharma_tasks.planner import Plan, Request, plan
from dharma_tasks.records import Direction, Survey
from dharma_tasks.reversal import plan_back
from dharma_tasks.run import Event, Run, RunState, Snapshot, is_run_id
from dharma_tasks.signing import confirm_recent

log = get_logger()


@refusing
def survey(context: Context, run: str, database: str) -> list[Chain]:
    """Store what the journal says; whoever brings the last survey makes the plan."""
    record = _planning(context, run)
    try:
        found = context.look(database, lambda what: context.tell(record, "waiting", what))
        elsewhere = context.elsewhere(record, database)
    except Exception as error:  # noqa: BLE001 - whatever it is, it ends the run
        context.runs.end(record, RunState.UNREACHABLE, [context.unreachable(database, error)])
        log.error("unreachable", run=run, database=database, **stack_of(error))
        return []
    if elsewhere:
        log.warning("elsewhere", run=run, database=database, reason=elsewhere.what)
        context.runs.end(record, RunState.REFUSED, [elsewhere])
        return []
    surveys = context.runs.put_survey(record, found)
    if set(surveys) < set(record.surveyed):
        return []
    return _plan(context, record, surveys)


def _planning(context: Context, run: str) -> Run:
    snapshot = context.runs.trusted(run)
    if snapshot is None or snapshot.state is not RunState.PLANNING:
        msg = f"run {run} is {snapshot.state if snapshot else 'not known'}, not planning"
        raise Overtaken(msg, context.orphans(run))
    return snapshot.run


def _confirm_newest(context: Context, run: Run, surveys: Mapping[str, Survey]) -> None:
    """Make sure that the run was asked for just now, after all that its journals have had.

    What is signed says who has asked, and not when: an old record may be put back, and there is
    no plan of it yet that a journal would refuse (FAULTS 27).

    Raises:
        Unsigned: it is an old one.
        Overtaken: it has been planned meanwhile, so the journals may have had it already.
    """
    confirm_recent(run.created, f"run {run.id}")
    for name in {*run.databases} & {*surveys}:
        head = surveys[name].head
        if head and is_run_id(head.run) and head.run >= run.id:
            _planning(context, run.id)
            what = f"the journal of {name} has had run {head.run} since run {run.id} was asked for"
            todo = (
                "Ask for the same again. Where it was asked for just now, clocks differ: set them."
            )
            raise Unsigned(what, todo)


def _plan(context: Context, run: Run, surveys: dict[str, Survey]) -> list[Chain]:
    if context.signer.on:
        _confirm_newest(context, run, surveys)
    request = Request(
        target=run.target,
        databases=run.databases,
        allow_out_of_order=run.allow_out_of_order,
        allow_major=run.allow_major,
        direction=run.direction,
        accept_data_loss=run.accept_data_loss,
    )
    try:
        way = plan if run.direction is Direction.FORWARD else plan_back
        made = way(context.runs.migrations(run), surveys, request)
    except Refused as refused:
        context.runs.end(run, RunState.REFUSED, refused.problems)
        return []
    for warning in made.warnings:
        context.tell(run, "warning", warning)
    if not context.runs.start(run, made):
        return []
    log.info("planned", run=run.id, **{db: len(order) for db, order in made.orders.items()})
    opened = [[begin_message(run.id, db)] for db, order in made.orders.items() if order]
    return opened or context.chains(run, context.runs.advance(run))


@refusing
def begin(context: Context, run: str, database: str) -> list[Chain]:
    """Raise the journal's generation for this run; start what is ready."""
    snapshot = context.runs.trusted(run)
    made = context.runs.plan(snapshot.run) if snapshot else None
    if snapshot is None or made is None or snapshot.state is not RunState.RUNNING:
        msg = f"run {run} is {snapshot.state if snapshot else 'not known'}"
        raise Stopped(msg)
    record = snapshot.run
    if context.signer.on and database not in snapshot.generations:
        confirm_recent(record.created, f"run {run}")
    try:
        if elsewhere := context.elsewhere(record, database):
            _stop(context, snapshot, RunState.REFUSED, elsewhere)
            return []
        generation = context.trying(
            context.database(database),
            lambda: _opened(context, record, made, database),
            lambda what: context.tell(record, "waiting", what),
        )
    except Unsigned:
        raise
    except FenceLost as error:
        what = f"the journal of {database} has changed since this run was planned: {error}"
        todo = "Ask for the same again: the new plan starts from what is there."
        _stop(context, snapshot, RunState.REFUSED, Problem("", "", what, todo))
        return []
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told
        log.error("unreachable", run=run, database=database, **stack_of(error))
        _cannot_begin(context, snapshot, database, error)
        return []
    ready = context.chains(record, context.runs.begun(record, database, generation))
    return ready or context.orphans(run, [database])


def _opened(context: Context, run: Run, made: Plan, database: str) -> int:
    """Open the journal, where it is the one that was planned for. Returns the run's generation."""
    journal, expected = context.database(database).journal, made.generations[database]
    head = journal.head() if context.signer.on else None
    if head is not None and head.identity != made.identities.get(database, head.identity):
        msg = f"this worker is connected to another {database} than the one that was planned for"
        raise FenceLost(msg)
    by, plan = run.by, made.checksum
    opening = Opening(run.id, run.direction, plan, by, run.accept_data_loss)
    generation = journal.begin(opening, expected)
    if context.signer.on and generation != expected + 1:
        what = f"run {run.id} has opened the journal of {database} before, by another plan"
        raise Unsigned(what, TODO)
    return generation


def _cannot_begin(context: Context, snapshot: Snapshot, database: str, error: Exception) -> None:
    """End the run, unless the error will pass: then the rescue timer sends this again."""
    problem = context.unreachable(database, error)
    ours = isinstance(error, DharmaError)
    if ours or context.database(database).classify(error) is Fault.LASTING:
        _stop(context, snapshot, RunState.UNREACHABLE, problem)
    else:
        context.tell(snapshot.run, "waiting", problem.what)


def _stop(context: Context, snapshot: Snapshot, state: RunState, problem: Problem) -> None:
    """End a run that cannot begin everywhere; databases that have begun finish what is open."""
    if snapshot.generations:
        event = Event(at=datetime.now(UTC), kind="failed", text=str(problem))
        context.runs.stop(snapshot.run, event)
    else:
        context.runs.end(snapshot.run, state, [problem])
