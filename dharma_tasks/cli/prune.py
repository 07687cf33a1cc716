"""`dharma prune`: remove what was kept for a way back, when it is old."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import click
from rich.text import Text

from dharma_tasks import words
from dharma_tasks.cli import common, options
from dharma_tasks.cli.asking import GOES_ON, Asking
from dharma_tasks.cli.examples import examples
from dharma_tasks.cli.screen import console, stdout
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Refused
from dharma_tasks.explain import unknown_databases
from dharma_tasks.journal import Pruned
from dharma_tasks.messages import ERROR, PRUNED, REFUSED, Pruning, prune_message
from dharma_tasks.redis_client import require_redis
from dharma_tasks.run import new_run_id
from dharma_tasks.settings import Settings
from dharma_tasks.submit import who_asks


@click.command(
    epilog=examples("dharma prune", "dharma prune --older-than 90 --databases mongodb --yes")
)
@click.option(
    "--older-than",
    metavar="DAYS",
    type=click.IntRange(min=0),
    help="What was kept longer ago than that.  [default: DHARMA_KEEP_UNDO_DAYS, or 30]",
)
@click.option(
    "--databases",
    metavar="NAMES",
    multiple=True,
    help="Only these.  [default: all that a live worker serves]",
)
@options.more
@options.yes
@options.as_json
@options.by
def prune(  # noqa: PLR0913 - one for each option
    *,
    older_than: int | None,
    databases: tuple[str, ...],
    more: tuple[str, ...],
    yes: bool,
    as_json: bool,
    by: str | None,
) -> None:
    """Remove what operations have kept for their way back, where it is old.

    Those are before-images, and ids of documents. A migration whose own are removed cannot be
    undone any more; `dharma plan --rollback-to` says so from then on. What is at work, or has
    failed, keeps its own. Asks first on a terminal.

    Exit status: 0 done, or nothing to do; 2 refused, or the answer was no; 4 a service or a
    worker cannot be reached; 130 Ctrl-C at the question.
    """
    pruner = _Prune(as_json=as_json, by=who_asks(by))
    sys.exit(pruner.run(older_than, options.names(databases, more), yes=yes))


class _Prune:
    """One call of the command."""

    def __init__(self, *, as_json: bool, by: str) -> None:
        self._json = as_json
        self._by = by
        self._out = stdout(json=as_json)
        self._settings: Settings | None = None
        self._gone: dict[str, list[Pruned]] = {}
        self._errors: dict[str, str] = {}

    def run(self, days: int | None, chosen: tuple[str, ...] | None, *, yes: bool) -> int:
        """Do it, report, and return the exit status."""
        try:
            status = self._prune(days, chosen, yes=yes)
        except KeyboardInterrupt:
            status = common.INTERRUPTED
            self._say(GOES_ON)
        except Exception as error:  # noqa: BLE001 - told in one place
            status = common.status_of(error)
            text = common.message_of(error, self._settings) or str(error)
            console(sys.stderr).print(Text(text, "bold red"))
            self._errors.setdefault("", text)
        if self._json:
            gone = {name: PRUNED.dump_python(found) for name, found in self._gone.items()}
            click.echo(json.dumps({"pruned": gone, "errors": self._errors}, indent=2))
        return status

    def _prune(self, days: int | None, chosen: tuple[str, ...] | None, *, yes: bool) -> int:
        settings = self._settings = common.settings()
        asking = Asking(settings, require_redis(settings))
        days = settings.keep_undo_days if days is None else days
        databases = _databases(chosen, asking.served())
        asking.require_served(databases)
        asking.require_quiet(databases)
        old = f" that is older than {words.several(days, 'day')}" if days else ""
        question = f"Remove what {', '.join(databases)} keep for the way back{old}?"
        if not (yes or common.agreed(question)):
            self._say("Nothing was removed.")
            return common.REFUSED
        now = datetime.now(UTC)
        pruning = Pruning(now - timedelta(days=days), new_run_id(now), self._by)
        return self._told(
            asking.answers(databases, lambda name, reply: prune_message(name, pruning, reply)), old
        )

    def _told(self, answers: Mapping[str, str], old: str) -> int:
        """Say for each database what went, or why nothing did. Returns the exit status."""
        status = 0
        for name, answer in answers.items():
            if answer.startswith((ERROR, REFUSED)):
                self._errors[name] = answer.partition(" ")[2]
                console(sys.stderr).print(Text(self._errors[name], "bold red"))
                failed = common.UNREACHABLE if answer.startswith(ERROR) else common.REFUSED
                status = max(status, failed)
                continue
            self._gone[name] = found = PRUNED.validate_json(answer)
            if not found:
                self._say(f"{name}: nothing is kept{old}.")
            for each in found:
                kept = words.several(each.documents, "journal document")
                what = f"{name}: {each.version} operation {each.number} cannot be undone any more"
                self._say(f"{what}: {kept} removed")
        return status

    def _say(self, text: str) -> None:
        self._out.print(Text(text))


def _databases(chosen: tuple[str, ...] | None, served: set[str]) -> list[str]:
    """Those that are meant, in their usual order; without a worker all, which is refused then.

    Raises:
        Refused: one is named that there is not.
    """
    problems = unknown_databases(chosen or (), NAMES)
    if problems:
        raise Refused(problems)
    wanted = served or set(NAMES) if chosen is None else chosen
    return [name for name in NAMES if name in wanted]
