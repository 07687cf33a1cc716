"""An operation's document, which is its fence, and what it becomes from one write to the next.

Going forward, and undone: `running -> done`, `undoing -> pending`. Nothing here asks the server.
"""

from __future__ import annotations

import json
from typing import Any

from dharma_tasks.databases.elasticsearch.documents import Document, now
from dharma_tasks.errors import Outdated
from dharma_tasks.migration import JSON
from dharma_tasks.records import OperationRecord, OperationState, Owner
from dharma_tasks.work import Assignment, Taken, Walked

OPEN = (OperationState.RUNNING.value, OperationState.UNDOING.value)
"""Somebody may be at work. One that was being undone and has failed has no owner."""

NOTHING: JSON = {
    **dict.fromkeys(("cursor", "undo", "total", "walked", "error", "owner")),
    **dict.fromkeys(("done", "attempts"), 0),
}
"""What an operation starts from, and what is left when it is undone."""


def name(version: str, number: int) -> str:
    """The document's id."""
    return f"{version}#{number}"


def owner_of(found: Document | None) -> Owner | None:
    """Who has the operation; nobody has one that is at its end or has failed."""
    if found is None or found.get("state") not in OPEN or found.get("owner") is None:
        return None
    return Owner.model_validate_json(found.get("owner"))


def state_of(found: Document | None, era: int) -> OperationState:
    """The operation's state; one without a document, or of an older era, is pending."""
    if found is None or found.get("era") != era:
        return OperationState.PENDING
    return OperationState(found.get("state"))


def is_over(found: Document | None, assignment: Assignment, era: int) -> bool:
    """Whether nothing is left to do.

    Raises:
        Outdated: a newer run has written to it; or it is to go forward, but this or another run
            is undoing it, or this one has.
    """
    if found is not None and found.get("generation") > assignment.generation:
        message = f"{assignment.key} is a newer run's"
        raise Outdated(message)
    state = state_of(found, era)
    if assignment.back:
        return state is assignment.over
    # In whatever era: a migration that is rolled back as a whole would begin anew.
    undone = (
        found is not None
        and found.get("state") == OperationState.PENDING
        and found.get("generation") == assignment.generation
    )
    if undone or state is OperationState.UNDOING:
        message = f"{assignment.key} is {'undone' if undone else 'being undone'}"
        raise Outdated(message)
    return state is OperationState.DONE


def seized(
    found: Document | None, assignment: Assignment, owner: Owner, era: int, *, counted: bool
) -> JSON:
    """The document as its new owner writes it."""
    going = assignment.at_work
    state = state_of(found, era)
    begun: JSON = {}
    attempts = 0
    if found is None or state is OperationState.PENDING:
        begun = NOTHING
    elif state is going:  # a failed one was asked for again
        attempts = found.get("attempts")
    elif assignment.back:
        walked = {"cursor": loads(found.get("cursor")), "done": found.get("done")}
        begun = {"walked": json.dumps(walked), "cursor": None, "done": 0}
    return {
        **begun,
        "version": assignment.key.version,
        "number": assignment.key.number,
        "type": assignment.type,
        "state": going.value,
        "era": era,
        "fence": 1 if found is None else found.get("fence") + 1,
        "generation": assignment.generation,
        "run": assignment.run,
        "by": assignment.by,
        "attempts": attempts + 1 if counted else max(attempts, 1),
        "worker": owner.worker,
        "owner": owner.model_dump_json(),
        "updated": now(),
    }


def fenced(found: Document | None, generation: int) -> JSON | None:
    """What shuts out an owner of an older run."""
    if found is None or found.get("state") not in OPEN:
        return None
    if found.get("generation") >= generation:
        return None
    return {"fence": found.get("fence") + 1, "generation": generation}


def taken(
    assignment: Assignment, found: Document | None, era: int, former: Owner | None = None
) -> Taken:
    """The document as its owner knows it."""
    if found is None or found.get("era") != era:
        fence = 0 if found is None else found.get("fence")
        return Taken(assignment, fence, OperationState.PENDING)
    walked = loads(found.get("walked"))
    return Taken(
        assignment=assignment,
        fence=found.get("fence"),
        state=OperationState(found.get("state")),
        cursor=loads(found.get("cursor")),
        undo=loads(found.get("undo")),
        done=found.get("done"),
        total=found.get("total"),
        attempts=found.get("attempts"),
        former=former,
        walked=Walked(**walked) if walked else None,
        mark=found,
    )


def stepped(after: Taken) -> JSON:
    """What a checkpoint writes."""
    if after.state is OperationState.PENDING:
        return {**NOTHING, "state": after.state.value}
    return {
        "cursor": json.dumps(after.cursor),
        "done": after.done,
        "total": after.total,
        "attempts": after.attempts,
        "state": after.state.value,
        "error": None,
    }


def failed(before: Taken, error: str) -> JSON:
    """What a lasting error writes; the cursor of the way back is of use on the way back only."""
    if before.assignment.back:
        return {"error": error, "owner": None, "attempts": 0}
    return {"state": OperationState.FAILED.value, "error": error}


def record(source: JSON) -> OperationRecord:
    """The document as planning and `status` see it."""
    fields = {each: source.get(each) for each in OperationRecord.model_fields}
    undo = loads(source.get("undo")) or {}
    return OperationRecord.model_validate({**fields, "irreversible": undo.get("irreversible")})


def loads(text: str | None) -> Any:
    """Cursor, undo data and the like are kept as text: see `indices.py`."""
    return None if text is None else json.loads(text)
