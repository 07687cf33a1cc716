"""What came of a run, for a program."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from dharma_tasks.errors import Problem
from dharma_tasks.lease import Leases
from dharma_tasks.planner import Plan
from dharma_tasks.run import Event, Run, RunState, Snapshot
from dharma_tasks.status import Alive, at_work
from dharma_tasks.submit import Step, Submitted, Warned, Watched

__all__ = [
    "Account",
    "DatabaseProgress",
    "DatabaseResult",
    "Failure",
    "RunProgress",
    "RunResult",
    "seen",
]


class DatabaseResult(BaseModel):
    """What was done in one database: so many of `total` migrations, and which.

    `not_run` are those that were planned, and neither done nor failed.
    """

    done: int = 0
    total: int = 0
    versions: list[str] = []
    not_run: list[str] = []


class Failure(BaseModel):
    """What failed, in the database's own words. Without a version it is not about a migration."""

    database: str | None
    version: str | None
    error: str


class RunResult(BaseModel):
    """How a run stands, or ended. `seconds` is how long it was waited for.

    `run` is None where there was nothing to submit, or it was refused before. `state` is the run's;
    a command says `waiting` where there is none yet, and `error` where it broke itself.
    """

    run: str | None
    state: RunState | Literal["waiting", "error"]
    seconds: float = 0
    databases: dict[str, DatabaseResult] = {}
    failures: list[Failure] = []
    problems: list[Problem] = []
    warnings: list[str] = []


class DatabaseProgress(BaseModel):
    """One database of a run: so many of `total` migrations are done, and what is done `now`."""

    done: int
    total: int
    now: Alive | None


class RunProgress(BaseModel):
    """How a run stands, and what has happened since the last look: see `Event`.

    `problems` say why it was refused, or what cannot be reached.
    """

    run: str
    state: RunState
    databases: dict[str, DatabaseProgress]
    events: list[Event]
    problems: list[Problem]


def seen(watched: Watched, leases: Leases) -> RunProgress:
    """What is seen of a run, for a program. `leases` say who is at work."""
    snapshot = watched.snapshot
    return RunProgress(
        run=snapshot.run.id,
        state=snapshot.state,
        databases={
            name: DatabaseProgress(
                done=snapshot.done.get(name, 0),
                total=snapshot.total.get(name, 0),
                now=at_work(name, snapshot, leases),
            )
            for name in snapshot.run.databases
        },
        events=watched.events,
        problems=snapshot.problems,
    )


@dataclass
class Account:
    """Everything that is known of a run, filled in as it goes along.

    `state` is the run's, as far as somebody has looked.
    """

    state: str = ""
    run: Run | None = None
    snapshot: Snapshot | None = None
    plan: Plan | None = None
    events: list[Event] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0

    def take(self, step: Step) -> None:
        """Note what a step has brought."""
        match step:
            case Warned(text):
                self.warnings.append(text)
            case Submitted(run):
                self.run = run
                self.state = RunState.PLANNING
            case Watched(snapshot, events):
                self.snapshot = snapshot
                self.state = snapshot.state
                self.problems = snapshot.problems
                self.events += events
                self.warnings += [event.text for event in events if event.kind == "warning"]

    def orders(self) -> Iterator[tuple[str, Sequence[str], int]]:
        """Each database with something to do: its versions in order, and how many are done."""
        for database, order in (self.plan.orders if self.plan else {}).items():
            done = self.snapshot.done.get(database, 0) if self.snapshot else 0
            yield database, order, done

    def failures(self) -> list[Event]:
        """What failed; two databases can fail in one run."""
        return [event for event in self.events if event.kind == "failed"]

    def result(self) -> RunResult:
        """The same for a program."""
        return RunResult(
            run=self.run.id if self.run else None,
            state=self.state,
            seconds=round(self.seconds, 3),
            databases=self._databases(),
            failures=[
                Failure(database=event.database, version=event.version, error=event.text)
                for event in self.failures()
            ],
            problems=self.problems,
            warnings=self.warnings,
        )

    def _databases(self) -> dict[str, DatabaseResult]:
        found = {name: DatabaseResult() for name in (self.run.databases if self.run else ())}
        failed = {event.database: event.version for event in self.failures()}
        for database, order, done in self.orders():
            rest = [version for version in order[done:] if version != failed.get(database)]
            found[database] = DatabaseResult(
                done=done, total=len(order), versions=list(order[:done]), not_run=rest
            )
        return found
