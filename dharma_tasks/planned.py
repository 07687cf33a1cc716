"""Whether an operation that Redis says is next is one that the plan comes to, and after what.

Pure functions. What has gone before an operation within its migration the journal itself knows
(`Journal.take`); what has gone before the migration only the plan does.
"""

from __future__ import annotations

from dharma_tasks.errors import Unsigned
from dharma_tasks.planner import Plan
from dharma_tasks.records import Direction
from dharma_tasks.run import Job, Next

TODO = "Look who else can write to Redis. A new submit goes on from what the journals say."


def before(plan: Plan, job: Job) -> str | None:
    """The version that must be over in its database before this one; None for the first.

    Raises:
        Unsigned: the plan never comes to this operation.
    """
    at = job.at
    order = plan.orders.get(at.database, ())
    if at.version not in order or not _on_its_way(plan, job):
        raise _not_planned(at)
    if job.generation != plan.generations[at.database] + 1:
        raise _not_planned(at)
    position = order.index(at.version)
    return order[position - 1] if position else None


def _on_its_way(plan: Plan, job: Job) -> bool:
    """Whether the run, in its direction, comes to this operation of the migration.

    Whether a run that goes forward has turned back here is not known here.
    """
    at, count = job.at, len(job.migration.operations)
    if job.run.direction is Direction.FORWARD:
        return 1 <= (at.until or 1) <= at.number <= count
    text = plan.first.get(job.migration.reference)
    first = Next.parse(at.database, text) if text else None
    if first is None or first.version != at.version or first.until != at.until:
        return False
    if at.until is None:
        return first.number <= at.number <= count + len(job.migration.rollback)
    return at.until <= at.number <= first.number


def _not_planned(at: Next) -> Unsigned:
    return Unsigned(f"Redis says that {at.key} is next, and the plan of the run does not", TODO)
