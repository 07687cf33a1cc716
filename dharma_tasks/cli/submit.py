"""`dharma submit`, and `python -m dharma_tasks.submit`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dharma_tasks.cli import options
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.plan import Asked, show
from dharma_tasks.cli.running import Running
from dharma_tasks.conduct import Order
from dharma_tasks.migration import JSON
from dharma_tasks.planner import Request
from dharma_tasks.records import Direction
from dharma_tasks.submit import who_asks


@click.command(
    options_metavar="[OPTIONS]",
    epilog=examples(
        "dharma submit",
        "dharma submit --target 1.4.0 --databases mongodb --dry-run",
        'dharma submit --by "shop 4.2" --timeout 600 --max-rate 5000',
    ),
)
@options.target
@options.databases
@options.more
@options.migrations
@options.no_wait
@options.timeout
@options.as_json
@click.option("--dry-run", is_flag=True, help="Show what would be done: see `dharma plan`.")
@click.option("--inline", is_flag=True, help="Run it all in this process, without a worker.")
@click.option(
    "--allow-out-of-order",
    is_flag=True,
    help="Apply what is below a version that is applied.",
)
@click.option(
    "--allow-major",
    is_flag=True,
    help="Let a database go to the next MAJOR version.",
)
@click.option(
    "--rollback-to",
    metavar="X.Y.Z",
    help="Undo all above it instead: see `dharma rollback`.",
)
@click.option(
    "--accept-data-loss",
    is_flag=True,
    help="With --rollback-to: pass over what cannot be undone.",
)
@options.max_rate
@options.window
@options.timezone
@options.values
@options.by
def submit(  # noqa: PLR0913 - one for each option
    *,
    target: str,
    databases: tuple[str, ...],
    more: tuple[str, ...],
    migrations: Path | None,
    no_wait: bool,
    timeout: float | None,
    as_json: bool,
    dry_run: bool,
    inline: bool,
    allow_out_of_order: bool,
    allow_major: bool,
    rollback_to: str | None,
    accept_data_loss: bool,
    max_rate: float | None,
    window: str | None,
    timezone: str | None,
    given: JSON,
    by: str | None,
) -> None:
    """Bring the databases to a version, and show how it goes.

    The whole folder is checked first; nothing runs if anything in it is wrong. The same
    submit again joins a run that is still active; another one waits for its turn.

    Exit status: 0 done or nothing to do, 1 a migration failed, 2 refused, 3 stopped waiting
    (the run goes on), 4 a service or a worker cannot be reached, 5 cancelled.
    """
    if no_wait and inline:
        msg = "--no-wait and --inline exclude each other: who would do the work?"
        raise click.UsageError(msg)
    if accept_data_loss and not rollback_to:
        msg = "--accept-data-loss is for --rollback-to"
        raise click.UsageError(msg)
    options.one_way(
        rollback_to,
        target=target,
        allow_out_of_order=allow_out_of_order,
        allow_major=allow_major,
    )
    request = Request(
        target=rollback_to or target,
        databases=options.names(databases, more),
        allow_out_of_order=allow_out_of_order,
        allow_major=allow_major,
        direction=Direction.BACK if rollback_to else Direction.FORWARD,
        accept_data_loss=accept_data_loss,
        limits=options.limits(max_rate, window, timezone),
    )
    if dry_run:
        sys.exit(show(Asked(request, migrations, as_json, given)))
    who = who_asks(by)
    order = Order(request, migrations, given, who, not no_wait, timeout, inline)
    sys.exit(Running(order, as_json).run())
