"""`dharma pause`: let a run rest until it is resumed."""

from __future__ import annotations

import click

from dharma_tasks.cli import options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.steering import Steering, call, since_ended
from dharma_tasks.run import RunState


@click.command(
    epilog=examples("dharma pause", 'dharma pause 20240501-120000-1a2b3c --by "ann, disk is full"')
)
@click.argument("run", required=False)
@options.as_json
@options.by
def pause(*, run: str | None, as_json: bool, by: str | None) -> None:
    """Let RUN rest: nothing of it moves until `dharma resume`. Without RUN the only open one.

    What is open stops at the end of its batch, with its checkpoint; a long PostgreSQL statement
    is ended and begun again later. The run keeps its databases, so other submits wait. It is
    written to the history of each database that it works on.

    Exit status: 0 done, or paused already; 2 refused; 4 a service or a worker cannot be reached.
    """
    call(by, lambda steering: _pause(steering, run), json=as_json)


def _pause(steering: Steering, name: str | None) -> int:
    found = steering.chosen(name)
    run = found.run
    told = f"by {steering.by} (go on: dharma resume {run.id})"
    before = steering.runs.pause(run, steering.event("paused", told))
    if before.over:
        raise since_ended(before, run.id)
    if before is RunState.PAUSED:
        steering.say(f"Run {run.id} is paused already.")
        return 0
    steering.say(steering.shown(found))
    steering.say(
        f"Paused: what is open stops within a batch. It goes on with `dharma resume {run.id}`."
    )
    steering.write(found, "paused")
    return 0
