"""`dharma alive`: what a container's health check asks."""

from __future__ import annotations

import json
import sys

import click

from dharma_tasks.cli import common
from dharma_tasks.cli.examples import examples
from dharma_tasks.identity import node
from dharma_tasks.redis_client import require_redis
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Worker, Workers

NOT_ALIVE = 1


@click.command(epilog=examples("dharma alive", "dharma alive mongodb@web1"))
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def alive(*, name: str | None, as_json: bool) -> None:
    """Say whether the worker of this container is alive: for its health check.

    It is while it says so in Redis, which it does every DHARMA_RESCUE_SECONDS, from the loop in
    which it also takes messages: one that hangs, is frozen, or is cut off from Redis is silent,
    and no submit counts on it. Three silences and four seconds later it is forgotten.

    Without NAME (such as mongodb@web1, see celery's -n) it is any worker of this host's name.

    Exit status: 0 alive, 1 not, 4 Redis cannot be reached, so that nobody knows.
    """
    settings: Settings | None = None
    try:
        settings = common.settings()
        workers = Workers(require_redis(settings), settings.namespace).alive()
    except Exception as error:  # noqa: BLE001 - told in one place
        click.echo(common.message_of(error, settings) or str(error), err=True)
        sys.exit(common.status_of(error))
    found = [worker for worker in workers if _is(worker, name)]
    if as_json:
        click.echo(json.dumps({"alive": [worker.model_dump() for worker in found]}, indent=2))
    for worker in [] if as_json else found:
        click.echo(f"{worker.name} is alive and serves {', '.join(worker.databases)}")
    if not found:
        click.echo(_silent(workers, name or f"any worker of {node()}"), err=True)
        sys.exit(NOT_ALIVE)


def _is(worker: Worker, name: str | None) -> bool:
    if name is not None:
        return worker.name == name
    return worker.name.partition("@")[2] == node()


def _silent(workers: list[Worker], wanted: str) -> str:
    others = ", ".join(worker.name for worker in workers)
    return f"not alive: {wanted}. {f'Alive: {others}' if others else 'No worker is'}."
