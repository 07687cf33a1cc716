"""What every command does at its start, and how it says what went wrong."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable

import click
from redis.exceptions import RedisError

from dharma_tasks.errors import Refused, Unreachable
from dharma_tasks.logs import configure_on_use
from dharma_tasks.messages import Chain
from dharma_tasks.redis_client import lost
from dharma_tasks.settings import Settings
from dharma_tasks.settings import settings as read

INTERRUPTED = 130
"""128 + SIGINT, the shell's own: Ctrl-C before anything was done."""
BROKEN = 1
REFUSED = 2
UNREACHABLE = 4


def settings() -> Settings:
    """Read the settings, and keep the log quiet unless a level was asked for.

    Raises:
        Refused: a variable that cannot be; the message never shows its value.
    """
    found = read()
    asked = "log_level" in found.model_fields_set
    configure_on_use(found if asked else found.model_copy(update={"log_level": "CRITICAL"}))
    return found


def send(chains: Iterable[Chain]) -> None:
    """Send through Celery, which is imported only here: most commands end without it."""
    from dharma_tasks import dispatch  # noqa: PLC0415

    dispatch.send(chains)


def agreed(question: str) -> bool:
    """Ask, where there is a terminal; elsewhere the command itself is the yes."""
    return not on_terminal() or answered(question)


def answered(question: str) -> bool:
    """Ask, whoever is there. No answer is a no; Ctrl-C ends the command."""
    try:
        return click.confirm(question, err=True)
    except click.Abort as why:  # click says the same of both
        click.echo(err=True)
        if isinstance(why.__context__, EOFError):
            return False
        sys.exit(INTERRUPTED)


def on_terminal() -> bool:
    """Whether somebody is there to answer."""
    return sys.stdin.isatty()


def status_of(error: Exception) -> int:
    """The exit status for an error that ended a command."""
    if isinstance(error, Refused):
        return REFUSED
    if isinstance(error, Unreachable | RedisError):
        return UNREACHABLE
    return BROKEN


def message_of(error: Exception, settings: Settings | None) -> str:
    """What to tell about it; the whole trace only for those who look for faults."""
    if isinstance(error, Refused):
        return ""
    if isinstance(error, Unreachable):
        return str(error)
    if isinstance(error, RedisError):
        return str(lost(error))
    if settings is not None and settings.log_level == "DEBUG":
        return "".join(traceback.format_exception(error)).rstrip()
    name = type(error).__name__
    return f"{name}: {error}\n(DHARMA_LOG_LEVEL=DEBUG shows where this comes from)"
