"""`--inline`: the same flow in this process, without a worker; for a user's own tests.

`Inline` does what a broker would, and `InlineWorker` is the worker, in a thread of its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from threading import Event, Thread

from redis import Redis

from dharma_tasks.errors import CutOff, StepAside, Unequipped, Unreachable
from dharma_tasks.flow import planning
from dharma_tasks.flow.context import Context
from dharma_tasks.flow.operation import FailedForGood, carry_out, confirm_dependency
from dharma_tasks.identity import node
from dharma_tasks.messages import Chain, Message
from dharma_tasks.rescue import Rescuer
from dharma_tasks.run import Next
from dharma_tasks.settings import Settings

_LOOK_SECONDS = 0.25


class Inline:
    """Carries chains out one after the other, in the order in which they were sent."""

    def __init__(self, context: Context) -> None:
        """Of the process that does the work; this class only does what a broker would."""
        self._context = context
        self._chains: deque[Chain] = deque()

    def send(self, chains: Iterable[Chain]) -> None:
        """Queue chains; `run` carries them out."""
        self._chains.extend(chains)

    def run(self) -> None:
        """Carry out everything that is queued, and what follows from it."""
        while self._chains:
            chain = self._chains.popleft()
            first, *rest = chain
            try:
                self.send(self._step(first)())
            except CutOff:  # there is nobody else
                self._chains.appendleft(chain)
                continue
            except FailedForGood as failure:
                self.send(failure.instead)
                continue
            except Unequipped as error:
                raise _nobody_has_it(first.arguments["run"], error) from None
            except StepAside:
                continue
            if rest:
                self._chains.append(rest)

    def _step(self, message: Message) -> Callable[[], list[Chain]]:
        arguments = message.arguments
        match message.task:
            case "survey":
                return lambda: planning.survey(self._context, **arguments)
            case "begin":
                return lambda: planning.begin(self._context, **arguments)
            case "confirm":
                return lambda: confirm_dependency(self._context, **arguments)
        at = Next(
            message.database,
            arguments["version"],
            arguments["operation"],
            arguments.get("undo_until"),
        )
        return lambda: carry_out(self._context, arguments["run"], at)


def _nobody_has_it(run: str, error: Unequipped) -> Unreachable:
    """There is no other worker here, as far as this process knows."""
    return Unreachable(
        f"{error}. Set it and ask for the same again, or start a worker that has it: run {run} "
        f"goes on from where it is. To end it instead: dharma cancel {run} --keep"
    )


class InlineWorker:
    """Carries out what is sent, and like every worker what nobody else does (Law 5).

    So an inline submit goes on with a run that was interrupted: nobody sends its messages again.
    """

    def __init__(self, settings: Settings, redis: Redis, databases: Iterable[str]) -> None:
        """`databases` are those that it serves; the settings have a URL for each."""
        self._stop = Event()
        self._context = Context(
            settings, redis, worker=f"inline@{node()}", shutting_down=self._stop.is_set
        )
        self._inline = Inline(self._context)
        self._rescuer = Rescuer(settings, redis, databases, queued=lambda _database: 0)
        self._thread = Thread(target=self._work, name="inline-worker", daemon=True)
        self._error: Exception | None = None

    def send(self, chains: Iterable[Chain]) -> None:
        """Take chains. The first call, with the run's surveys, begins the work."""
        self._inline.send(chains)
        self.start()

    def start(self) -> None:
        """Begin to work. Harmless when repeated."""
        if self._thread.ident is None:
            self._thread.start()

    def check(self) -> None:
        """Raise what ended the work, if anything did."""
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Stop at the next batch boundary and wait for it. Harmless when repeated."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                self._inline.run()
                self._stop.wait(_LOOK_SECONDS)
                self._inline.send(self._rescuer.look())
        except Exception as error:  # noqa: BLE001 - whoever waits for this thread raises it
            self._error = error
        finally:
            self._context.close()
