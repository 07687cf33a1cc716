"""`--help` of every command: it fits a screen, and its examples are right; colour and JSON."""

from __future__ import annotations

import io
import re
import shlex
from functools import cache

import click
import pytest
from click.testing import CliRunner

from dharma_tasks.cli import main
from dharma_tasks.cli.screen import console

WIDE = 80
SCREEN = 24
LARGE = 40
"""Those that have more to say fit a window that is somewhat higher."""
LONG = {"", "submit", "plan", "rollback", "cancel", "check"}
NO_TABLE = {"init", "new"}
"""They print the names of the files that they have written, and nothing else."""
NAMES = main.list_commands(click.Context(main))


@cache
def command(name: str) -> click.Command:
    """By its name; the group is without one."""
    found = main.get_command(click.Context(main), name) if name else main
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["", *NAMES])
def test_it_fits_a_screen(name: str) -> None:
    """Of 24 lines of 80 columns, or 40 lines for the few that have many options."""
    lines = CliRunner().invoke(main, [*filter(None, [name]), "--help"]).stdout.splitlines()
    assert max(map(len, lines)) <= WIDE
    assert len(lines) <= (LARGE if name in LONG else SCREEN), len(lines)
    assert (len(lines) > SCREEN) == (name in LONG), "LONG names more, or fewer, than are long"


@pytest.mark.parametrize("name", ["", *NAMES])
def test_examples(name: str) -> None:
    """Each has some, and each of them is a call that the command takes."""
    epilog = command(name).epilog or ""
    examples = [line.strip() for line in epilog.splitlines() if line.startswith("  ")]
    assert len(examples) > 1
    for example in examples:
        words = [word for word in shlex.split(example) if "=" not in word.partition("://")[0]]
        assert words[0] == "dharma"
        called = command(words[1])
        if "--help" not in words:
            called.make_context(words[1], words[2:]).close()


@pytest.mark.parametrize("name", NAMES)
def test_the_list_says_what_the_command_says(name: str) -> None:
    """A command that is listed is there, under its own name, and says what it is for."""
    assert command(name).name == name
    assert command(name).help


@pytest.mark.parametrize("name", NAMES)
def test_what_is_shown_is_there_as_json(name: str) -> None:
    """For programs."""
    options = {option for each in command(name).params for option in each.opts}
    assert ("--json" in options) == (name not in NO_TABLE)


@pytest.mark.parametrize(("variable", "colours"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color(
    monkeypatch: pytest.MonkeyPatch, *, variable: dict[str, str], colours: bool
) -> None:
    """On a terminal there is colour, unless somebody does not want any: see no-color.org."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for key, value in variable.items():
        monkeypatch.setenv(key, value)
    out = Terminal()
    console(out).print("failed", style="bold red")
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]", out.getvalue())) is colours
