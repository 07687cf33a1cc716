"""`--inline`: the same flow in this process, without a worker; for a user's own tests."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from dharma_tasks.errors import CutOff, StepAside
from dharma_tasks.flow import planning
from dharma_tasks.flow.context import Context
from dharma_tasks.flow.operation import FailedForGood, carry_out, confirm_dependency
from dharma_tasks.messages import Chain, Message
from dharma_tasks.run import Next


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
