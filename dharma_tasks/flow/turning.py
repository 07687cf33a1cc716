"""Back from an operation that failed, or whose run is cancelled: from where, and how far."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from dharma_tasks.errors import MigrationFailed
from dharma_tasks.flow.context import Context
from dharma_tasks.logs import get_logger, stack_of
from dharma_tasks.migration import Migration
from dharma_tasks.records import GONE, MigrationRecord, MigrationState, OperationState
from dharma_tasks.reversal import irreversible
from dharma_tasks.run import Job, Next
from dharma_tasks.runner import Runner

log = get_logger()


@dataclass(frozen=True)
class Turn:
    """What becomes of a migration that does not come to its end.

    Its way back begins at `undo`, None where there is none; the operations `left` stay.
    """

    undo: Next | None
    left: range

    @classmethod
    def back(cls, top: Next, final: Collection[int], *, kept: bool) -> Turn:
        """From `top` down to the last operation that cannot be undone, which stays.

        `final` are those that cannot be undone; `kept` is whether anything of `top` may be there.
        """
        until = max((n for n in final if n < top.number + kept), default=0) + 1
        undo = top._replace(until=until) if until <= top.number else None
        return cls(undo, range(1, until))


def after_failure(context: Context, job: Job, failure: MigrationFailed) -> Turn | None:
    """Where a migration that failed goes; None where it stays as it is."""
    failed = failure.state is MigrationState.FAILED
    if not (job.forward and failed and failure.answers):
        return None
    try:
        final = irreversible(job.migration, journalled(context, job.at))
    except Exception as error:  # noqa: BLE001 - the migration stays as it is
        log.error("not_rolled_back", run=job.run.id, **stack_of(error))
        return None
    return Turn.back(job.at, final, kept=failure.kept)


def after_cancel(job: Job, record: MigrationRecord | None, runner: Runner) -> Turn:
    """Where a migration goes that `cancel` has met: what is open of it is undone, if it can be."""
    if record is None or record.state in GONE:
        return Turn(None, range(0))
    final = irreversible(job.migration, record)
    top = _furthest(record, job)
    # What is there matters only of an operation that cannot be undone.
    kept = top.number in final and (top != job.at or _begun(record, runner))
    return Turn.back(top, final, kept=kept)


def journalled(context: Context, at: Next) -> MigrationRecord | None:
    """What the journal says of the migration."""
    return context.look(at.database).by_version().get(at.version)


def named(migration: Migration, numbers: Iterable[int]) -> str:
    """Operations for people: `1 create_index, 2 reindex`."""
    return ", ".join(f"{number} {migration.operation(number)['type']}" for number in numbers)


def _furthest(record: MigrationRecord, job: Job) -> Next:
    """The last operation that was begun: an earlier run may have come further than this one."""
    begun = [
        each.number
        for each in record.operations
        if each.state is not OperationState.PENDING and each.number <= len(job.migration.operations)
    ]
    return job.at._replace(number=max([job.at.number, *begun]))


def _begun(record: MigrationRecord, runner: Runner) -> bool:
    """Whether anything of the runner's operation may be there."""
    number = runner.assignment.key.number
    known = {each.number: each.state for each in record.operations}
    pending = known.get(number, OperationState.PENDING) is OperationState.PENDING
    return not pending and runner.keeps_something()
