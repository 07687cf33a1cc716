"""How a submit ended: for a person in a few lines, for a program as one JSON document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.text import Text

from dharma_tasks import words
from dharma_tasks.advice import after_failure
from dharma_tasks.cli.screen import Indented
from dharma_tasks.errors import Problem
from dharma_tasks.migration import JSON, Migration, Reference, reference
from dharma_tasks.planner import LATEST
from dharma_tasks.records import Direction
from dharma_tasks.results import Account
from dharma_tasks.run import Event, Run, RunState

_ENDS = {False: "applied", True: "rolled_back"}
"""The events that end a migration, by whether the run goes back."""
_FEW = 4
"""So many versions are named one by one."""


@dataclass
class Outcome(Account):
    """Everything that is known at the end of a submit; filled in as it goes along.

    `state` is the run's, or `error` where the command itself broke. `message` says why it
    ended where no run says so. `seconds` is how long this command took.
    """

    status: int = 0
    message: str = ""
    migrations: dict[Reference, Migration] = field(default_factory=dict)

    def document(self) -> JSON:
        """The document that `--json` prints."""
        result = self.result().model_dump()
        return {**result, "exit_status": self.status, "message": self.message or None}

    # -- for a person ---------------------------------------------------------------------

    def show(self, out: Console, err: Console) -> None:
        """Print the summary: what went well to `out`, what did not to `err`."""
        if self.problems:
            err.print(_problems(self.state, self.problems))
        if self.state == RunState.FAILED:
            err.print(self._failed())
        elif self.state == RunState.DONE:
            out.print(Text(self.message, "bold green") if self.message else self._done())
        elif self.state == RunState.CANCELLED:
            err.print(self._cancelled())
        elif self.message:
            err.print(Text(self.message, "bold red" if self.status in {1, 4} else "bold"))

    def _done(self) -> RenderableType:
        lines = [line for order in self.orders() for line in self._applied(*order)]
        if not lines:
            return Text(f"Nothing to do: {_has_all(self.run)}.", "bold green")
        end = Text(f"Done in {words.duration(self.seconds)}.", "bold green")
        return Group(Text(), *lines, end)

    def _applied(self, database: str, order: Sequence[str], done: int) -> list[Text]:
        if not done:
            return []
        took = sum(
            event.seconds or 0
            for event in self.events
            if event.kind == _ENDS[self._back] and event.database == database
        )
        count = f"{words.several(done, 'migration')} in {words.duration(took)}"
        return [Text.assemble((f"  {database:<14}", "bold"), f"{count}: {_versions(order[:done])}")]

    def _failed(self) -> RenderableType:
        direction = self.run.direction if self.run else Direction.FORWARD
        todo = after_failure(direction, half_undone=self._half_undone())
        return Group(*self._what_failed(), self._so_far(), Text(f"\n{todo}"))

    def _half_undone(self) -> bool:
        """Whether one has failed on its way back too."""
        failed = [(event.database, event.version) for event in self.failures()]
        return len(set(failed)) < len(failed)

    def _what_failed(self) -> Iterator[RenderableType]:
        for event in self.failures():
            what = "the run"  # of no migration more than of another
            if event.database is not None:
                what = f"{event.database} {self._name(event.database, f'{event.version}')}"
            yield Text(f"\nFailed: {what}", "bold red")
            yield Indented(event.text, 4)
            yield from (Indented(text, 4) for text in self._undone(event))

    def _cancelled(self) -> RenderableType:
        """Who has cancelled it, and what has become of what was open."""
        parts: list[RenderableType] = [Text("\nCancelled.", "bold")]
        for event in self.events:
            name = self._name(f"{event.database}", f"{event.version}")
            if event.kind == "cancelled" and event.version is None:
                parts.append(Indented(event.text, 2))
            elif event.kind == "left":
                parts.append(Indented(f"{event.database} {name}: {event.text}", 2))
            elif event.kind == "rolled_back" and not self._back:
                parts.append(Indented(f"{event.database} {name} is rolled back.", 2))
        return Group(*parts, *self._what_failed(), self._so_far())

    def _undone(self, failure: Event) -> Iterator[str]:
        """What became of a migration that failed."""
        for event in self.events:
            if (event.database, event.version) == (failure.database, failure.version):
                if event.kind == "rolled_back":
                    yield "What was done of it is undone: it is rolled back."
                elif event.kind == "left":
                    yield f"It was rolled back as far as it can be. {event.text}"

    @property
    def _back(self) -> bool:
        return self.run is not None and self.run.direction is Direction.BACK

    def _so_far(self) -> RenderableType:
        """What ran, and what did not, by name."""
        word = "rolled back" if self._back else "applied"
        ran = [line for order in self.orders() for line in self._applied(*order)]
        failed = {(event.database, event.version) for event in self.failures()}
        rest = [
            Text.assemble((f"  {database:<14}", "bold"), self._name(database, version))
            for database, order, done in self.orders()
            for version in order[done:]
            if (database, version) not in failed
        ]
        return Group(
            Text(f"\n{word.capitalize()}:" if ran else f"\nNothing was {word}."),
            *ran,
            Text("Not run:" if rest else ""),
            *rest,
        )

    def _name(self, database: str, version: str) -> str:
        found = self.migrations.get(reference(database, version))
        return f"{version} {found.name}" if found else version


def _versions(versions: Sequence[str]) -> str:
    if len(versions) <= _FEW:
        return ", ".join(versions)
    return f"{versions[0]} … {versions[-1]}"


def _has_all(run: Run | None) -> str:
    if run is None:
        return "no migrations"
    if run.direction is Direction.BACK:
        return f"nothing is applied above {run.target}"
    verb = "has" if len(run.databases) == 1 else "have"
    target = "" if run.target == LATEST else f" up to {run.target}"
    return f"{', '.join(run.databases)} {verb} every migration{target}"


def _problems(state: str, problems: Sequence[Problem]) -> RenderableType:
    """Every problem: where, what, and what to do next."""
    if state == RunState.UNREACHABLE:
        title = "Cannot go on"
    else:
        title = f"Refused for {words.several(len(problems), 'reason')}; nothing was changed"
    parts: list[RenderableType] = [Text(f"{title}:", "bold red")]
    for problem in problems:
        where = ", ".join(part for part in (problem.file, problem.place) if part)
        indent = 2
        if where:
            parts.append(Indented(where, indent, "bold"))
            indent = 4
        parts.append(Indented(problem.text, indent))
    return Group(*parts)
