"""structlog for everything, the standard library's loggers included.

A stack is logged by `stack_of`, as text: a program that uses this package may have structlog render
exceptions itself, and its usual way shows every local variable, URLs with their passwords among
them.
"""

from __future__ import annotations

import logging
import sys
import traceback

import structlog
from structlog.typing import Processor

from dharma_tasks.settings import Settings

_NOISY = ("elastic_transport", "urllib3", "pymongo", "celery.worker.strategy")
"""What they say at INFO is in our own events, with run, database, version and operation."""


def configure_logs(settings: Settings) -> None:
    """Write events to stderr, as JSON lines or for a console, by setting."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        # What the level leaves out costs nothing.
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level.lower()),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)
    # A failure has been logged by then, and a task that is handed on is none.
    logging.getLogger("celery.app.trace").setLevel(logging.ERROR)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, root.level))


def stack_of(error: BaseException) -> dict[str, str]:
    """The stack of an error, for an event: without the values of local variables."""
    return {"exception": "".join(traceback.format_exception(error)).rstrip()}


def _renderers(settings: Settings) -> list[Processor]:
    if settings.log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]
