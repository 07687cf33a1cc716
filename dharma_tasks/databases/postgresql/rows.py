"""What the journal's statements are given, and what their rows say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from psycopg.rows import TupleRow

from dharma_tasks.migration import JSON, Key
from dharma_tasks.records import (
    SCHEMA_VERSION,
    Direction,
    Head,
    MigrationRecord,
    OperationRecord,
    OperationState,
    Owner,
    RangeRecord,
)
from dharma_tasks.work import WAY_BACK, Assignment, Prepared, Taken, Walked


def of(key: Key) -> dict[str, Any]:
    """Which operation, or which range of it."""
    return {"version": key.version, "number": key.number, "range": key.range}


def values(assignment: Assignment) -> dict[str, Any]:
    """What every statement may need of an operation."""
    return {
        **of(assignment.key),
        "run": assignment.run,
        "by": assignment.by,
        "going": assignment.going.value,
        "outcome": assignment.outcome.value,
        "last": assignment.last,
        "at_work": assignment.at_work.value,
        "ended": "undone" if assignment.back else "done",
        "way_back": WAY_BACK,
    }


def taking(
    assignment: Assignment, owner: Owner, *, counted: bool, error: str | None
) -> dict[str, Any]:
    """What taking over needs besides."""
    return {
        **values(assignment),
        "generation": assignment.generation,
        "schema": SCHEMA_VERSION,
        "name": assignment.name,
        "checksum": assignment.checksum,
        "count": assignment.count,
        "type": assignment.type,
        "worker": owner.worker,
        "owner": owner.model_dump_json(),
        "counted": counted,
        "error": storable(error) if error else None,
    }


def ranges(prepared: Prepared) -> str:
    """The ranges that are to be made, as JSON."""
    return json.dumps([asdict(each) for each in prepared.ranges])


def storable(text: str) -> str:
    """PostgreSQL's text holds no NUL characters."""
    return text.replace("\x00", "\ufffd")


def head(row: TupleRow) -> Head:
    """The head, of `HEAD`."""
    identity, schema_version, run, generation, direction, plan = row
    return Head(
        identity=identity,
        schema_version=schema_version,
        run=run,
        generation=generation,
        direction=Direction(direction),
        plan=plan,
    )


_MIGRATION = (
    "version",
    "name",
    "state",
    "checksum",
    "run",
    "by",
    "started",
    "finished",
    "seconds",
    "error",
)
_OPERATION = (
    "number",
    "type",
    "state",
    "done",
    "total",
    "attempts",
    "error",
    "worker",
    "updated",
    "irreversible",
)


def migration(row: TupleRow, operations: list[OperationRecord]) -> MigrationRecord:
    """One of `MIGRATIONS`."""
    found = dict(zip(_MIGRATION, row, strict=True))
    return MigrationRecord.model_validate({**found, "operations": operations})


def operation(row: list[Any]) -> OperationRecord:
    """One of `OPERATIONS`."""
    return OperationRecord.model_validate(dict(zip(_OPERATION, row, strict=True)))


def range_record(row: TupleRow) -> RangeRecord:
    """One of `RANGES`."""
    return RangeRecord.model_validate(dict(zip(RangeRecord.model_fields, row, strict=True)))


def taken(assignment: Assignment, row: Sequence[Any], mark: JSON) -> Taken:
    """What was taken: `TAKE` says nothing of the way back, `TAKE_BACK` how far it had come."""
    fence, state, cursor, undo, done, total, attempts, former, *rest = row
    walked = rest[0] if rest else None
    return Taken(
        assignment=assignment,
        fence=fence,
        state=OperationState(state),
        cursor=cursor,
        undo=undo,
        done=done,
        total=total,
        attempts=attempts,
        former=Owner.model_validate(former) if former else None,
        walked=Walked(**walked) if walked else None,
        mark=mark,
    )
