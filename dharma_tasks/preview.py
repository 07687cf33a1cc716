"""What a run would do, without doing it: the planner's own plan, with each operation explained.

It is made from the journals as they are, by the code that runs, and writes nothing anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel

from dharma_tasks.journal import Direction, Survey
from dharma_tasks.migration import JSON, Migration, Reference, reference
from dharma_tasks.operations import catalogue
from dharma_tasks.planner import Plan, Request, plan
from dharma_tasks.reversal import irreversible, plan_back
from dharma_tasks.run import Next

__all__ = ["MigrationPreview", "OperationPreview", "Preview", "make"]


class OperationPreview(BaseModel):
    """One operation. `irreversible` says why it cannot be undone; `undo` that it is undone."""

    number: int
    type: str
    summary: str
    undo: bool = False
    irreversible: str | None = None
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
    """Everything that a run would do, by database in its order."""

    direction: Direction
    databases: dict[str, list[MigrationPreview]]
    warnings: list[str]


def make(
    migrations: Sequence[Migration], surveys: Mapping[str, Survey], request: Request
) -> Preview:
    """Plan, as a worker would, and explain.

    Raises:
        Refused: what a submit would be refused for, with every reason.
    """
    way = plan if request.direction is Direction.FORWARD else plan_back
    made = way(migrations, surveys, request)
    files = {migration.reference: migration for migration in migrations}
    databases = {
        name: [
            _migration(made, surveys[name], files[reference(name, version)]) for version in order
        ]
        for name, order in made.orders.items()
    }
    return Preview(direction=request.direction, databases=databases, warnings=made.warnings)


def _migration(made: Plan, survey: Survey, migration: Migration) -> MigrationPreview:
    planned = {reference(name, v) for name, order in made.orders.items() for v in order}
    return MigrationPreview(
        database=migration.database,
        version=migration.version,
        name=migration.name,
        file=migration.file,
        waits=[name for name in made.dependencies[migration.reference] if name in planned],
        rollback_file=bool(migration.rollback),
        operations=list(_operations(made, survey, migration)),
    )


def _operations(made: Plan, survey: Survey, migration: Migration) -> Iterator[OperationPreview]:
    first = made.first.get(migration.reference, f"{migration.version} 1")
    begin = Next.parse(migration.database, first)
    record = survey.by_version().get(migration.version)
    final = irreversible(migration, record)
    for at in begin.rest(len(migration.operations), len(migration.rollback)):
        operation = migration.operation(at.number)
        problem = final.get(at.number)
        yield OperationPreview(
            number=at.number,
            type=operation["type"],
            summary=_summary(migration.database, operation),
            undo=at.until is not None,
            irreversible=problem.what if problem and not migration.rollback else None,
            sql=operation.get("sql"),
        )


def _summary(database: str, operation: JSON) -> str:
    return catalogue(database).parse(operation).summary
