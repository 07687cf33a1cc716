"""How the page gets into Flower: same process, same port, same login.

Flower has no interface for pages of others (mher/flower#986), but what it stands on has. Celery
says when a program asks for the tasks (the signal `import_modules`). Tornado lets a program choose
the class that `HTTPServer(…)` makes (`tornado.util.Configurable`); that one is given Flower's
application, to which `Application.add_handlers` adds ours, and whose answers get `headers`. Where
a later Flower does not start that way, it starts without the page, and the tests say so.
"""

from __future__ import annotations

from typing import Any

from tornado.httpserver import HTTPServer
from tornado.options import options
from tornado.web import Application

from dharma_tasks.logs import get_logger
from dharma_tasks.page.handlers import routes
from dharma_tasks.page.headers import Headers
from dharma_tasks.page.watch import Watch
from dharma_tasks.reading import Send
from dharma_tasks.settings import Settings

__all__ = ["join"]

log = get_logger()


def join(settings: Settings, send: Send) -> None:
    """Let the server that Flower is about to start have the page too; `send` asks workers."""

    class Server(HTTPServer):
        def initialize(self, request_callback: Any, *arguments: Any, **named: Any) -> None:
            if isinstance(request_callback, Application):
                prefix = f"/{options.url_prefix.strip('/')}" if options.url_prefix else ""
                request_callback.transforms.append(Headers)
                request_callback.add_handlers(r".*", routes(Watch(settings, send), prefix))
                log.info("migrations_page", path=f"{prefix}/migrations")
            super().initialize(request_callback, *arguments, **named)

    HTTPServer.configure(Server)
