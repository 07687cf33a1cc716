"""The messages that lead from submit to each operation, and the chains that they are sent in.

A chain is a list of messages of which each is sent when the one before it has done its part.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from pydantic import TypeAdapter

from dharma_tasks.journal import Declaration, Entry, Pruned
from dharma_tasks.lease import Leases
from dharma_tasks.migration import JSON, Reference, reference
from dharma_tasks.records import Direction, Head
from dharma_tasks.run import Next, Run, RunState, Snapshot
from dharma_tasks.runs import Runs
from dharma_tasks.signing import Kind, Signer, canonical

REFUSED = "refused "
ERROR = "error "
"""What an answer begins with where it was not done; then comes why."""
UNLOCKED = "unlocked"
UNLOCK_LATE = "late"
"""The answers to an `unlock`."""
WRITTEN = "written"
"""The answer to an `audit`."""
DECLARED = "declared"
"""The answer to a `declare`."""
PRUNED = TypeAdapter(list[Pruned])
"""The answer to a `prune`, as JSON."""


@dataclass(frozen=True)
class Pruning:
    """What is to be removed: all that was kept before `before`. `run` is an id of its own."""

    before: datetime
    run: str
    by: str


DECLARATION = TypeAdapter(Declaration)
PRUNING = TypeAdapter(Pruning)


@dataclass(frozen=True)
class Message:
    """One task to send: its name without the package, its database (the queue), its arguments.

    `said` is what people read in Flower in place of some of the arguments. One that is `spare` goes
    to a worker that has nothing else to do.
    """

    task: str
    database: str
    arguments: JSON
    said: Mapping[str, str] = field(default_factory=dict, compare=False)
    spare: bool = False


Chain = list[Message]


def survey_message(run: str, database: str) -> Message:
    """Ask `database` what its journal says."""
    return Message("survey", database, {"database": database, "run": run})


def read_message(
    database: str,
    reply: str,
    *,
    history: int | None = None,
    count: Sequence[str] | None = None,
    examine: bool = False,
) -> Message:
    """Ask `database` for what its journal says, to be put into the list `reply`.

    `history` asks for that many entries of the audit trail instead, `count` how much there is in
    what it names, `examine` for what `dharma doctor` looks at. What is not asked for is left out,
    for a worker that is older than it.
    """
    asked: JSON = {} if history is None else {"history": history}
    if count is not None:
        asked["count"] = list(count)
    if examine:
        asked["examine"] = True
    return Message("read", database, {"database": database, "reply": reply, **asked})


def signed(message: Message, signer: Signer) -> Message:
    """What a person asks of a worker, as one that has a key believes it; see `flow/asked.py`."""
    if not signer.on:
        return message
    arguments = {**message.arguments, "at": int(time.time())}
    signature = signer.sign(Kind.ASKED, message.task, canonical(arguments))
    said = {**message.said, "signature": "…"}  # as it is, it would be good for a day
    return replace(message, arguments={**arguments, "signature": signature}, said=said)


def unlock_message(database: str, by: str, token: str, reply: str) -> Message:
    """Ask a worker of `database` to break the lease `token`; see `flow/asked.py`."""
    arguments = {"database": database, "by": by, "token": token, "reply": reply}
    return Message("unlock", database, arguments)


def audit_message(entry: Entry, reply: str) -> Message:
    """Ask a worker to write what a person did into the history of the entry's database."""
    key = entry.key
    arguments = {
        "database": key.database,
        "event": entry.event,
        "run": entry.run,
        "by": entry.by,
        "version": key.version,
        "operation": key.number,
        "detail": entry.detail,
        "reply": reply,
    }
    return Message("audit", key.database, arguments)


def declare_message(
    database: str, declaration: Declaration, seen: Head | None, reply: str
) -> Message:
    """Ask a worker to write a declaration into the journal whose head was `seen`."""
    arguments = {
        "database": database,
        "declaration": DECLARATION.dump_python(declaration, mode="json"),
        **_seen(seen),
        "reply": reply,
    }
    return Message("declare", database, arguments)


def prune_message(database: str, pruning: Pruning, reply: str) -> Message:
    """Ask a worker to remove what is kept for the way back and no longer wanted."""
    wanted = PRUNING.dump_python(pruning, mode="json")
    arguments = {"database": database, "pruning": wanted, "reply": reply}
    return Message("prune", database, arguments)


def _seen(head: Head | None) -> JSON:
    """Which journal it is about, and how far that was; one that is to be made is at 0."""
    return {"generation": head.generation, "identity": head.identity} if head else {"generation": 0}


def begin_message(run: str, database: str) -> Message:
    """Open the run in `database`."""
    return Message("begin", database, {"database": database, "run": run})


def operation_chain(runs: Runs, run: Run, upcoming: Next) -> Chain:
    """The rest of a migration from one operation on, after what it waits for is confirmed.

    On the way back that is asked with every chain until it is: a way back begins anywhere.
    """
    operations, rollback = runs.operations(run, upcoming.database, upcoming.version)
    kinds = [*operations, *rollback]
    rest = upcoming.rest(len(operations), len(rollback))
    waits: list[Reference] = []
    if run.direction is Direction.BACK or upcoming.text == f"{upcoming.version} 1":
        waits = runs.unconfirmed(run, upcoming.database, upcoming.version)
    ours = reference(upcoming.database, upcoming.version)
    names = runs.names(run, [ours, *waits])
    return [
        *(_confirm_message(run, ref, names[ref]) for ref in waits),
        *(_operation_message(run, at, kinds, names[ours]) for at in rest),
    ]


def _chain(runs: Runs, snapshot: Snapshot, upcoming: Next) -> Chain:
    """What follows from one operation on; of a cancelled run first its turn to the way back.

    That waits for no other database, and the worker that makes it knows what is to be sent.
    """
    chain = operation_chain(runs, snapshot.run, upcoming)
    if _turns(snapshot, upcoming):
        return [message for message in chain if message.task != "confirm"][:1]
    return chain


def _turns(snapshot: Snapshot, upcoming: Next) -> bool:
    """Whether it is not to be carried out any more, but its migration to be undone."""
    forward = snapshot.run.direction is Direction.FORWARD and upcoming.until is None
    return snapshot.state is RunState.CANCELLING and forward


def _rests(snapshot: Snapshot, upcoming: Next) -> bool:
    """Whether it waits for its run's window; a cancelled run turns back without."""
    progress = snapshot.progress.get(upcoming.database)
    resting = progress is not None and progress.resting(upcoming)
    return resting and not _turns(snapshot, upcoming)


def _operation_message(run: Run, at: Next, kinds: Sequence[str], name: str) -> Message:
    arguments = {"version": at.version, "operation": at.number, "run": run.id}
    if at.until is not None:
        arguments["undo_until"] = at.until
    said = _said(at.version, name) | {"operation": f"{at.number} of {len(kinds)}"}
    return Message(f"{at.database}.{kinds[at.number - 1]}", at.database, arguments, said)


def _range_message(runs: Runs, run: Run, at: Next, number: int) -> Message:
    message = next(each for each in operation_chain(runs, run, at) if each.task != "confirm")
    return replace(message, arguments={**message.arguments, "range": number}, spare=True)


def _confirm_message(run: Run, ref: Reference, name: str) -> Message:
    database, _, version = ref.partition(":")
    arguments = {"database": database, "version": version, "run": run.id}
    return Message("confirm", database, arguments, _said(version, name))


def _said(version: str, name: str) -> dict[str, str]:
    return {"version": f"{version} {name}".rstrip()}


def orphans(
    runs: Runs, leases: Leases, snapshot: Snapshot, databases: Iterable[str]
) -> Iterator[tuple[str, Chain]]:
    """What is next in each database and has no live lease, with a name to claim it by.

    Of an operation at work they are those of its ranges that nobody has. What rests outside its
    window is left out. The others may be in a queue still: whoever sends them again makes a
    duplicate then, which steps aside.
    """
    run = snapshot.run
    if snapshot.state.rests:
        return
    for database in databases:
        if snapshot.state is RunState.PLANNING:
            if database in run.surveyed:
                yield f"{run.id}:survey:{database}", [survey_message(run.id, database)]
        elif database in snapshot.working:
            yield from _at_work(runs, leases, snapshot, snapshot.working[database])
        elif snapshot.state is not RunState.RUNNING:
            continue
        elif snapshot.total.get(database) and database not in snapshot.generations:
            yield f"{run.id}:begin:{database}", [begin_message(run.id, database)]


def _at_work(
    runs: Runs, leases: Leases, snapshot: Snapshot, at: Next
) -> Iterator[tuple[str, Chain]]:
    """What nobody has of an operation: itself, or else some of its ranges."""
    if _rests(snapshot, at):
        return
    if leases.holder(at.key) is None:
        yield f"{snapshot.run.id}:{at.key}", _chain(runs, snapshot, at)
        return
    for number in () if _turns(snapshot, at) else snapshot.ranges.get(at.database, ()):
        key = at.key.of_range(number)
        if leases.holder(key) is None:
            yield f"{snapshot.run.id}:{key}", [_range_message(runs, snapshot.run, at, number)]
