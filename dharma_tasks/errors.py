"""Every error of the project.

    DharmaError
    ├── Refused            bad input or a plan that may not run; nothing was changed   exit 2
    ├── Unreachable        a service or a worker does not answer                       exit 4
    ├── RunFailed          a run did not do all that was asked; `result` has how far it came
    │   │                                                                              exit 1
    │   └── RunCancelled   a person has ended it                                       exit 5
    ├── OperationFailed    a lasting error of one operation; the migration fails       exit 1
    ├── MigrationFailed    a lasting error of one operation, and the journal says so
    └── StepAside          this worker is not to do (or go on with) this work
        ├── LeaseHeld      another live worker holds the lease
        ├── LeaseLost      the lease went to somebody else, or ran out
        ├── FenceLost      the journal was written by a newer owner
        │   └── Outdated   the journal is not where this run left it: the run cannot go on
        ├── CutOff         this worker alone may be cut off from the database
        ├── Unsigned       Redis wants what nobody with the key has asked for; the run is refused
        └── Stopped        this worker is shutting down, or Redis does not know the run any more
            ├── Unequipped this worker has not the secret or the key that an operation needs
            ├── RangeLeft  a range waits, because its worker is needed elsewhere
            └── Halted     the run is paused or over, or rests outside its window
                └── Cancelled  the run is cancelled: what it has begun is to be undone

`StepAside` is not a failure: the work is where it was, and somebody else goes on with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dharma_tasks.records import MigrationState
    from dharma_tasks.results import RunResult


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the input.

    `file` is relative to the migrations folder, `place` a line ("line 4") or a JSON path
    ("operations[2].index"), `what` says what is wrong and `todo` what to do next.
    """

    file: str
    place: str
    what: str
    todo: str

    @property
    def text(self) -> str:
        """What is wrong and what to do, without where."""
        what = self.what if self.what.endswith((".", "!", "?")) else f"{self.what}."
        return f"{what} {self.todo}".rstrip()

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.file, self.place) if part)
        return f"{where}: {self.text}" if where else self.text


class DharmaError(Exception):
    """The root: whatever this project raises on purpose."""


class Refused(DharmaError):
    """Something may not run; nothing was changed. `problems` has every reason at once."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("\n".join(str(problem) for problem in problems))


class Unreachable(DharmaError):
    """A service or a worker does not answer: the message says which, and how to start it."""


class RunFailed(DharmaError):
    """A migration failed: the message has the database's own words, `result` what was done."""

    def __init__(self, result: RunResult) -> None:
        self.result = result
        said = (
            f"{failure.database} {failure.version}: {failure.error}"
            if failure.version
            else failure.error
            for failure in result.failures
        )
        super().__init__("\n".join([f"run {result.run}: {result.state}", *said]))

    def __reduce__(self) -> tuple[type[RunFailed], tuple[RunResult]]:
        """Between processes the message is made anew."""
        return type(self), (self.result,)


class RunCancelled(RunFailed):
    """A person has cancelled the run; `result` has what was done before."""


class OperationFailed(DharmaError):
    """A lasting error that the operation itself found. `what` and `todo` as in `Problem`."""

    def __init__(self, what: str, todo: str = "") -> None:
        self.what = what
        self.todo = todo
        super().__init__(f"{what}. {todo}".rstrip() if todo else what)


class StepAside(DharmaError):
    """This worker leaves the work to another; the message says why."""


class LeaseHeld(StepAside):
    """Another live worker holds the lease."""


class LeaseLost(StepAside):
    """The lease is somebody else's now, or ran out before it was confirmed."""


class FenceLost(StepAside):
    """The journal has a newer fence: another worker, or another run, took the work over."""


class Outdated(FenceLost):
    """The journal is another run's by now, or was put back: this run can never go on in it."""


class CutOff(StepAside):
    """This worker has not reached the database for a lease's time; another one may reach it."""


class Unsigned(StepAside):
    """Redis wants something that nobody with the key has asked for. As in `Problem`."""

    def __init__(self, what: str, todo: str) -> None:
        self.what = what
        self.todo = todo
        super().__init__(f"{what}. {todo}")


class Stopped(StepAside):
    """Stop at this batch boundary: the run is gone, or this worker is shutting down."""


class RangeLeft(Stopped):
    """A range is left in order: its operation, or other work, needs this worker."""


class Unequipped(Stopped):
    """This worker has not the secret, or the key, that an operation needs: another one may."""


class Halted(Stopped):
    """The run is paused or over, or rests outside its window.

    Nothing of it goes on, on the database's server neither.
    """


class Cancelled(Halted):
    """The run is cancelled: what it has done of this migration is to be undone."""


class MigrationFailed(DharmaError):
    """An operation failed for good, and its journal says so.

    `state` is the migration's, `kept` whether the operation itself may have left something, and
    `answers` whether the database could still be asked.
    """

    def __init__(
        self, text: str, state: MigrationState, *, kept: bool = True, answers: bool = True
    ) -> None:
        self.state = state
        self.kept = kept
        self.answers = answers
        super().__init__(text)

    def __reduce__(self) -> tuple[type[MigrationFailed], tuple[str, MigrationState]]:
        """Pickled on the way from a pool's child to its parent."""
        return type(self), (str(self), self.state)
