"""`dharma unlock`: break a lease on purpose.

A lease keeps workers apart; that nothing is done twice rests on the journal's fence (Law 4). So
to break one is safe at any time: it costs its holder the batch it is in, and no more.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
from redis import Redis
from rich.text import Text

from dharma_tasks import replies, words
from dharma_tasks.cli import common, options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import console
from dharma_tasks.cli.talk import Talk
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.flow.asked import leases_on
from dharma_tasks.lease import Held, Leases
from dharma_tasks.messages import ERROR, REFUSED, UNLOCK_LATE, UNLOCKED, signed, unlock_message
from dharma_tasks.redis_client import require_redis
from dharma_tasks.run import Next, Run
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.signing import signer
from dharma_tasks.submit import who_asks
from dharma_tasks.workers import Workers

ANSWER_SECONDS = 10
"""How long a worker may take to answer; the one that hangs is not the one that does."""


@click.command(
    epilog=examples("dharma unlock postgresql", "dharma unlock postgresql --yes --by ann")
)
@click.argument("database", type=click.Choice(NAMES))
@click.option(
    "--range", "number", type=int, metavar="N", help="Of one range, where an operation has several."
)
@options.yes
@options.as_json
@options.by
def unlock(*, database: str, number: int | None, yes: bool, as_json: bool, by: str | None) -> None:
    """Break the lease of a worker that hangs, so that another one goes on.

    A worker that is gone needs none of this: its lease runs out by itself. It is for one that
    still gives signs of life and should not. What it had not committed is thrown away and done
    again; nothing is lost and nothing is done twice. It is written to DATABASE's history.

    Exit status: 0 done or nothing held, 2 refused, or the answer was no, 4 a service or a worker
    cannot be reached, 130 Ctrl-C at the question.
    """
    settings: Settings | None = None
    talk = Talk(json=as_json)
    talk.document |= {"database": database, "lease": None, "broken": False}
    try:
        settings = common.settings()
        asked = _Asked(database, who_asks(by), number)
        call = _Unlock(settings, require_redis(settings), asked, talk)
        status = call.run(yes=yes)
    except Exception as error:  # noqa: BLE001 - told in one place
        talk.document["message"] = common.message_of(error, settings) or str(error)
        console(sys.stderr).print(Text(talk.document["message"], "red"))
        status = common.status_of(error)
    sys.exit(talk.end(status))


@dataclass(frozen=True)
class _Asked:
    """Whose lease, for whom; `number` is that of a range."""

    database: str
    by: str
    number: int | None


class _Unlock:
    """One call of the command."""

    def __init__(self, settings: Settings, redis: Redis, asked: _Asked, talk: Talk) -> None:
        self._redis = redis
        self._prefix = settings.namespace
        self._database = asked.database
        self._by = asked.by
        self._number = asked.number
        self._signer = signer(settings)
        self._runs = Runs(redis, settings.namespace)
        self._leases = Leases(redis, settings.namespace, settings.lease_seconds)
        self._workers = Workers(redis, settings.namespace)
        self._say = talk.say
        self._document = talk.document

    def run(self, *, yes: bool) -> int:
        """Show who holds what, ask, and let a worker break it. Returns the exit status."""
        found = self._held()
        if found is None:
            return 0
        run, upcoming, held = found
        self._document["lease"] = {
            "run": run.id,
            "version": upcoming.version,
            "operation": upcoming.number,
            "range": self._number,
            **held.holder.model_dump(include={"worker", "node", "pid"}),
        }
        self._say(self._shown(run, upcoming, held))
        if not (yes or common.agreed("Break this lease?")):
            self._say("Nothing was changed.")
            return common.REFUSED
        answer = self._break(held)
        if answer == UNLOCK_LATE:
            self._say("It has ended by itself meanwhile: nothing was broken.")
            return 0
        if answer.startswith(REFUSED):
            raise Refused([Problem("", "", answer.removeprefix(REFUSED), "")])
        if answer != UNLOCKED:
            raise Unreachable(f"nothing was broken: {answer.removeprefix(ERROR)}")
        self._document["broken"] = True
        self._say(f"Broken, and written to {self._database}'s history as done by {self._by}.")
        self._say(
            "The work goes on from its last checkpoint as soon as a worker is free. A worker that "
            "hangs may take it again: stop that one."
        )
        return 0

    def _held(self) -> tuple[Run, Next, Held] | None:
        """The lease to break; where there is none, say how it stands."""
        stands = f"no run is at work in {self._database}"
        for run, upcoming, key, held in leases_on(self._database, self._runs, self._leases):
            if key.range == self._number:
                if held is not None and not held.broken:
                    return run, upcoming, held
                stands = f"run {run.id} is at {key}, and a worker will take it over"
        if self._number is not None and not stands.startswith("run"):
            stands = f"nothing has a range {self._number} that is open"
        self._say(f"{self._database}: no lease is held: {stands}.")
        return None

    def _ranges(self, run: Run) -> Iterator[str]:
        """Who has the operation's ranges, and how to break one of those leases."""
        for found, _, key, held in leases_on(self._database, self._runs, self._leases):
            if found.id == run.id and key.range is not None and held is not None:
                who = f"{held.holder.worker}, pid {held.holder.pid} on {held.holder.node}"
                yield f"  range {key.range} held by {who} (--range {key.range})"

    def _shown(self, run: Run, upcoming: Next, held: Held) -> str:
        holder = held.holder
        lines = [
            f"{self._database}: {upcoming.version} operation {upcoming.number} of run {run.id}"
            + ("" if self._number is None else f", range {self._number}"),
            f"  held by {holder.worker}, pid {holder.pid} on {holder.node}"
            + (" (that process is gone)" if held.free else ""),
        ]
        snapshot = self._runs.snapshot(run.id)
        progress = snapshot.progress.get(self._database) if snapshot else None
        if progress and (progress.version, progress.number) == (upcoming.version, upcoming.number):
            done = words.amount(progress.done, progress.total)
            age = words.duration(time.time() - progress.heartbeat)
            lines.append(f"  {progress.type} {progress.summary}: {done}, heartbeat {age} ago")
            if progress.waiting:
                lines.append(f"  waits: {words.first_line(progress.waiting)}")
        if self._number is None:
            lines += self._ranges(run)
        return "\n".join(lines)

    def _break(self, held: Held) -> str:
        """Let a worker do it: what changes anything runs on a worker (Law 7)."""
        name = self._database
        if name not in self._workers.served():
            msg = f"no live worker serves {name}, and only a worker can write to its history"
            raise Unreachable(f"{msg}. Start one: celery -A dharma_tasks worker -Q {name}")
        reply = replies.new_reply(self._prefix)
        message = unlock_message(name, self._by, held.token, reply)
        common.send([[signed(message, self._signer)]])
        until = time.monotonic() + ANSWER_SECONDS
        answer = replies.fetch(self._redis, reply, until)
        if answer is not None:
            return answer
        msg = (
            f"no worker has answered for {name} within {ANSWER_SECONDS} s: all of them may be "
            "busy. The first that is free breaks this lease, if it is still the same; start "
            f"another one (celery -A dharma_tasks worker -Q {name}), or end the one that hangs"
        )
        raise Unreachable(msg)
