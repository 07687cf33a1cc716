"""What a person asks of a worker, for only workers have the databases' credentials (Law 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from typing import Any

from dharma_tasks import replies, trail
from dharma_tasks.databases.base import Database
from dharma_tasks.errors import FenceLost, Unsigned
from dharma_tasks.flow.context import Answer, Context
from dharma_tasks.journal import Entry
from dharma_tasks.lease import Held, Leases
from dharma_tasks.logs import get_logger, stack_of
from dharma_tasks.messages import (
    DECLARATION,
    DECLARED,
    ERROR,
    PRUNED,
    PRUNING,
    REFUSED,
    UNLOCK_LATE,
    UNLOCKED,
    WRITTEN,
    Chain,
)
from dharma_tasks.migration import JSON, Key
from dharma_tasks.reading import COUNTS, examination
from dharma_tasks.run import Next, Run, Snapshot
from dharma_tasks.runs import Runs
from dharma_tasks.signing import Kind, canonical, confirm_recent

log = get_logger()

TELL_SECONDS = 4
"""How long a database is tried before who asked is told that it cannot be reached.

With one more try, which may last as long as the drivers' timeouts, it is less than they wait.
"""


@dataclass(frozen=True)
class Wanted:
    """What is read instead of the journal.

    So many entries of the audit trail; how much there is in what `count` names; or whether all is
    there that migrations need.
    """

    history: int | None = None
    count: list[str] | None = None
    examine: bool = False


def read(
    context: Context,
    database: str,
    reply: str,
    wanted: Wanted = Wanted(),
) -> list[Chain]:
    """Put what the journal says, or what is `wanted`, or why not, into the list `reply`."""
    try:
        answer = _told(context, database, wanted)
    except Exception as error:  # noqa: BLE001 - whatever it is, who asked is told
        answer = ERROR + context.unreachable(database, error).text
    replies.answer(context.redis, reply, answer)
    return []


def _told(context: Context, database: str, wanted: Wanted) -> str:
    found = context.database(database)
    count, history = wanted.count, wanted.history

    def trying(call: Callable[[], Answer]) -> Answer:
        return context.trying(found, call, seconds=TELL_SECONDS)

    if count is not None:
        return COUNTS.dump_json(trying(lambda: found.count(count))).decode()
    if history is not None:
        return trying(lambda: trail.read(found.journal, history)).model_dump_json()
    if wanted.examine:
        return trying(lambda: examination(found, context.worker)).model_dump_json()
    return trying(found.journal.survey).model_dump_json()


def signed(step: Callable[..., list[Chain]]) -> Callable[..., list[Chain]]:
    """With a key, let a step do only what is signed and was asked for just now.

    `at` and `signature` are what `messages.signed` adds. Whoever waits for `reply` is told why not.
    """

    @wraps(step)
    def believing(
        context: Context, *, at: int = 0, signature: str = "", **arguments: Any
    ) -> list[Chain]:
        try:
            if context.signer.on:
                text = canonical({**arguments, "at": at})
                context.signer.confirm(Kind.ASKED, signature, step.__name__, text)
                confirm_recent(datetime.fromtimestamp(at, UTC), "what was asked of this worker")
        except Unsigned as why:
            log.warning("refused", asked=step.__name__, reason=why.what)
            replies.answer(context.redis, arguments["reply"], f"{REFUSED}{why}")
            return []
        return step(context, **arguments)

    return believing


@signed
def unlock(context: Context, *, database: str, by: str, token: str, reply: str) -> list[Chain]:
    """Break the lease `token` on what a run does in `database`; put into `reply` what came.

    Only the lease that `by` has seen: a message that comes late, or twice, breaks no other.
    The audit trail is first, so that no lease is broken without a word.
    """
    found = _with_lease(context, database, token)
    if found is None:
        replies.answer(context.redis, reply, UNLOCK_LATE)
        return []
    run, upcoming, key, held = found
    who = f"{held.holder.worker} (pid {held.holder.pid} on {held.holder.node})"
    which = "" if key.range is None else f" on range {key.range}"
    entry = Entry("unlocked", run.id, by, upcoming.key, f"lease {token} of {who}{which}")
    if not _written(context, entry, reply):
        return []
    context.leases.break_(key, token)
    log.warning("unlocked", run=run.id, operation=str(key), by=by, holder=who)
    context.tell(run, "warning", f"{key}: {by} broke the lease of {who}")
    replies.answer(context.redis, reply, UNLOCKED)
    # A range is sent for by whoever looks next (Law 5), if its operation does not take it first.
    return [] if key.range else context.chains(run, [upcoming])


@signed
def audit(  # noqa: PLR0913 - the parts of an entry
    context: Context,
    *,
    database: str,
    event: str,
    run: str,
    by: str,
    version: str,
    operation: int,
    detail: str,
    reply: str,
) -> list[Chain]:
    """Write what a person did to a run, and say so in `reply`."""
    key = Key(database=database, version=version, number=operation)
    entry = Entry(event, run, by, key, detail)
    if _written(context, entry, reply):
        replies.answer(context.redis, reply, WRITTEN)
    return []


@signed
def declare(  # noqa: PLR0913 - named in the message
    context: Context,
    *,
    database: str,
    declaration: JSON,
    generation: int,
    identity: str | None = None,
    reply: str,
) -> list[Chain]:
    """Write what a person declares, where the journal is as that person has seen it."""
    declared = DECLARATION.validate_python(declaration)

    def write() -> str:
        found = context.database(database)
        _confirm_seen(context, found, identity)
        context.trying(found, lambda: found.journal.declare(declared, generation))
        log.warning("declared", database=database, declared=declared.event, by=declared.by)
        return DECLARED

    _by_itself(context, database, reply, write)
    return []


@signed
def prune(context: Context, *, database: str, pruning: JSON, reply: str) -> list[Chain]:
    """Remove what was kept for the way back and is old, and say in `reply` what it was.

    Before a time that is in the message: the same message again finds nothing more.
    """
    asked = PRUNING.validate_python(pruning)

    def remove() -> str:
        found = context.database(database)
        gone = context.trying(
            found, lambda: found.journal.prune(asked.before, run=asked.run, by=asked.by)
        )
        log.warning("pruned", database=database, by=asked.by, operations=len(gone))
        return PRUNED.dump_json(gone).decode()

    _by_itself(context, database, reply, remove)
    return []


def _confirm_seen(context: Context, found: Database[Any], identity: str | None) -> None:
    """Make sure that the journal is the one that a person has seen; its generation it sees to.

    Raises:
        FenceLost: it is another one.
    """
    if identity is None:
        return
    head = context.trying(found, found.journal.head)
    if head is None or head.identity != identity:
        msg = f"the worker {context.worker} is connected to another {found.name}"
        raise FenceLost(msg)


def run_on(database: str, runs: Runs) -> Snapshot | None:
    """The open run that has `database`, or relies on what is applied there."""
    return next(
        (found for found in runs.open() if database in {*found.run.databases, *found.run.surveyed}),
        None,
    )


def busy(database: str, snapshot: Snapshot) -> str:
    """Why nobody may write to the journal of `database` by hand now, and what to do."""
    run = snapshot.run.id
    return (
        f"run {run} of {snapshot.run.by} needs {database} ({snapshot.state}). Wait for its end, or "
        f"end it: dharma cancel {run} --keep"
    )


def _by_itself(context: Context, database: str, reply: str, call: Callable[[], str]) -> None:
    """Do what no run may be open for; put what came of it into `reply`.

    One that opens now is refused by the journal, or refuses us: the generation decides.
    """
    open_run = run_on(database, context.runs)
    if open_run is not None:
        replies.answer(context.redis, reply, f"{REFUSED}{busy(database, open_run)}")
        return
    try:
        said = call()
    except FenceLost as error:
        said = f"{REFUSED}the journal of {database} is not as it was seen ({error}). Look again"
    except Exception as error:  # noqa: BLE001 - whatever it is, who asked is told
        log.error("not_written", database=database, **stack_of(error))
        said = f"{ERROR}{context.unreachable(database, error).text}"
    replies.answer(context.redis, reply, said)


def leases_on(
    database: str, runs: Runs, leases: Leases
) -> Iterator[tuple[Run, Next, Key, Held | None]]:
    """What each open run does in `database`, and the lease on it, and those on its ranges."""
    for snapshot in runs.open():
        if database in snapshot.working:
            upcoming = snapshot.working[database]
            ranges = [upcoming.key.of_range(n) for n in snapshot.ranges.get(database, ())]
            for key in (upcoming.key, *ranges):
                yield snapshot.run, upcoming, key, leases.held(key)


def _with_lease(context: Context, database: str, token: str) -> tuple[Run, Next, Key, Held] | None:
    for run, upcoming, key, held in leases_on(database, context.runs, context.leases):
        if held is not None and held.token == token:
            return run, upcoming, key, held
    return None


def _written(context: Context, entry: Entry, reply: str) -> bool:
    """Whether the audit trail has the entry; whoever waits for `reply` is told why not."""
    database = entry.key.database
    try:
        found = context.database(database)
        context.trying(found, lambda: found.journal.audit(entry))
    except Exception as error:  # noqa: BLE001 - whatever it is, who asked is told
        told = {"run": entry.run, "database": database, "entry": entry.event}
        log.error("not_written", **told, **stack_of(error))
        replies.answer(context.redis, reply, ERROR + context.unreachable(database, error).text)
        return False
    return True
