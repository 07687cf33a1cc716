"""What `dharma pause`, `resume` and `cancel` share: which run, who asks, and the audit trail.

The state of a run is changed here, in Redis, for a worker that is busy with the very operation
that is to stop could not be asked. Workers then write who did it into the histories (Law 7).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from redis import Redis
from rich.text import Text

from dharma_tasks import replies, words
from dharma_tasks.cli import common
from dharma_tasks.cli.screen import console
from dharma_tasks.cli.talk import Talk
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.journal import Entry
from dharma_tasks.lease import Leases
from dharma_tasks.messages import (
    ERROR,
    REFUSED,
    WRITTEN,
    audit_message,
    operation_chain,
    orphans,
    signed,
)
from dharma_tasks.migration import Key
from dharma_tasks.redis_client import require_redis
from dharma_tasks.run import Event, RunState, Snapshot
from dharma_tasks.runs_steered import RunsSteered
from dharma_tasks.settings import Settings
from dharma_tasks.signing import signer
from dharma_tasks.submit import who_asks
from dharma_tasks.workers import Workers

ANSWER_SECONDS = 10
"""How long workers may take to write it down; the first that is free does it in any case."""


class Steering:
    """One call of one of the commands. `by` is who asks."""

    def __init__(self, settings: Settings, redis: Redis, by: str, talk: Talk) -> None:
        """Nothing is asked yet."""
        self._redis = redis
        self._prefix = settings.namespace
        self._leases = Leases(redis, settings.namespace, settings.lease_seconds)
        self._workers = Workers(redis, settings.namespace)
        self.runs = RunsSteered(redis, settings.namespace, signer(settings))
        self.by = by
        self.say = talk.say
        self._document = talk.document

    def chosen(self, name: str | None) -> Snapshot:
        """The run of that name, which must be open; without one the only open run.

        Raises:
            Refused: there is none, or there are several; or workers would not believe us.
        """
        found = self._chosen(name)
        self.runs.require_key(found.run)
        run = found.run
        self._document |= {"run": run.id, "databases": run.databases, "was": found.state}
        return found

    def _chosen(self, name: str | None) -> Snapshot:
        found = self.runs.open()
        if name is not None:
            for snapshot in found:
                if snapshot.run.id == name:
                    return snapshot
            state = self.runs.state(name)
            raise _refused(f"run {name} is {state or 'not known to Redis'}", _listed(found))
        if len(found) == 1:
            return found[0]
        if not found:
            raise _refused("no run is open", "There is nothing to do.")
        raise _refused(f"{len(found)} runs are open", f"Name one. {_listed(found)}")

    def event(self, kind: str, text: str) -> Event:
        """What whoever watches the run is told."""
        return Event(at=datetime.now(UTC), kind=kind, text=text)

    def shown(self, snapshot: Snapshot) -> str:
        """The run, and what is open in each database."""
        run = snapshot.run
        lines = [f"run {run.id} of {run.by} ({', '.join(run.databases)}): {snapshot.state}"]
        for database, at in sorted(snapshot.working.items()):
            line = f"  {database}: {at.version} operation {at.number}"
            progress = snapshot.progress.get(database)
            if progress and (progress.version, progress.number) == (at.version, at.number):
                done = words.amount(progress.done, progress.total)
                line += f", {progress.type} {progress.summary}: {done}"
            lines.append(line)
        return "\n".join(lines)

    def send(self, name: str) -> None:
        """Send what is open and has no worker, and what is ready: no need of a rescuer."""
        snapshot = self.runs.snapshot(name)
        if snapshot is None or snapshot.state.rests:
            return
        run = snapshot.run
        found = [chain for _, chain in orphans(self.runs, self._leases, snapshot, run.surveyed)]
        ready = self.runs.advance(run)
        common.send([*found, *(operation_chain(self.runs, run, each) for each in ready)])

    def write(self, snapshot: Snapshot, event: str) -> None:
        """Have it written into the history of each database that the run has begun to work on.

        Raises:
            Unreachable: a database could not be written to.
        """
        when = f"asked at {datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"
        asked = {}
        for database in sorted(snapshot.generations):
            at = snapshot.working.get(database)
            key = Key(
                database=database,
                version=at.version if at else "",
                number=at.number if at else 0,
            )
            reply = replies.new_reply(self._prefix)
            entry = Entry(event, snapshot.run.id, self.by, key, when)
            common.send([[signed(audit_message(entry, reply), self.runs.signer)]])
            asked[database] = reply
        until = time.monotonic() + ANSWER_SECONDS
        served = self._workers.served()
        answers = {
            name: replies.fetch(self._redis, reply, until if name in served else 0)
            for name, reply in asked.items()
        }
        written = [name for name, answer in answers.items() if answer == WRITTEN]
        silent = [name for name, answer in answers.items() if answer is None]
        self._document |= {"written": written, "not_written_yet": silent}
        if written:
            self.say(f"Written to the history of {', '.join(written)} as done by {self.by}.")
        if silent:
            self.say(f"The history of {', '.join(silent)} has it as soon as a worker is free.")
        errors = [
            a.removeprefix(ERROR).removeprefix(REFUSED)
            for a in answers.values()
            if a and a != WRITTEN
        ]
        if errors:
            msg = f"it is done, but not in every history: {'; '.join(errors)}"
            raise Unreachable(msg)


def call(by: str | None, command: Callable[[Steering], int], *, json: bool) -> None:
    """Do it, say what went wrong, and exit with the status."""
    settings: Settings | None = None
    talk = Talk(json=json)
    try:
        settings = common.settings()
        status = command(Steering(settings, require_redis(settings), who_asks(by), talk))
    except Exception as error:  # noqa: BLE001 - told in one place
        talk.document["message"] = common.message_of(error, settings) or str(error)
        console(sys.stderr).print(Text(talk.document["message"], "red"))
        status = common.status_of(error)
    sys.exit(talk.end(status))


def _refused(what: str, todo: str) -> Refused:
    return Refused([Problem("", "", what, todo)])


def _listed(found: Iterable[Snapshot]) -> str:
    runs = [f"{each.run.id} ({', '.join(each.run.databases)}, {each.state})" for each in found]
    return f"Open: {'; '.join(runs)}." if runs else "No run is open."


def since_ended(state: RunState, name: str) -> Refused:
    """The run has ended between the look at it and what was to be done to it."""
    return _refused(f"run {name} is {state} by now", "There is nothing to do.")
