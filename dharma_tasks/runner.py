"""READ THIS FIRST: the one loop in which every operation of every database is carried out.

    take over -> prepare -> (stop? -> batch with its checkpoint -> sign of life -> progress)*

`Runner.run` is that loop. An operation that is cut into ranges goes through it once as itself, with
a look at its ranges in the place of a batch, and once with each range (`side_by_side.py`). Whatever
it knows, it was told by the journal in the write that took the operation over, or in the write of
the last batch; after an error it asks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from structlog.contextvars import bound_contextvars

from dharma_tasks import side_by_side
from dharma_tasks.control_protocols import Control, RangesControl
from dharma_tasks.databases.base import Database, Fault
from dharma_tasks.errors import (
    CutOff,
    DharmaError,
    Halted,
    MigrationFailed,
    OperationFailed,
    RangeLeft,
    StepAside,
    Stopped,
    Unequipped,
    Unsigned,
)
from dharma_tasks.health import LOOK_SECONDS, Health
from dharma_tasks.hidden import NOTHING, Hidden
from dharma_tasks.identity import owner
from dharma_tasks.journal import Ledger
from dharma_tasks.logs import get_logger, stack_of
from dharma_tasks.measures import Measure, Wait
from dharma_tasks.operations.base import Operation
from dharma_tasks.pace import Bounds, Pace
from dharma_tasks.planned import TODO
from dharma_tasks.records import MigrationState
from dharma_tasks.settings import Settings
from dharma_tasks.way_back import WayBack
from dharma_tasks.work import SEALED, Amount, Assignment, Step, Taken, Work

log = get_logger()

_LOOKS_BEFORE_INTERRUPT = 3
"""Looks at a long statement, a second apart, before a worker that is to stop interrupts it."""

_SECRETS = "secrets"
"""Under which an operation's record has the marks of its secrets, in `undo`."""

_SIGN_SECONDS = 2
"""How often whoever watches gets a sign of life while a batch waits for its time."""


@dataclass
class Runner:
    """Carries out one operation in one database. `worker` is the name shown to people."""

    operation: Operation[Any]
    assignment: Assignment
    database: Database[Any]
    control: Control
    settings: Settings
    worker: str
    heavy: bool = False
    """Whether this is bulk work, which waits while its database is under strain."""
    max_rate: float | None = None
    """Documents or rows a second, where the run limits it."""
    stuck_before: float = 0.0
    """Seconds that passing errors have kept it from moving, under the workers before this one."""
    handed_on: bool = False
    """Whether the last of them has left it in order: going on is not an attempt of its own."""
    accept_data_loss: bool = False
    """Whether a person said that what cannot be undone is to be passed over."""
    passed_over: bool = False
    """Whether the plan says that this operation is, as it was when its journal was read."""
    ranges: RangesControl | None = None
    """How it comes by the ranges of its operation; a range has none."""
    hidden: Hidden = NOTHING
    """The secrets that were put into the operation."""
    first: Taken | None = None
    """What this worker found when it took the operation over."""
    _counted: bool = False
    """Whether this attempt is in the journal."""
    _in_order: bool = False
    """Whether what is to be over before it was seen to be."""
    _unanswered: float | None = None
    """When the journal first did not answer, in seconds of the monotonic clock."""
    _error: str | None = None
    """The last passing error, for the journal."""
    _interrupted: Stopped | None = None
    """Why this worker has ended its own statement."""

    def run(self) -> Taken:
        """Bring the operation to its end, from wherever the journal says it is.

        Raises:
            StepAside: another worker has it, or this one must stop; nothing is lost.
            MigrationFailed: a lasting error, already written to the journal.
        """
        pace = Pace(self.settings.batch_seconds, self.stuck_before, self._bounds)
        taken: Taken | None = None
        ours: Taken | None = None  # the last that is known, also while it is not sure any more
        self._counted = self.handed_on
        prepared = False
        pause = 0.0
        while taken is None or not taken.over:
            try:
                self._wait(pause, Wait.RETRY)
                self.control.check()
                pause, self._interrupted = 0.0, None
                if taken is None:
                    taken = ours = self._take_over()
                    self._confirm_secrets(taken)
                    self._confirm_values(taken)
                    prepared = taken.undo is not None or self.assignment.back
                    self._check_attempts(taken)
                    pace.begun(taken.attempts)
                    if taken is self.first and (taken.done or self._in_a_range):
                        pace.resumed()
                elif not prepared:
                    taken, prepared = self._prepare(taken, pace), True
                elif taken.ranges:
                    taken = self._side_by_side(taken)
                else:
                    self._hold(taken, pace)
                    taken = self._batch(taken, pace)
                ours = taken
                self.control.report(taken, pace.stuck_in_all)
            except Stopped as why:
                self._leave(ours, why, pace)
                raise
            except StepAside:
                raise
            except Exception as error:  # noqa: BLE001 - raised again, or written to the journal
                stopped = self._interrupted or self.control.ending()
                if stopped is not None:
                    log.info("not_ended", error=self._said(error))
                    self.database.recover()
                    self._leave(ours, stopped, pace)
                    raise stopped from self._shown(error)
                pause = self._after(error, taken, pace)
                taken = None
        return taken

    @property
    def _bounds(self) -> Bounds:
        """What the batches keep to."""
        return self.operation.bounds().slowed(self.max_rate)

    def keeps_something(self) -> bool:
        """Take the operation over, and say whether anything of it may be there."""
        self._counted = True
        taken = self._take_over()
        return taken.over or self._way_back.keeps_something(taken)

    @property
    def _in_a_range(self) -> bool:
        """Whether it is a range of an operation that is carried out here."""
        return self.assignment.key.range is not None

    @property
    def _ledger(self) -> Ledger[Any]:
        """Where what is carried out here has its record."""
        journal = self.database.journal
        return (journal.ranges or journal) if self._in_a_range else journal

    def _take_over(self) -> Taken:
        """Free what the former owner left open, then become the owner in one write (Law 4)."""
        self.confirm_order()
        former = self._ledger.owner(self.assignment.key)
        if former is not None:
            self.database.free(former)
        if self.assignment.back:
            self._free_ranges()
        me = owner(self.worker, self.database.resources())
        taken = self._ledger.take(self.assignment, me, counted=not self._counted, error=self._error)
        self._counted, self._unanswered = True, None
        self.first = self.first or taken
        if taken.done or taken.attempts > 1:
            log.info("resumed", done=taken.done, total=taken.total, attempt=taken.attempts)
        return taken

    def confirm_order(self) -> None:
        """Make sure that what the plan has before its migration is over, in the journal itself.

        Raises:
            Unsigned: it is not, so Redis leads elsewhere than the plan.
        """
        after = self.assignment.after
        if self._in_order or after is None:
            return
        state = self.database.journal.state(after)
        if not self.assignment.follows(state):
            what = f"Redis says that {self.assignment.key} is next; the plan has {after} before it"
            raise Unsigned(f"{what}, which is {state}", TODO)
        self._in_order = True

    def _free_ranges(self) -> None:
        """End what workers have open in ranges: the operation is to end, and they with it."""
        ranges = self.database.journal.ranges
        for each in ranges.owners(self.assignment.key) if ranges else ():
            self.database.free(each)

    def _confirm_values(self, taken: Taken) -> None:
        """Make sure that all hidden values are here and fit, where any of them is needed.

        Where nothing has been done there is nothing to undo, and none is needed for that.

        Raises:
            Unequipped: one is missing.
            OperationFailed: one does not fit; every worker would find the same (Law 10).
        """
        if self.assignment.back and not self._way_back.keeps_something(taken):
            return
        if self.hidden.missing:
            raise Unequipped(self.hidden.missing)
        if self.hidden.unfit:
            what = f"a hidden value does not fit into {self.hidden.unfit!r}"
            raise OperationFailed(what, "Encrypt a value that fits there (dharma encrypt)")

    def _confirm_secrets(self, taken: Taken) -> None:
        """One operation has the same secrets and keys from its beginning to its end, and back.

        A key that is lost for good is no reason to wait where the plan passes the operation over.
        Else it waits, whatever data loss a person has accepted: another worker may have the key.

        Raises:
            Unequipped: this worker has not what it was begun with.
        """
        undo = taken.undo or {}
        if names := self.hidden.other(undo.get(_SECRETS, {})):
            msg = (
                f"the secret {', '.join(names)} is another one at {self.worker} than the operation "
                "was begun with, and it waits for a worker that has that one"
            )
            raise Unequipped(msg)
        if SEALED in undo and not (self.assignment.back and self.passed_over):
            msg = f"{undo[SEALED]}, at {self.worker}, and it waits for a worker that has that key"
            raise Unequipped(msg)

    def _said(self, error: BaseException) -> str:
        """The database's own message, without secrets that it quotes."""
        return self.hidden.scrub(self.database.describe(error))

    def _shown(self, error: Exception) -> Exception | None:
        """The error as the cause of another: not where its text may have secrets in it."""
        return None if self.hidden else error

    def _check_attempts(self, taken: Taken) -> None:
        """An operation that kills its worker each time is stopped (Law 10)."""
        if taken.attempts > self.settings.max_attempts:
            msg = (
                f"begun {taken.attempts - 1} times without any progress: each time the worker "
                "was gone before a checkpoint"
            )
            todo = "Look at the workers' logs and memory at those times, then submit again"
            raise OperationFailed(msg, todo)

    def _prepare(self, taken: Taken, pace: Pace) -> Taken:
        with self.database.watched(self._alive()):
            prepared = self.operation.prepare(self._work(taken, self.database.handle, pace))
        if prepared and self.hidden.secrets:
            undo = prepared.undo | {_SECRETS: self.hidden.marks()}
            prepared = replace(prepared, undo=undo)
        return self.database.journal.prepare(taken, prepared) if prepared else taken

    def _batch(self, taken: Taken, pace: Pace) -> Taken:
        """One batch and its checkpoint, in one transaction where the operation can (Law 3)."""
        begun = time.monotonic()
        operation, back = self.operation, self.assignment.back
        step = self._way_back.undo if back else operation.step
        transactional = operation.undoes_in_transaction if back else operation.transactional

        def batch(handle: object) -> Step:
            return step(self._work(taken, handle, pace))

        if back:
            self._way_back.audit(taken)
        with self.database.watched(self._alive()):
            after = self._ledger.step(taken, batch, transactional=transactional(taken.cursor))
        moved = (after.cursor, after.done) != (taken.cursor, taken.done)
        done, seconds = after.done - taken.done, time.monotonic() - begun
        pace.went_well(seconds, done=done, moved=moved)
        if moved or after.over:  # else it was only asked how far the server is
            self.control.measure(Measure.BATCH, seconds)
            self.control.measure(Measure.DOCUMENTS, done)
        return after

    def _side_by_side(self, taken: Taken) -> Taken:
        """A look at the ranges, and one of them from where it is to its end."""
        whole = side_by_side.SideBySide(self, taken)
        if not (whole.go_on() or whole.taken.over):
            self._wait(side_by_side.LOOK_SECONDS, Wait.RANGES)
        return whole.taken

    def carry_out_range(self, number: int, control: Control) -> None:
        """Work through one range; where it fails its record says so, for whoever looks."""
        range_ = Runner(
            operation=self.operation,
            # What is before it was looked at with the operation.
            assignment=replace(self.assignment.of_range(number), after=None),
            database=self.database,
            control=control,
            settings=self.settings,
            worker=self.worker,
            heavy=self.heavy,
            max_rate=self.max_rate,
            hidden=self.hidden,
        )
        try:
            with bound_contextvars(range=number):
                range_.run()
        except (StepAside, MigrationFailed) as why:
            if isinstance(why, Stopped) and not isinstance(why, RangeLeft):
                raise
            log.info("range_left", range=number, reason=str(why))

    def _alive(self) -> Callable[[Amount | None], None]:
        """A sign of life from a long statement; one that outlives the end of the work is ended.

        Else a worker that shuts down would be killed in it, and that would count as an attempt
        (FAULTS 23); and nobody who pauses or cancels a run wants to wait for it.
        """
        looks = 0

        def alive(seen: Amount | None) -> None:
            nonlocal looks
            self.control.alive(seen)
            why = self.control.ending()
            looks = looks + 1 if why is not None else 0
            if looks > _LOOKS_BEFORE_INTERRUPT:
                self._interrupted = why
                log.warning("interrupted", reason=str(why))
                self.database.interrupt()

        return alive

    def _work(self, taken: Taken, handle: Any, pace: Pace) -> Work[Any]:
        return Work(
            handle=handle,
            cursor=taken.cursor,
            undo=taken.undo or {},
            size=pace.size,
            label=f"{self.assignment.run}/{self.assignment.key}/{taken.fence}",
            key=self.assignment.key,
            walked=taken.walked,
            confirm=self.control.confirm,
            warn=self._warn,
            earlier=lambda: self.database.journal.earlier(self.assignment.key),
            rate=self._bounds.rate,
            scrub=self.hidden.scrub,
        )

    def _after(self, error: Exception, taken: Taken | None, pace: Pace) -> float:
        """How many seconds to wait before the operation is taken over anew; or it raises."""
        fault = self._fault(error, pace)
        message = self._said(error)
        if fault is Fault.LASTING:
            try:
                failure = self._failed(error, message, taken)
            except Exception as unwritten:
                # Whoever takes it over meets the same error again, and writes that down.
                fault, message = self._fault(unwritten, pace), self._said(unwritten)
                if fault is Fault.LASTING:
                    raise unwritten from self._shown(error)
            else:
                raise failure from self._shown(error)
        if fault is Fault.CONFLICT and taken is not None:
            pace.conflicted()
        log.warning("retry", fault=fault.value, error=message, batch_size=pace.size)
        self.control.measure(Measure.RETRY, 1, fault.value)
        self.database.recover()
        self._error = message
        pause = pace.pause()
        self.control.waiting(message, pace.stuck_in_all)
        if taken is None:
            self._hand_on(message, pace)
        return pause

    def _hand_on(self, message: str, pace: Pace) -> None:
        """Leave the work to others once the journal has not answered for long (Law 8)."""
        now = time.monotonic()
        if self._unanswered is None:
            self._unanswered = now
        silent = now - self._unanswered
        if silent > self.settings.lease_seconds:
            self.control.confirm()
            self.control.waiting(message, pace.stuck_in_all, handed_on=self._counted)
            msg = f"{self.database.name} has not answered for {silent:.0f} s: {message}"
            raise CutOff(msg)

    def _fault(self, error: Exception, pace: Pace) -> Fault:
        if isinstance(error, DharmaError):
            return Fault.LASTING
        if pace.stuck_in_all > self.settings.retry_seconds:
            return Fault.LASTING
        return self.database.classify(error)

    def _wait(self, seconds: float, why: Wait) -> None:
        """Pause, but answer a stop within half a second; a live pause is a sign of life."""
        begun = now = time.monotonic()
        try:
            while (left := begun + seconds - now) > 0:
                self.control.check()
                time.sleep(min(left, 0.5))
                now = time.monotonic()
        finally:
            if now > begun:
                self.control.measure(Measure.WAITED, now - begun, why)

    def _hold(self, taken: Taken, pace: Pace) -> None:
        """Wait until rate and health allow the next batch, which is not being stuck."""
        begun, stuck_for = time.monotonic(), pace.stuck_in_all
        if self._in_a_range and self._bounds.rate:
            pace.share(self.control.sharing((taken.undo or {})["ranges"]))
        try:
            while (owed := pace.owed) > 0:
                self._wait(min(owed, _SIGN_SECONDS), Wait.RATE)
                if owed > _SIGN_SECONDS:
                    self.control.alive()
            while self.heavy and (reason := self._health.strain()):
                self.control.waiting(reason, stuck_for)
                self._wait(LOOK_SECONDS, Wait.STRAIN)
        finally:
            pace.held(time.monotonic() - begun)

    @cached_property
    def _health(self) -> Health:
        return Health(self.database, self._warn)

    def _failed(self, error: Exception, message: str, taken: Taken | None) -> MigrationFailed:
        """Write the lasting error to the journal. `taken` is None when the taking itself failed."""
        text = f"{self.assignment.key} {self.assignment.type} {self.operation.summary}: {message}"
        stack = {name: self.hidden.scrub(text) for name, text in stack_of(error).items()}
        log.error("failed", error=message, **stack)
        kept = taken is None or self._way_back.keeps_something(taken)
        state = (None if kept else self.assignment.before) or MigrationState.FAILED
        if taken is not None:
            if taken.ranges:
                self._free_ranges()
            self._ledger.fail(taken, message, state)
        return MigrationFailed(text, state, kept=kept, answers=taken is not None)

    @cached_property
    def _way_back(self) -> WayBack:
        return WayBack(
            operation=self.operation,
            assignment=self.assignment,
            database=self.database,
            accept_data_loss=self.accept_data_loss,
            warn=self._warn,
        )

    def _warn(self, text: str) -> None:
        message = self.hidden.scrub(text)
        log.warning("warning", message=message)
        self.control.warn(f"{self.assignment.key} {self.assignment.type}: {message}")

    def _leave(self, taken: Taken | None, why: Stopped, pace: Pace) -> None:
        """An orderly stop is not an attempt that failed (Law 10).

        What goes on without us, on the server, goes on only for a successor that comes soon. What
        such a one must have is told.
        """
        if isinstance(why, Unequipped):
            self.control.waiting(str(why), pace.stuck_in_all)
        if taken is None:
            return
        try:
            if isinstance(why, Halted) and taken.undo and not self.assignment.back:
                self.operation.halt(self._work(taken, self.database.handle, pace))
        except Exception as error:  # noqa: BLE001 - a successor finds it
            log.warning("not_halted", error=self._said(error))
        try:
            self._ledger.note(taken, None)
        except Exception as error:  # noqa: BLE001 - the stop itself matters more
            log.warning("not_noted", error=self._said(error))
