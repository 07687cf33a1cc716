"""`make demo`: everything at once on this machine, with real engines, to watch and to believe.

    python -m dharma_tasks.local.demo          from nothing to applied migrations, then all is ended
    python -m dharma_tasks.local.demo up       the same, and everything goes on running
    python -m dharma_tasks.local.demo down     ends it

Worker, Flower and submit are the processes that a team starts, with the same command lines.
"""

from __future__ import annotations

import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click
from rich.console import Console
from rich.markup import escape

from dharma_tasks.local.base import EngineError
from dharma_tasks.local.crew import Crew, CrewError
from dharma_tasks.local.engines import LocalEngines
from dharma_tasks.local.seed import SIZE, seed
from dharma_tasks.settings import Settings

_USUAL = Path(".local")


class Demo:
    """The demo in one folder."""

    def __init__(self, folder: Path, migrations: Path, size: int = SIZE) -> None:
        self._folder = folder.resolve()
        self._migrations = migrations.resolve()
        self._size = size
        self._engines = LocalEngines(self._folder)
        self._console = Console(highlight=False, soft_wrap=True)

    def run(self) -> int:
        """Go from nothing to applied migrations, end everything, and return submit's status.

        Where something failed, the logs stay in the folder until the next run.
        """
        Crew(self._folder).claim()
        status = 1
        try:
            with self._step("Clearing the stage"):
                Crew(self._folder).down()
                self._engines.delete()
                Crew(self._folder).claim()
            status = self._play()
        finally:
            with _uninterrupted(), self._step("Ending everything"):
                self.down()
                if status == 0:
                    self._engines.delete()
        return status

    def up(self) -> int:
        """Do the same and leave everything running; harmless when repeated."""
        status = self._play()
        here = self._folder == _USUAL.resolve()
        option = "" if here else f" --dir {shlex.quote(str(self._folder))}"
        self._console.print(
            "\nEverything goes on running. In a shell of your own:\n"
            "    . .venv/bin/activate\n"
            f'    eval "$(python -m dharma_tasks.local env{escape(option)})"\n'
            "    python -m dharma_tasks status\n"
            f"Logs are in {escape(str(self._folder / 'logs'))}. End it with: "
            f"{'make down' if here else f'python -m dharma_tasks.local.demo down{escape(option)}'}"
        )
        return status

    def down(self) -> int:
        """End worker, Flower and engines; what does not run is skipped."""
        for name in Crew(self._folder).down():
            self._say(name, "stopped")
        self._engines.down(report=self._say)
        return 0

    def _play(self) -> int:
        with self._step("Four real engines"):
            variables = self._engines.up(report=self._say)
        with self._step("What Project Dharma has had so far"):
            seed(_settings(variables), self._size, self._say)
        crew = Crew(self._folder, variables)
        with self._step("A worker, and Flower to watch it"):
            flower = crew.up()
            self._say("worker", "celery -A dharma_tasks worker")
            self._say("flower", str(flower))
        where = ("--migrations", str(self._migrations))
        with self._step("python -m dharma_tasks.submit --target latest"):
            status = crew.run("dharma_tasks.submit", "--target", "latest", *where)
        if status != 0:
            self._console.print(f"submit ended with {status}. {escape(crew.log_tail('worker'))}")
            return status
        with self._step("python -m dharma_tasks status"):
            status = crew.run("dharma_tasks", "status", *where)
            self._say("flower", f"answers at {crew.flower()}")
        return status

    def _say(self, name: str, what: str) -> None:
        self._console.print(f"  {name:<14} {escape(what)}")

    @contextmanager
    def _step(self, title: str) -> Iterator[None]:
        self._console.print(f"\n[bold]{title}[/bold]")
        began = time.monotonic()
        yield
        self._console.print(f"  [dim]{time.monotonic() - began:.1f} s[/dim]")


def _settings(variables: Mapping[str, str]) -> Settings:
    return Settings.model_validate(
        {name.removeprefix("DHARMA_").lower(): value for name, value in variables.items()}
    )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a second Ctrl-C pass: it would leave half of the processes behind."""
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _end(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@click.command()
@click.argument("what", type=click.Choice(["run", "up", "down"]), default="run")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where data and logs are kept.  [default: .local, and .local/demo for run]",
)
@click.option(
    "--migrations",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("migrations"),
    show_default=True,
)
def main(what: str, folder: Path | None, migrations: Path) -> None:
    """Show Dharma Tasks at work on four real engines on this machine."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    demo = Demo(folder or (_USUAL / "demo" if what == "run" else _USUAL), migrations)
    try:
        sys.exit({"run": demo.run, "up": demo.up, "down": demo.down}[what]())
    except (CrewError, EngineError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main(prog_name="python -m dharma_tasks.local.demo")
