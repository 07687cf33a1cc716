"""What commands share that let workers write: the question before it, and the answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from redis import Redis

from dharma_tasks import replies
from dharma_tasks.cli import common
from dharma_tasks.errors import Problem, Refused, Unreachable
from dharma_tasks.flow.asked import busy, run_on
from dharma_tasks.messages import ERROR, Message, signed
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings
from dharma_tasks.signing import signer
from dharma_tasks.workers import Workers

ANSWER_SECONDS = 10
"""How long workers may take; the first that is free does it in any case."""
GOES_ON = "Interrupted. What a worker was asked for it does all the same: see dharma history."


class Asking:
    """Lets a worker of each database do something, for which no run may be open there."""

    def __init__(self, settings: Settings, redis: Redis) -> None:
        """Nothing is asked yet."""
        self._redis = redis
        self._prefix = settings.namespace
        self._workers = Workers(redis, settings.namespace)
        self._signer = signer(settings)
        self._runs = Runs(redis, settings.namespace)

    def served(self) -> set[str]:
        """The databases that any live worker serves."""
        return self._workers.served()

    def require_quiet(self, databases: Iterable[str]) -> None:
        """Make sure that no run is open there.

        Raises:
            Refused: with each that is.
        """
        found = ((name, run_on(name, self._runs)) for name in databases)
        problems = [Problem("", "", busy(name, run), "") for name, run in found if run]
        if problems:
            raise Refused(problems)

    def require_served(self, databases: Iterable[str]) -> None:
        """Make sure that somebody is there who can write.

        Raises:
            Unreachable: nobody serves one of them.
        """
        missing = sorted(set(databases) - self.served())
        if missing:
            msg = f"no live worker serves {', '.join(missing)}, and only workers write there"
            raise Unreachable(f"{msg}. Start one: celery -A dharma_tasks worker")

    def answers(
        self, databases: Iterable[str], message: Callable[[str, str], Message]
    ) -> dict[str, str]:
        """Send one message to each, and return what has come; `ERROR` where nothing has."""
        asked = {name: replies.new_reply(self._prefix) for name in databases}
        common.send([signed(message(name, reply), self._signer)] for name, reply in asked.items())
        until = time.monotonic() + ANSWER_SECONDS
        return {
            name: replies.fetch(self._redis, reply, until) or _silent(name)
            for name, reply in asked.items()
        }


def _silent(name: str) -> str:
    return (
        f"{ERROR}no worker has answered for {name} within {ANSWER_SECONDS} s: all of them may be "
        "busy. The first that is free does it, if nothing has changed by then; "
        f"dharma history {name} shows it"
    )
