"""What every step of the flow needs, in one worker process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import wraps
from threading import local
from typing import Any, TypeVar, cast

from redis import Redis
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from dharma_tasks.databases import connect
from dharma_tasks.databases.base import Database, Fault
from dharma_tasks.errors import DharmaError, Problem, Stopped, Unreachable, Unsigned
from dharma_tasks.lease import Leases
from dharma_tasks.logs import get_logger
from dharma_tasks.measures import Meter, Unmetered
from dharma_tasks.messages import Chain, operation_chain, orphans
from dharma_tasks.records import Survey
from dharma_tasks.run import Event, Next, Run, RunState, Snapshot
from dharma_tasks.runs_at_work import RunsAtWork
from dharma_tasks.settings import Settings
from dharma_tasks.signing import signer

log = get_logger()

Answer = TypeVar("Answer")
Step = TypeVar("Step", bound=Callable[..., list[Chain]])

REACH_SECONDS = 10
"""How long a step tries to reach its database before whoever waits is told."""


class Overtaken(Stopped):
    """The run is further than this message; `instead` is what to send in its place."""

    def __init__(self, reason: str, instead: list[Chain]) -> None:
        self.instead = instead
        super().__init__(reason)


class Context:
    """The flow as one worker process carries it out. Safe to use from several threads."""

    def __init__(  # noqa: PLR0913 - given by name
        self,
        settings: Settings,
        redis: Redis,
        *,
        worker: str,
        shutting_down: Callable[[], bool],
        crowded: Callable[[], bool] = lambda: False,
        meter: Meter | None = None,
    ) -> None:
        """`worker` is the name shown to people; `shutting_down` is asked between batches.

        `crowded` says whether anything waits for a worker to be free that this one could do.
        `meter` hears what is measured.
        """
        self.settings = settings
        self.redis = redis
        self.worker = worker
        self.signer = signer(settings)
        self.runs = RunsAtWork(redis, settings.namespace, self.signer)
        self.leases = Leases(redis, settings.namespace, settings.lease_seconds)
        self.shutting_down = shutting_down
        self.crowded = crowded
        self.ended: dict[tuple[str, str], str] = {}
        """By run and database, the version that this process has ended last."""
        self.meter = meter or Unmetered()
        self._threads = local()

    # -- databases ------------------------------------------------------------------------

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

    def look(self, database: str, tell: Callable[[str], None] = lambda _: None) -> Survey:
        """Read a journal, trying for a while to reach it; `tell` hears what is in the way."""
        found = self.database(database)
        return self.trying(found, found.journal.survey, tell)

    def trying(
        self,
        found: Database[Any],
        call: Callable[[], Answer],
        tell: Callable[[str], None] = lambda _: None,
        seconds: float = REACH_SECONDS,
    ) -> Answer:
        """Call until it works, over passing errors; after `seconds` it is not begun again."""

        def passing(error: BaseException) -> bool:
            if found.classify(error) is Fault.LASTING:
                return False
            tell(f"{found.name} does not answer: {found.describe(error)}")
            found.recover()
            return True

        retrying = Retrying(
            retry=retry_if_exception(passing),
            stop=stop_after_delay(seconds),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            reraise=True,
        )
        return retrying(call)

    def elsewhere(self, run: Run, database: str) -> Problem | None:
        """Say that `database` is not the one that whoever submitted the run has named."""
        wanted = run.whereabouts.get(database)
        if wanted is None:
            return None
        found = self.database(database)
        here = self.trying(found, found.whereabouts)
        if here == wanted:
            return None
        what = (
            f"the worker {self.worker} is connected to another {database} than was named: "
            f"to {here}, and not to {wanted}"
        )
        todo = (
            f"Look at its DHARMA_{database.upper()}_URL, and at what was named. Where the server "
            "was started again at this moment, ask for the same again."
        )
        return Problem("", "", what, todo)

    def unreachable(self, database: str, error: Exception) -> Problem:
        """Say that `database` cannot be used, why, and where to look."""
        ours = isinstance(error, DharmaError)
        said = str(error) if ours else self.database(database).describe(error)
        what = f"{database} cannot be used: {said}"
        setting = f"DHARMA_{database.upper()}_URL"
        todo = f"Look at the server, and at {setting} of the worker {self.worker}."
        return Problem(file="", place="", what=what, todo=todo)

    # -- the run --------------------------------------------------------------------------

    def snapshot(self, run: str) -> Snapshot:
        """How a run stands that is to be worked on.

        Raises:
            Stopped: it is over, paused or gone.
            Unsigned: nobody with the key has asked for it.
        """
        snapshot = self.runs.trusted(run)
        if snapshot is None or snapshot.state.rests:
            msg = f"run {run} is {snapshot.state if snapshot else 'not known'}"
            raise Stopped(msg)
        return snapshot

    def chains(self, run: Run, ready: Iterable[Next]) -> list[Chain]:
        """What to send for the operations that are ready."""
        return [operation_chain(self.runs, run, upcoming) for upcoming in ready]

    def orphans(self, run: str, databases: Iterable[str] | None = None) -> list[Chain]:
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

    def refuse(self, run: str, why: Unsigned) -> None:
        """End a run that nobody with the key has asked for, and tell whoever watches it.

        Whatever its record says, no other run is ended.
        """
        log.error("refused", run=run, reason=why.what)
        try:
            snapshot = self.runs.snapshot(run)
        except (ValueError, KeyError):  # it was made up: nobody watches it
            return
        problem = Problem("", "", why.what, why.todo)
        if snapshot is None or snapshot.state.over:
            return
        refused = snapshot.run.model_copy(update={"id": run})  # the record may be another run's
        if snapshot.generations:  # something may have been changed
            self.tell(refused, "failed", str(problem))
            self.runs.end(refused, RunState.FAILED, [])
        else:
            self.runs.end(refused, RunState.REFUSED, [problem])

    def tell(self, run: Run, kind: str, text: str) -> None:
        """Tell whoever watches the run."""
        self.runs.add_event(run.id, Event(at=datetime.now(UTC), kind=kind, text=text))


def refusing(step: Step) -> Step:
    """Let a step of a run, which begins with the context and the run's id, refuse the run."""

    @wraps(step)
    def refuses(context: Context, run: str, *arguments: Any, **named: Any) -> list[Chain]:
        try:
            return step(context, run, *arguments, **named)
        except Unsigned as why:
            context.refuse(run, why)
            raise

    return cast("Step", refuses)
