"""Options that several commands have, in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dharma_tasks.errors import Refused
from dharma_tasks.limits import Limits, Window
from dharma_tasks.planner import LATEST
from dharma_tasks.strict_json import value_of
from dharma_tasks.values import NAME


def _values(
    _ctx: click.Context, _option: click.Parameter, texts: tuple[str, ...]
) -> dict[str, Any]:
    """By name, as they are read."""
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and NAME.fullmatch(name)):
            msg = f"{text!r} is not NAME=VALUE, with a NAME like REPLICAS"
            raise click.BadParameter(msg)
        if name in found:
            msg = f"{name} is given twice"
            raise click.BadParameter(msg)
        try:
            found[name] = value_of(value)
        except Refused as refused:
            (problem, *_) = refused.problems
            raise click.BadParameter(f"{name}: {problem.what}. {problem.todo}") from None
    return found


def names(values: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names after --databases: after a comma in `values`, after a space in `more`."""
    if not values and more:
        msg = f"Got unexpected extra argument{'s' * (len(more) > 1)} ({' '.join(more)})"
        raise click.UsageError(msg)
    found = [name for text in (*values, *more) for name in text.replace(",", " ").split()]
    if values and not found:
        msg = "--databases needs at least one name"
        raise click.UsageError(msg)
    return tuple(dict.fromkeys(found)) or None


target = click.option(
    "--target",
    metavar="latest|X.Y.Z",
    default=LATEST,
    show_default=True,
    help="The highest version to apply.",
)
databases = click.option(
    "--databases",
    metavar="NAMES",
    multiple=True,
    help="Only these: mongodb,postgresql.  [default: all]",
)
more = click.argument("more", nargs=-1, metavar="")
"""The names after a space behind --databases."""
migrations = click.option(
    "--migrations",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Their folder.  [default: DHARMA_MIGRATIONS_DIR]",
)
no_wait = click.option("--no-wait", is_flag=True, help="Print the run's id and leave it going.")
timeout = click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    help="Stop waiting then; the run goes on.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document at the end."
)
yes = click.option("--yes", is_flag=True, help="Do not ask first.")
by = click.option(
    "--by",
    metavar="TEXT",
    help="Who asks, or which deployment, for the history.",
)
values = click.option(
    "--set",
    "given",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_values,
    help='What {"$value": "NAME"} stands for: JSON, or text.',
)

max_rate = click.option(
    "--max-rate",
    metavar="N",
    type=click.FloatRange(min=0, min_open=True),
    help="At most N documents or rows a second, in bulk.",
)
window = click.option(
    "--window",
    metavar="HH:MM-HH:MM",
    help="Bulk work rests outside this part of the day.",
)
timezone = click.option(
    "--timezone",
    metavar="ZONE",
    help="Of --window, such as Europe/Berlin.  [default: UTC]",
)


def limits(max_rate: float | None, window: str | None, timezone: str | None) -> Limits:
    """Put them together.

    Raises:
        click.BadParameter: it is no window.
        click.UsageError: a time zone without a window.
    """
    if window is None:
        if timezone is not None:
            msg = "--timezone is for --window"
            raise click.UsageError(msg)
        return Limits(max_rate=max_rate)
    try:
        return Limits(max_rate=max_rate, window=Window.parse(window, timezone or "UTC"))
    except ValueError as error:
        msg = f"--window: {error}"
        raise click.BadParameter(msg) from None


def one_way(rollback_to: str | None, *, target: str, **allowed: bool) -> None:
    """Refuse to go forward and back at once.

    Raises:
        click.UsageError: options of the way forward stand beside --rollback-to.
    """
    given = ["--target"] if target != LATEST else []
    given += [f"--{name.replace('_', '-')}" for name, is_set in allowed.items() if is_set]
    if rollback_to and given:
        msg = f"--rollback-to goes the other way: leave {' and '.join(given)} out"
        raise click.UsageError(msg)
