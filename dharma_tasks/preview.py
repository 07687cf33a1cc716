"""What a run would do, without doing it: the planner's own plan, with each operation explained.

It is made from the journals as they are, by the code that runs, and writes nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from dharma_tasks.estimate import Counts, Estimate, Estimates, Time, rates, total
from dharma_tasks.migration import JSON, Migration, Reference, reference
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Burden, Operation
from dharma_tasks.planner import Plan, Request, plan
from dharma_tasks.records import Direction, MigrationState, OperationRecord, Survey
from dharma_tasks.reversal import irreversible, plan_back
from dharma_tasks.run import Next

__all__ = ["Count", "MigrationPreview", "OperationPreview", "Preview", "make"]

Count = Callable[[Mapping[str, Sequence[str]]], Mapping[str, Counts]]
"""Say how much there is in what is named, by database; one that cannot say it is left out."""


class OperationPreview(BaseModel):
    """One operation. `irreversible` says why it cannot be undone; `undo` that it is undone.

    `heavy` and `blocking` are as in `Burden`; `estimate` is there for a heavy one.
    """

    number: int
    type: str
    summary: str
    undo: bool = False
    irreversible: str | None = None
    heavy: bool = False
    blocking: list[str] = []
    estimate: Estimate | None = None
    sql: str | None = None


class MigrationPreview(BaseModel):
    """One migration; `waits` names those in other databases that go before it."""

    database: str
    version: str
    name: str
    file: str
    waits: list[Reference]
    rollback_file: bool
    operations: list[OperationPreview]


class Preview(BaseModel):
    """Everything that a run would do, by database in its order.

    The databases go side by side; `times` has those with something heavy to do.
    """

    direction: Direction
    databases: dict[str, list[MigrationPreview]]
    times: dict[str, Time]
    warnings: list[str]


def make(
    migrations: Sequence[Migration],
    surveys: Mapping[str, Survey],
    request: Request,
    count: Count,
) -> Preview:
    """Plan, as a worker would, and explain. `count` is asked once, for what is gone through.

    Raises:
        Refused: what a submit would be refused for, with every reason.
    """
    way = plan if request.direction is Direction.FORWARD else plan_back
    made = way(migrations, surveys, request)
    files = {migration.reference: migration for migration in migrations}
    planned = {
        name: {v: list(_steps(made, surveys[name], files[reference(name, v)])) for v in order}
        for name, order in made.orders.items()
    }
    counted = count(
        {name: targets for name, steps in planned.items() if (targets := _targets(steps))}
    )
    databases = {}
    for name, steps in planned.items():
        estimates = Estimates(counted.get(name), rates(surveys[name]))
        databases[name] = [
            _migration(made, files[reference(name, version)], each, estimates)
            for version, each in steps.items()
        ]
    return Preview(
        direction=request.direction,
        databases=databases,
        times=dict(_times(databases)),
        warnings=made.warnings,
    )


@dataclass(frozen=True)
class _Step:
    """One operation of the plan, with what the journal knows of it if it has begun."""

    at: Next
    definition: JSON
    operation: Operation[Any]
    irreversible: str | None
    known: OperationRecord | None

    @property
    def undo(self) -> bool:
        """Whether it is to be undone."""
        return self.at.until is not None

    @property
    def burden(self) -> Burden:
        """Nothing, where it cannot be undone: then it is passed over."""
        if self.undo and self.irreversible:
            return Burden()
        return self.operation.burden(Direction.BACK if self.undo else Direction.FORWARD)


def _steps(made: Plan, survey: Survey, migration: Migration) -> Iterator[_Step]:
    first = made.first.get(migration.reference, f"{migration.version} 1")
    begin = Next.parse(migration.database, first)
    record = survey.by_version().get(migration.version)
    final = irreversible(migration, record)
    begun = record is not None and record.state is not MigrationState.ROLLED_BACK
    known = {each.number: each for each in record.operations} if record and begun else {}
    for at in begin.rest(len(migration.operations), len(migration.rollback)):
        definition = migration.operation(at.number)
        problem = final.get(at.number)
        yield _Step(
            at=at,
            definition=definition,
            operation=catalogue(migration.database).parse(definition),
            irreversible=problem.what if problem and not migration.rollback else None,
            known=known.get(at.number),
        )


def _targets(steps: Mapping[str, Sequence[_Step]]) -> list[str]:
    """What the operations of a database go through."""
    found = (each.burden.targets for migration in steps.values() for each in migration)
    return sorted({name for targets in found for name in targets})


def _migration(
    made: Plan, migration: Migration, steps: Sequence[_Step], estimates: Estimates
) -> MigrationPreview:
    planned = {reference(name, v) for name, order in made.orders.items() for v in order}
    return MigrationPreview(
        database=migration.database,
        version=migration.version,
        name=migration.name,
        file=migration.file,
        waits=[name for name in made.dependencies[migration.reference] if name in planned],
        rollback_file=bool(migration.rollback),
        operations=[_operation(step, estimates) for step in steps],
    )


def _operation(step: _Step, estimates: Estimates) -> OperationPreview:
    burden = step.burden
    if step.undo:
        estimate = estimates.back(burden, step.known)
    else:
        estimate = estimates.of(step.operation.kind, burden, step.known)
    return OperationPreview(
        number=step.at.number,
        type=step.operation.kind,
        summary=step.operation.summary,
        undo=step.undo,
        irreversible=step.irreversible,
        heavy=burden.heavy,
        blocking=list(burden.blocking),
        estimate=estimate,
        sql=step.definition.get("sql"),
    )


def _times(databases: Mapping[str, Sequence[MigrationPreview]]) -> Iterator[tuple[str, Time]]:
    for name, order in databases.items():
        operations = (operation for migration in order for operation in migration.operations)
        if time := total([each.estimate for each in operations if each.estimate]):
            yield name, time
