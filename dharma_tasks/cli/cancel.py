"""`dharma cancel`: end a run before its time."""

from __future__ import annotations

import click

from dharma_tasks.advice import again
from dharma_tasks.cli import common, options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.steering import Steering, call, since_ended
from dharma_tasks.records import Direction
from dharma_tasks.run import RunState, Snapshot


@click.command(epilog=examples("dharma cancel", "dharma cancel --keep --yes"))
@click.argument("run", required=False)
@click.option("--keep", is_flag=True, help="Leave what is open as it is: a later submit goes on.")
@options.yes
@options.as_json
@options.by
def cancel(*, run: str | None, keep: bool, yes: bool, as_json: bool, by: str | None) -> None:
    """End RUN: the migrations that are open are rolled back. Without RUN the only open one.

    What it has applied stays; nothing new begins. What is open is rolled back as after a failure;
    an operation that cannot be undone stays, and is named. With --keep nothing is undone and the
    run ends at once. A `dharma rollback` that is cancelled finishes the migrations that are open;
    with --keep the same rollback goes on with them later. Asks first on a terminal.

    Exit status: 0 done, or being cancelled already; 2 refused, or the answer was no; 4 a service
    or a worker cannot be reached; 130 Ctrl-C at the question. Who watches the run ends with 5.
    """
    call(by, lambda steering: _cancel(steering, run, keep=keep, yes=yes), json=as_json)


def _cancel(steering: Steering, name: str | None, *, keep: bool, yes: bool) -> int:
    found = steering.chosen(name)
    run = found.run
    steering.say(steering.shown(found))
    what = _what(found, keep=keep)
    if not (yes or common.agreed(f"Cancel this run? {what}")):
        steering.say("Nothing was changed.")
        return common.REFUSED
    event = steering.event("cancelled", f"by {steering.by}. {what}")
    before = steering.runs.cancel(run, event, keep=keep)
    if before.over:
        raise since_ended(before, run.id)
    steering.send(run.id)
    if before is RunState.CANCELLING and not keep:
        steering.say(f"Run {run.id} is being cancelled already (end it at once: --keep).")
        return 0
    steering.say(f"Cancelled. {what}")
    steering.write(found, "cancelled")
    return 0


def _what(found: Snapshot, *, keep: bool) -> str:
    """What becomes of what is open."""
    if not found.working:
        return "Nothing of it is open."
    back = found.run.direction is Direction.BACK
    undoing = any(at.until is not None for at in found.working.values())
    if keep:
        stays = "half undone" if back or undoing else "where it is"
        command = again(found.run.direction, half_undone=undoing)
        return f"What is open stays {stays}: {command} goes on with it."
    if back:
        return "What is open is undone to its end, and nothing more."
    return "What is open is rolled back."
