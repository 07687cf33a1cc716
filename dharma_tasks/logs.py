"""structlog for everything, the standard library's loggers included.

A stack is logged by `stack_of`, as text: a program that uses this package may have structlog render
exceptions itself, and its usual way shows every local variable, URLs with their passwords among
them.

structlog is imported when there is something to log: most commands end without a word.
"""

from __future__ import annotations

import logging
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from structlog.typing import Processor

    from dharma_tasks.settings import Settings

_NOISY = ("elastic_transport", "urllib3", "pymongo", "celery.worker.strategy")
"""What they say at INFO is in our own events, with run, database, version and operation."""


def get_logger() -> Any:
    """A logger of structlog's, which is imported with the first of them."""
    import structlog  # noqa: PLC0415 - see above

    _setup.use()
    return structlog.get_logger()


def configure_on_use(settings: Settings) -> None:
    """As `configure_logs`, as soon as there is a logger or an event of any library."""
    if _setup.used:
        configure_logs(settings)
        return
    _setup.settings = settings
    _listen(settings, _FirstUse())


def configure_logs(settings: Settings) -> None:
    """Write events to stderr, as JSON lines or for a console, by setting."""
    import structlog  # noqa: PLC0415 - see above

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
    _listen(settings, handler)
    # A failure has been logged by then, and a task that is handed on is none.
    logging.getLogger("celery.app.trace").setLevel(logging.ERROR)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))


@dataclass
class _Setup:
    """Whether anybody logs yet, and how it is to be set up once somebody does."""

    used: bool = False
    settings: Settings | None = None

    def use(self) -> None:
        """Somebody does."""
        settings, self.settings, self.used = self.settings, None, True
        if settings:
            configure_logs(settings)


_setup = _Setup()


class _FirstUse(logging.Handler):
    """Gives the first event to whoever takes this one's place."""

    def emit(self, record: logging.LogRecord) -> None:
        """Set everything up."""
        _setup.use()
        for handler in logging.getLogger().handlers:
            handler.handle(record)


def _listen(settings: Settings, handler: logging.Handler) -> None:
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level)


def stack_of(error: BaseException) -> dict[str, str]:
    """The stack of an error, for an event: without the values of local variables."""
    return {"exception": "".join(traceback.format_exception(error)).rstrip()}


def _renderers(settings: Settings) -> list[Processor]:
    import structlog  # noqa: PLC0415 - see above

    if settings.log_format == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
    ]
