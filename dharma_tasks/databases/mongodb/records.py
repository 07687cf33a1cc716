"""The journal's documents, and what the rest of the project reads in them.

`{namespace}_head` holds one document, `_migrations` one for each migration with its version
as `_id`, `_operations` one for each operation with `{version, number}`, `_ranges` one for each
range of one with `{version, number, range}`, `_history` one for each event. `cursor` and `undo`
are BSON as the operation gave them. `_undo` has what the operations keep for their way back: see
`kept.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.journal import Entry, Opening, Pruned
from dharma_tasks.migration import Key
from dharma_tasks.records import (
    Head,
    HistoryRecord,
    MigrationRecord,
    MigrationState,
    OperationRecord,
    OperationState,
    Owner,
    RangeRecord,
)
from dharma_tasks.work import WAY_BACK, Assignment, Range, Step, Taken, Walked

COLLECTIONS = ("head", "migrations", "operations", "ranges", "history", "undo")
HEAD = "head"
AT_WORK = (OperationState.RUNNING, OperationState.UNDOING)


def now() -> datetime:
    """This moment, as MongoDB keeps it: in milliseconds."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def name(key: Key) -> Document:
    """The `_id` of an operation's document, or a range's. The order of its fields is part of it."""
    of = {"range": key.range} if key.range is not None else {}
    return {"version": key.version, "number": key.number, **of}


def taking(
    assignment: Assignment, owner: Owner, *, counted: bool, error: str | None
) -> list[Document]:
    """The one update that takes an operation over; `former` is who had it until now.

    A failed operation goes on from its cursor, and its attempts begin again.
    """
    attempts = {"$cond": [{"$eq": ["$state", assignment.at_work]}, _or("$attempts", 0), 0]}
    written: Document = {
        "type": assignment.type,
        "run": assignment.run,
        "former": _or("$owner", None),
        "owner": {"$literal": owner.model_dump()},
        "fence": {"$add": [_or("$fence", 0), 1]},
        "attempts": {"$add": [attempts, 1]} if counted else {"$max": [attempts, 1]},
        "state": assignment.at_work,
        "error": {"$literal": error},
        "undo": _or("$undo", None),
        "updated": now(),
    }
    return [{"$set": written | (_BACK if assignment.back else _FORWARD)}]


def _or(field: str, default: Any) -> Document:
    return {"$ifNull": [field, default]}


_FORWARD: Document = {
    "cursor": _or("$cursor", None),
    "done": _or("$done", 0),
    "total": _or("$total", None),
    "walked": None,
}


def _begun(before: Any, now: Any) -> Document:
    """`before` where the way back has begun before, and `now` where it begins now."""
    return {"$cond": [{"$eq": ["$state", OperationState.UNDOING]}, before, now]}


_BACK: Document = {
    "walked": _begun("$walked", {"cursor": _or("$cursor", None), "done": _or("$done", 0)}),
    "cursor": _begun("$cursor", None),
    "done": _begun("$done", 0),
    "total": _begun("$total", None),
}
"""The first taking of the way back: where the way forward had come to is kept apart."""


def taken(assignment: Assignment, document: Document) -> Taken:
    """What `take` returns, from the document as that write left it."""
    former, walked = document.get("former"), document.get("walked")
    return Taken(
        assignment=assignment,
        fence=document["fence"],
        state=OperationState(document["state"]),
        cursor=document["cursor"],
        undo=document["undo"],
        done=document["done"],
        total=document["total"],
        attempts=document["attempts"],
        former=Owner.model_validate(former) if former else None,
        walked=Walked(**walked) if walked else None,
    )


def made(each: Range) -> Document:
    """A range that nobody has taken yet."""
    return NOTHING | {
        "cursor": each.cursor,
        "undo": each.undo,
        "owner": None,
        "updated": now(),
    }


def range_record(document: Document) -> RangeRecord:
    """A range, from its document."""
    fields = {k: v for k, v in document.items() if k in RangeRecord.model_fields}
    return RangeRecord.model_validate(fields | {"number": document["_id"]["range"]})


def untaken(assignment: Assignment, document: Document | None) -> Taken:
    """An operation that is undone, or was never begun: nobody takes it."""
    return Taken(assignment, (document or {}).get("fence", 0), OperationState.PENDING, attempts=0)


def checkpoint(before: Taken, step: Step) -> Document:
    """What a batch writes: its cursor, and that no attempt was made from there yet."""
    after = before.stepped(step)
    if after.over and before.assignment.back:
        return NOTHING | LEFT | {"updated": now()}
    written: Document = {
        "cursor": after.cursor,
        "done": after.done,
        "total": after.total,
        "state": after.state,
        "attempts": 0,
        "error": None,
        "updated": now(),
    }
    return written | (LEFT if step.finished else {})


def failed(taken: Taken, error: str) -> Document:
    """What a lasting error writes. What was being undone is still to be undone."""
    if taken.assignment.back:
        state: Document = {"state": OperationState.UNDOING, "attempts": 0}
    else:
        state = {"state": OperationState.FAILED}
    return state | LEFT | {"error": error, "updated": now()}


NOTHING: Document = {
    "state": OperationState.PENDING,
    "cursor": None,
    "undo": None,
    "walked": None,
    "done": 0,
    "total": None,
    "attempts": 0,
    "error": None,
}
"""An operation that was undone, or that begins again: nothing of it is recorded."""

ANEW: Document = {"$set": NOTHING, "$inc": {"fence": 1}}
"""An operation of a migration that begins again. Its fence goes on rising: a worker that was
frozen since the first time must not find its number there."""

LEFT: Document = {"owner.resources": {}}
"""An owner that left the operation in order holds nothing of it: its session serves others."""


def started(assignment: Assignment) -> Document:
    """A new record of a migration."""
    made = {"name": assignment.name, "checksum": assignment.checksum, "started": now()}
    return made | resumed(assignment, {})


def resumed(assignment: Assignment, record: Document) -> Document:
    """What is written when a migration begins or goes on; on its way back it keeps its error."""
    back = assignment.going is MigrationState.ROLLING_BACK
    error = record.get("error") or ""
    return {
        "state": assignment.going,
        "run": assignment.run,
        "by": assignment.by,
        "finished": None,
        "seconds": None,
        "turned": (record.get("turned") or now()) if back else None,
        "error": error if back and error and not error.startswith(WAY_BACK) else None,
    }


def ended(record: Document, state: MigrationState, error: str | None) -> Document:
    """What the end of a migration writes; `turned` is when it began to be rolled back."""
    finished = now()
    begun = record.get("turned") or record["started"]
    seconds = max(0.0, (finished - begun).total_seconds())
    return {"state": state, "finished": finished, "seconds": seconds, "error": error}


SPARED: Document = dict.fromkeys(("seconds", "error", "turned"))
"""What is not known of a migration that is applied as before: its rollback file left nothing."""


def event(assignment: Assignment, what: str, **more: Any) -> Document:
    """One entry of the audit trail."""
    return {
        "at": now(),
        "event": what,
        "run": assignment.run,
        "by": assignment.by,
        "version": assignment.key.version,
        "name": assignment.name,
        "checksum": assignment.checksum,
        **more,
    }


def which(record: Document | None) -> Document:
    """What an entry of the audit trail says of the migration that it is about."""
    return {field: record[field] for field in ("name", "checksum")} if record else {}


def begun(opening: Opening, generation: int) -> Document:
    """The entry of the audit trail that begins a run's."""
    return {
        "at": now(),
        "event": "run",
        "run": opening.run,
        "by": opening.by,
        "generation": generation,
        "plan": opening.plan,
        "detail": opening.detail,
    }


def entry(told: Entry) -> Document:
    """One entry of the audit trail that a person is the reason of."""
    return {
        "_id": told.id,
        "at": now(),
        "event": told.event,
        "run": told.run,
        "by": told.by,
        "version": told.key.version,
        "number": told.key.number,
        "detail": told.detail,
    }


def pruned(gone: Pruned, run: str, by: str) -> Document:
    """One entry of the audit trail for what was removed."""
    return {
        "at": now(),
        "event": "pruned",
        "run": run,
        "by": by,
        "version": gone.version,
        "number": gone.number,
        "detail": f"what it kept for its way back was removed (documents: {gone.documents})",
    }


def told(document: Document) -> HistoryRecord:
    """One entry of the audit trail, from its document."""
    fields = {k: v for k, v in document.items() if k in HistoryRecord.model_fields}
    fields.setdefault("detail", document.get("direction"))
    return HistoryRecord.model_validate(fields)


def head(document: Document) -> Head:
    """The head, from its document."""
    return Head.model_validate({k: v for k, v in document.items() if k in Head.model_fields})


def migrations(
    documents: Iterable[Document], operations: Iterable[Document]
) -> list[MigrationRecord]:
    """Every migration with its operations, from their documents."""
    below: dict[str, list[OperationRecord]] = {}
    for document in sorted(operations, key=lambda each: each["_id"]["number"]):
        if document["state"] != OperationState.PENDING:
            below.setdefault(document["_id"]["version"], []).append(_operation(document))
    fields = MigrationRecord.model_fields.keys()
    return [
        MigrationRecord.model_validate(
            {k: v for k, v in document.items() if k in fields}
            | {"version": document["_id"], "operations": below.get(document["_id"], [])}
        )
        for document in documents
    ]


def _operation(document: Document) -> OperationRecord:
    fields = {k: v for k, v in document.items() if k in OperationRecord.model_fields}
    owner = document.get("owner") or {}
    undo = document.get("undo") or {}
    more = {
        "number": document["_id"]["number"],
        "worker": owner.get("worker"),
        "irreversible": undo.get("irreversible"),
    }
    return OperationRecord.model_validate(fields | more)
