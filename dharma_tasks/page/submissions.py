"""What was submitted in the runs at hand: read once, since it never changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from dharma_tasks.databases import NAMES
from dharma_tasks.migration import Migration, Reference
from dharma_tasks.planner import Plan
from dharma_tasks.run import RunState, Snapshot
from dharma_tasks.runs import Runs

__all__ = ["Submission", "Submissions"]


@dataclass(frozen=True)
class Submission:
    """A run as it stands, with what was submitted. `surveyed` is set while it is planned."""

    snapshot: Snapshot
    plan: Plan | None
    migrations: Mapping[Reference, Migration]
    surveyed: frozenset[str] = frozenset()


@dataclass
class Submissions:
    """The runs that the page shows: for each database the open one, or the last one."""

    runs: Runs
    _plans: dict[str, Plan] = field(default_factory=dict)
    _migrations: dict[str, Mapping[Reference, Migration]] = field(default_factory=dict)
    _over: dict[str, Submission] = field(default_factory=dict)

    def by_database(
        self, snapshots: Sequence[Snapshot], last: Mapping[str, str | None]
    ) -> dict[str, Submission]:
        """Find them among the open `snapshots`, or by the id of the `last` run of each journal.

        Raises:
            RedisError: Redis does not answer.
        """
        found: dict[str, Submission] = {}
        for snapshot in snapshots:
            submission = self._submission(snapshot)
            found |= dict.fromkeys(snapshot.run.databases, submission)
        for name in NAMES:
            run = last.get(name)
            if name not in found and run and (ended := self._ended(run)):
                found[name] = ended
        self._forget({each.snapshot.run.id for each in found.values()})
        return found

    def _ended(self, run: str) -> Submission | None:
        if run not in self._over:
            snapshot = self.runs.snapshot(run)
            if snapshot is None or not snapshot.state.over:
                return None
            self._over[run] = self._submission(snapshot)
        return self._over[run]

    def _submission(self, snapshot: Snapshot) -> Submission:
        run = snapshot.run
        if run.id not in self._migrations:
            read = self.runs.migrations(run)
            self._migrations[run.id] = {each.reference: each for each in read}
        plan = self._plans.get(run.id) or self.runs.plan(run)
        if plan is not None:
            self._plans[run.id] = plan
        planning = RunState.PLANNING in {snapshot.state, snapshot.was}
        surveyed = frozenset(self.runs.surveyed(run) if planning else ())
        return Submission(snapshot, plan, self._migrations[run.id], surveyed)

    def _forget(self, kept: Iterable[str]) -> None:
        for each in (self._plans, self._migrations, self._over):
            for run in each.keys() - kept:
                del each[run]
