"""`dharma resume`: let a paused run go on."""

from __future__ import annotations

import click

from dharma_tasks.cli import options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.steering import Steering, call, since_ended
from dharma_tasks.run import RunState


@click.command(epilog=examples("dharma resume", "dharma resume --by ann"))
@click.argument("run", required=False)
@options.as_json
@options.by
def resume(*, run: str | None, as_json: bool, by: str | None) -> None:
    """Let RUN go on, from the checkpoints where it was paused. Without RUN the only open one.

    Exit status: 0 done, or not paused; 2 refused; 4 a service or a worker cannot be reached.
    """
    call(by, lambda steering: _resume(steering, run), json=as_json)


def _resume(steering: Steering, name: str | None) -> int:
    found = steering.chosen(name)
    run = found.run
    before = steering.runs.resume(run, steering.event("resumed", f"by {steering.by}"))
    if before.over:
        raise since_ended(before, run.id)
    steering.send(run.id)
    if before is not RunState.PAUSED:
        steering.say(f"Run {run.id} is not paused: it is {before}.")
        return 0
    steering.say(steering.shown(found))
    steering.say("Resumed: it goes on as soon as a worker is free.")
    steering.write(found, "resumed")
    return 0
