"""What each task does, without Celery: survey -> plan -> begin -> operation -> what is ready.

Every function returns the chains to send next; a chain is a list of messages of which each is
sent when the one before it has done its part. `StepAside` means: do not send the rest.
Messages are hints (Law 1): each function asks the run's record and the journal what is true.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from threading import local
from typing import Any, TypeVar

import structlog
from pydantic import ValidationError
from redis import Redis
from structlog.contextvars import bound_contextvars
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from dharma_tasks import trail
from dharma_tasks.control import OperationControl
from dharma_tasks.databases import connect
from dharma_tasks.databases.base import Database, Fault
from dharma_tasks.errors import (
    Cancelled,
    DharmaError,
    FenceLost,
    Outdated,
    Problem,
    Refused,
    StepAside,
    Stopped,
    Unreachable,
)
from dharma_tasks.identity import owner
from dharma_tasks.journal import (
    Assignment,
    Direction,
    Entry,
    MigrationRecord,
    MigrationState,
    Opening,
    OperationState,
    Survey,
)
from dharma_tasks.lease import Held, Lease, Leases
from dharma_tasks.messages import (
    UNLOCK_LATE,
    UNLOCKED,
    WRITTEN,
    Chain,
    begin_message,
    operation_chain,
    orphans,
)
from dharma_tasks.migration import Key, Migration, reference
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Operation
from dharma_tasks.planner import Request, plan
from dharma_tasks.reversal import irreversible, plan_back
from dharma_tasks.run import Event, Job, Next, Progress, Run, RunState, Snapshot
from dharma_tasks.runner import MigrationFailed, Runner
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings

log = structlog.get_logger()

Answer = TypeVar("Answer")

REACH_SECONDS = 10
"""How long a survey tries to reach its database before the submit is told."""
_APPLIED = (MigrationState.APPLIED,)
_ROLLED_BACK = (MigrationState.PENDING, MigrationState.ROLLED_BACK)
REPLY_SECONDS = 60
"""How long the answer to a `status` waits to be fetched."""


class Overtaken(Stopped):
    """The run is further than this message; `instead` is what to send in its place."""

    def __init__(self, reason: str, instead: list[Chain]) -> None:
        self.instead = instead
        super().__init__(reason)


class TurnedBack(MigrationFailed):
    """An operation failed for good; `instead` is what to send in its chain's place."""

    def __init__(self, failure: MigrationFailed, instead: list[Chain]) -> None:
        self.instead = instead
        super().__init__(str(failure), failure.state)

    def __reduce__(self) -> tuple[type[MigrationFailed], tuple[str, MigrationState]]:
        """What is to be sent is sent by then."""
        return MigrationFailed, (str(self), self.state)


class Flow:
    """The flow as one worker process carries it out. Safe to use from several threads."""

    def __init__(
        self,
        settings: Settings,
        redis: Redis,
        *,
        worker: str,
        shutting_down: Callable[[], bool],
    ) -> None:
        """`worker` is the name shown to people; `shutting_down` is asked between batches."""
        self.settings = settings
        self.redis = redis
        self.worker = worker
        self.runs = Runs(redis, settings.namespace)
        self.leases = Leases(redis, settings.namespace, settings.lease_seconds)
        self._shutting_down = shutting_down
        self._threads = local()

    def database(self, name: str) -> Database[Any]:
        """This thread's connection to `name`; sessions must not be shared between threads.

        Raises:
            Unreachable: this worker's settings have no URL for it.
        """
        open_ones: dict[str, Database[Any]] = self._threads.__dict__.setdefault("databases", {})
        if name not in open_ones:
            try:
                open_ones[name] = connect(name, self.settings)
            except KeyError:
                msg = f"the worker {self.worker} has no DHARMA_{name.upper()}_URL"
                raise Unreachable(msg) from None
        return open_ones[name]

    def close(self) -> None:
        """Close this thread's databases."""
        for database in self._threads.__dict__.pop("databases", {}).values():
            database.close()

    # -- survey, plan ---------------------------------------------------------------------

    def look(self, database: str, tell: Callable[[str], None] = lambda _: None) -> Survey:
        """Read a journal, trying for a while to reach it; `tell` hears what is in the way."""
        found = self.database(database)
        return self._trying(found, found.journal.survey, tell)

    def _trying(
        self,
        found: Database[Any],
        call: Callable[[], Answer],
        tell: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        """Call until it works, over passing errors, for `REACH_SECONDS`."""

        def passing(error: BaseException) -> bool:
            if found.classify(error) is Fault.LASTING:
                return False
            tell(f"{found.name} does not answer: {found.describe(error)}")
            found.recover()
            return True

        retrying = Retrying(
            retry=retry_if_exception(passing),
            stop=stop_after_delay(REACH_SECONDS),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            reraise=True,
        )
        return retrying(call)

    def survey(self, run: str, database: str) -> list[Chain]:
        """Store what the journal says; whoever brings the last survey makes the plan."""
        record = self._planning(run)
        try:
            found = self.look(database, lambda what: self._tell(record, "waiting", what))
        except Exception as error:
            self.runs.end(record, RunState.UNREACHABLE, [self._unreachable(database, error)])
            log.exception("unreachable", run=run, database=database)
            return []
        surveys = self.runs.put_survey(record, found)
        if set(surveys) < set(record.surveyed):
            return []
        return self._plan(record, surveys)

    def _planning(self, run: str) -> Run:
        snapshot = self.runs.snapshot(run)
        if snapshot is None or snapshot.state is not RunState.PLANNING:
            msg = f"run {run} is {snapshot.state if snapshot else 'not known'}, not planning"
            raise Overtaken(msg, self._orphans(run))
        return snapshot.run

    def _unreachable(self, database: str, error: Exception) -> Problem:
        ours = isinstance(error, DharmaError)
        said = str(error) if ours else self.database(database).describe(error)
        what = f"{database} cannot be used: {said}"
        setting = f"DHARMA_{database.upper()}_URL"
        todo = f"Look at the server, and at {setting} of the worker {self.worker}."
        return Problem(file="", place="", what=what, todo=todo)

    def _plan(self, run: Run, surveys: dict[str, Survey]) -> list[Chain]:
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
            made = way(self.runs.migrations(run), surveys, request)
        except Refused as refused:
            self.runs.end(run, RunState.REFUSED, refused.problems)
            return []
        for warning in made.warnings:
            self._tell(run, "warning", warning)
        if not self.runs.start(run, made):
            return []
        log.info("planned", run=run.id, **{db: len(order) for db, order in made.orders.items()})
        opened = [[begin_message(run.id, db)] for db, order in made.orders.items() if order]
        return opened or self._chains(run, self.runs.advance(run))

    def read(self, database: str, reply: str, history: int | None = None) -> list[Chain]:
        """Put what the journal says, or why it cannot be read, into the list `reply`.

        With `history` that is so many entries of the audit trail.
        """
        try:
            if history is None:
                answer = self.look(database).model_dump_json()
            else:
                found = self.database(database)
                told = self._trying(found, lambda: trail.read(found.journal, history))
                answer = told.model_dump_json()
        except Exception as error:  # noqa: BLE001 - whatever it is, who asked is told
            answer = "error " + self._unreachable(database, error).what
        self._reply(reply, answer)
        return []

    def _reply(self, reply: str, answer: str) -> None:
        with self.redis.pipeline() as pipe:
            pipe.rpush(reply, answer)
            pipe.expire(reply, REPLY_SECONDS)
            pipe.execute()

    # -- unlock ---------------------------------------------------------------------------

    def unlock(self, database: str, by: str, token: str, reply: str) -> list[Chain]:
        """Break the lease `token` on what a run does in `database`; put into `reply` what came.

        Only the lease that `by` has seen: a message that comes late, or twice, breaks no other.
        The audit trail is first, so that no lease is broken without a word.
        """
        found = self._with_lease(database, token)
        if found is None:
            self._reply(reply, UNLOCK_LATE)
            return []
        run, upcoming, held = found
        who = f"{held.holder.worker} (pid {held.holder.pid} on {held.holder.node})"
        entry = Entry("unlocked", run.id, by, upcoming.key, f"lease {token} of {who}")
        if not self._written(entry, reply):
            return []
        self.leases.break_(upcoming.key, token)
        log.warning("unlocked", run=run.id, operation=str(upcoming.key), by=by, holder=who)
        self._tell(run, "warning", f"{upcoming.key}: {by} broke the lease of {who}")
        self._reply(reply, UNLOCKED)
        return self._chains(run, [upcoming])

    def _written(self, entry: Entry, reply: str) -> bool:
        """Whether the audit trail has the entry; whoever waits for `reply` is told why not."""
        database = entry.key.database
        try:
            found = self.database(database)
            self._trying(found, lambda: found.journal.audit(entry))
        except Exception as error:
            log.exception("not_written", run=entry.run, database=database, entry=entry.event)
            self._reply(reply, "error " + self._unreachable(database, error).what)
            return False
        return True

    def audit(self, entry: Entry, reply: str) -> list[Chain]:
        """Write what a person did to a run, and say so in `reply`."""
        if self._written(entry, reply):
            self._reply(reply, WRITTEN)
        return []

    def _with_lease(self, database: str, token: str) -> tuple[Run, Next, Held] | None:
        for run, upcoming, held in leases_on(database, self.runs, self.leases):
            if held is not None and held.token == token:
                return run, upcoming, held
        return None

    # -- begin ----------------------------------------------------------------------------

    def begin(self, run: str, database: str) -> list[Chain]:
        """Raise the journal's generation for this run; start what is ready."""
        snapshot = self.runs.snapshot(run)
        made = self.runs.plan(snapshot.run) if snapshot else None
        if snapshot is None or made is None or snapshot.state is not RunState.RUNNING:
            msg = f"run {run} is {snapshot.state if snapshot else 'not known'}"
            raise Stopped(msg)
        record = snapshot.run
        opening = Opening(
            record.id, record.direction, made.checksum, record.by, record.accept_data_loss
        )
        expected = made.generations[database]
        try:
            found = self.database(database)
            generation = self._trying(
                found,
                lambda: found.journal.begin(opening, expected),
                lambda what: self._tell(record, "waiting", what),
            )
        except FenceLost as error:
            what = f"the journal of {database} has changed since this run was planned: {error}"
            problem = Problem("", "", what, "Submit again: the new plan starts from what is there.")
            self._stop(snapshot, RunState.REFUSED, problem)
            return []
        except Exception as error:
            log.exception("unreachable", run=run, database=database)
            self._cannot_begin(snapshot, database, error)
            return []
        ready = self._chains(record, self.runs.begun(record, database, generation))
        return ready or self._orphans(run, [database])

    def _cannot_begin(self, snapshot: Snapshot, database: str, error: Exception) -> None:
        """End the run, unless the error will pass: then the rescue timer sends this again."""
        problem = self._unreachable(database, error)
        ours = isinstance(error, DharmaError)
        if ours or self.database(database).classify(error) is Fault.LASTING:
            self._stop(snapshot, RunState.UNREACHABLE, problem)
        else:
            self._tell(snapshot.run, "waiting", problem.what)

    def _stop(self, snapshot: Snapshot, state: RunState, problem: Problem) -> None:
        """End a run that cannot begin everywhere; databases that have begun finish what is open."""
        if snapshot.generations:
            event = Event(at=datetime.now(UTC), kind="failed", text=str(problem))
            self.runs.stop(snapshot.run, event)
        else:
            self.runs.end(snapshot.run, state, [problem])

    # -- confirm, operation ---------------------------------------------------------------

    def confirm(self, run: str, database: str, version: str) -> list[Chain]:
        """Let the database of a dependency say itself that it is applied (Law 7)."""
        snapshot = self.runs.snapshot(run)
        if snapshot is None or snapshot.state.rests:
            msg = f"run {run} is {snapshot.state if snapshot else 'not known'}"
            raise Stopped(msg)
        try:
            found = self.look(database)
        except Exception as error:
            self._tell(snapshot.run, "waiting", self._unreachable(database, error).what)
            msg = f"{reference(database, version)} cannot be confirmed"
            raise StepAside(msg) from error
        record = found.by_version().get(version)
        state = record.state if record else MigrationState.PENDING
        forward = snapshot.run.direction is Direction.FORWARD
        if state not in (_APPLIED if forward else _ROLLED_BACK):
            msg = f"{reference(database, version)} is {state}"
            raise StepAside(msg)
        self.runs.confirm(snapshot.run, reference(database, version))
        return []

    def operation(self, run: str, at: Next) -> list[Chain]:
        """Carry out one operation. Returns chains only where its migration ends, or turns back.

        Raises:
            StepAside: the rest of this chain must not be sent.
            MigrationFailed: a lasting error; the journal and the run say so.
        """
        with bound_contextvars(
            run=run, database=at.database, version=at.version, operation=at.number
        ):
            try:
                job = self.runs.job(run, at)
            except Stopped as reason:
                raise Overtaken(str(reason), self._orphans(run)) from reason
            operation = self._operation(job)
            lease = self.leases.acquire(at.key, owner(self.worker, {}), run)
            try:
                return self._carry_out(job, operation, lease)
            finally:
                lease.release()

    def _orphans(self, run: str, databases: Iterable[str] | None = None) -> list[Chain]:
        """What nobody works on, in these databases or all, where a message has come back.

        The child that it was given to is dead, and may have gone on to what comes after it.
        """
        snapshot = self.runs.snapshot(run)
        if snapshot is None:
            return []
        where = snapshot.run.databases if databases is None else databases
        found = orphans(self.runs, self.leases, snapshot, where)
        seconds = self.settings.rescue_seconds
        return [chain for name, chain in found if self.runs.claim_rescue(name, seconds)]

    def _operation(self, job: Job) -> Operation[Any]:
        key = job.at.key
        raw = job.migration.operation(key.number)
        try:
            return catalogue(key.database).parse(raw)
        except (KeyError, ValidationError):
            # The submit has checked it, so whoever does not know it is older (Law 7).
            msg = f"this worker is too old for the operation {raw['type']!r}, which waits"
            self._tell(job.run, "waiting", f"{key}: {msg}")
            raise StepAside(msg) from None

    def _carry_out(self, job: Job, operation: Operation[Any], lease: Lease) -> list[Chain]:
        begun, key = time.monotonic(), job.at.key
        assignment = _assignment(job)
        progress = self._progress(assignment, operation, job)
        log.info("started", type=assignment.type, works_on=progress.summary)
        runner = Runner(
            operation=operation,
            assignment=assignment,
            database=self.database(key.database),
            control=OperationControl(
                lease=lease,
                runs=self.runs,
                run=job.run.id,
                database=key.database,
                progress=progress,
                shutting_down=self._shutting_down,
                forward=job.forward,
            ),
            settings=self.settings,
            worker=self.worker,
            stuck_before=job.stuck_for,
            handed_on=job.handed_on,
        )
        try:
            if job.cancelled:
                return self._turn(job, runner)
            taken = runner.run()
        except Cancelled:
            return self._turn(job, runner)
        except MigrationFailed as error:
            event = self._event("failed", key, f"{job.migration.file}: {error}", None)
            undo = self._way_back(job, error)
            left = range(1, job.at.number + error.kept)
            if undo is None and error.state is MigrationState.FAILED and job.forward and left:
                self.runs.add_event(job.run.id, self._left(job, left))
            chains = self._chains(job.run, self.runs.failed(job.run, job.at, event, undo))
            raise TurnedBack(error, chains) from error
        except Outdated as error:
            text = f"{error}. Submit again: a new run goes on from what the journal says"
            self.runs.failed(job.run, job.at, self._event("failed", key, text, None))
            raise
        seconds = time.monotonic() - begun
        here = taken.done - (runner.first.done if runner.first else 0)
        log.info("finished", seconds=round(seconds, 3), done=taken.done, rate=here / seconds)
        following = None if assignment.last else job.at.after
        event = self._end(job, assignment)
        ended = not assignment.back or job.run.direction is Direction.BACK
        ready = self.runs.moved(job.run, job.at, following, event, ended=ended)
        return self._chains(job.run, ready)

    def _end(self, job: Job, assignment: Assignment) -> Event:
        """What is told when the migration ends with this operation."""
        seconds = time.time() - job.since
        outcome, text = assignment.outcome, job.migration.name
        if outcome is MigrationState.FAILED:
            return self._left(job, range(1, assignment.until))
        return self._event(outcome.value, assignment.key, text, seconds)

    def _left(self, job: Job, numbers: Iterable[int]) -> Event:
        what = "Left is what cannot be undone, and what was before it: "
        return self._event("left", job.at.key, what + _named(job.migration, numbers), None)

    def _way_back(self, job: Job, failure: MigrationFailed) -> Next | None:
        """Where to begin to undo what was done of a migration that failed; None if nothing is.

        Down to the last operation that cannot be undone, which stays with those before it.
        """
        at, migration = job.at, job.migration
        forward = at.until is None and at.number <= len(migration.operations)
        if not (forward and failure.answers and failure.state is MigrationState.FAILED):
            return None
        try:
            stays = irreversible(migration, self._journalled(at))
        except Exception:
            log.exception("not_rolled_back", run=job.run.id)
            return None
        return _undo(at, stays, kept=failure.kept)

    def _begun(self, record: MigrationRecord | None, runner: Runner) -> bool:
        """Whether anything of the runner's operation may be there."""
        number = runner.assignment.key.number
        known = {each.number: each.state for each in (record.operations if record else ())}
        pending = known.get(number, OperationState.PENDING) is OperationState.PENDING
        return not pending and runner.keeps_something()

    def _journalled(self, at: Next) -> MigrationRecord | None:
        found = self.database(at.database)
        return self._trying(found, found.journal.survey).by_version().get(at.version)

    def _turn(self, job: Job, runner: Runner) -> list[Chain]:
        """Let a cancelled run go back: what is open here is undone, as far as it can be.

        Raises:
            StepAside: the database does not answer; whoever is sent here next tries again.
        """
        at, migration = job.at, job.migration
        try:
            record = self._journalled(at)
            stays = irreversible(migration, record)
            top = _furthest(record, job)
            # What is there matters only of an operation that cannot be undone.
            kept = top.number in stays and (top != at or self._begun(record, runner))
        except StepAside:
            raise
        except Exception as error:
            self._tell(job.run, "waiting", self._unreachable(at.database, error).what)
            msg = f"{at.key} cannot be undone at this moment"
            raise StepAside(msg) from error
        if record is not None and record.state is MigrationState.APPLIED:
            event = self._event("applied", at.key, migration.name, time.time() - job.since)
            return self._chains(job.run, self.runs.moved(job.run, at, None, event))
        undo = None if _unbegun(record) else _undo(top, stays, kept=kept)
        if _unbegun(record):
            event = self._event("cancelled", at.key, f"{at.key} had not begun", None)
        else:
            left = _named(migration, range(1, top.number + 1))
            what = f"Left as it is, for it cannot be undone: {left}. A new submit goes on with it"
            event = self._event("left", at.key, what, None)
        self.runs.moved(job.run, at, undo, event, ended=False)
        log.info("cancelled", undo_until=undo.until if undo else None)
        return self._chains(job.run, [undo] if undo else [])

    def _progress(self, assignment: Assignment, operation: Operation[Any], job: Job) -> Progress:
        now = time.time()
        return Progress(
            version=assignment.key.version,
            name=assignment.name,
            number=assignment.key.number,
            count=assignment.count,
            type=assignment.type,
            summary=operation.summary,
            worker=self.worker,
            since=now,
            heartbeat=now,
            stuck_for=job.stuck_for,
            handed_on=job.handed_on,
        )

    # -- what comes next ------------------------------------------------------------------

    def _chains(self, run: Run, ready: list[Next]) -> list[Chain]:
        return [operation_chain(self.runs, run, upcoming) for upcoming in ready]

    def _event(self, kind: str, key: Key, text: str, seconds: float | None) -> Event:
        return Event(
            at=datetime.now(UTC),
            kind=kind,
            database=key.database,
            version=key.version,
            text=text,
            seconds=seconds,
        )

    def _tell(self, run: Run, kind: str, text: str) -> None:
        self.runs.add_event(run.id, Event(at=datetime.now(UTC), kind=kind, text=text))


def leases_on(database: str, runs: Runs, leases: Leases) -> Iterator[tuple[Run, Next, Held | None]]:
    """What each open run does in `database`, and the lease on it."""
    for snapshot in runs.open():
        if database in snapshot.working:
            upcoming = snapshot.working[database]
            yield snapshot.run, upcoming, leases.held(upcoming.key)


def _undo(at: Next, stays: Iterable[int], *, kept: bool) -> Next | None:
    """The way back from `at`, down to the last operation that stays; None where `at` itself does.

    `kept` is whether anything of `at` may be there.
    """
    until = max((n for n in stays if n < at.number + kept), default=0) + 1
    return at._replace(until=until) if until <= at.number else None


def _furthest(record: MigrationRecord | None, job: Job) -> Next:
    """The last operation that was begun: an earlier run may have come further than this one."""
    begun = [
        each.number
        for each in (record.operations if record else ())
        if each.state is not OperationState.PENDING and each.number <= len(job.migration.operations)
    ]
    return job.at._replace(number=max([job.at.number, *begun]))


def _unbegun(record: MigrationRecord | None) -> bool:
    """Whether nothing is there of a migration."""
    return record is None or record.state in _ROLLED_BACK


def _named(migration: Migration, numbers: Iterable[int]) -> str:
    return ", ".join(f"{number} {migration.operation(number)['type']}" for number in numbers)


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
        checksum=migration.checksum,
        type=migration.operation(at.number)["type"],
        count=count,
        direction=direction,
        outcome=outcome,
        until=at.until or 1,
        first=first,
    )
