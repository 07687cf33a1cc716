"""The page's addresses in Flower: the page, its files, and the document that it asks for.

They are behind Flower's own login, whichever it is: `BaseHandler` is what all of Flower's pages are
made of, and the one thing of Flower that is used here. The page writes nothing anywhere.
"""

from __future__ import annotations

import asyncio
import re
from importlib.resources import files

from flower.views import BaseHandler
from tornado.routing import URLSpec
from tornado.web import HTTPError, authenticated

from dharma_tasks.page.watch import Watch

__all__ = ["routes"]

_FIRST_SECONDS = 5
"""How long a first look may take; then the page asks again."""
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
_STATIC = files(__package__) / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def routes(watch: Watch, prefix: str) -> list[URLSpec]:
    """The addresses below `prefix`, which is empty or begins with a slash."""
    base = f"{re.escape(prefix)}/migrations"
    return [
        URLSpec(rf"{base}/?", Page),
        URLSpec(rf"{base}/state", State, {"watch": watch}),
        URLSpec(rf"{base}/([a-z]+\.(?:css|js))", File),
    ]


class _Handler(BaseHandler):  # type: ignore[misc]  # Flower comes without types
    """An answer that nobody may keep, frame or take for something else."""

    def set_default_headers(self) -> None:
        """Set them instead of Flower's, which let other sites read where everybody may."""
        self.set_header("Content-Security-Policy", _POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Referrer-Policy", "no-referrer")
        self.set_header("Cache-Control", "no-store")

    def answer(self, name: str) -> None:
        """Send one of the page's files."""
        file = _STATIC / name
        if not file.is_file():
            raise HTTPError(404)
        kind = _TYPES[name.rpartition(".")[2]]
        self.set_header("Content-Type", f"{kind}; charset=utf-8")
        self.write(file.read_bytes())


class Page(_Handler):
    """The page itself; somebody who has not logged in is sent to Flower's login."""

    @authenticated
    def get(self) -> None:
        """Send it."""
        if self.request.path.endswith("/"):  # its files are named relative to it
            self.redirect(self.request.path.rstrip("/"))
        else:
            self.answer("page.html")


class File(_Handler):
    """What the page is made of."""

    def get(self, name: str) -> None:
        """Send one of its files."""
        if not self.current_user:
            raise HTTPError(403)
        self.answer(name)


class State(_Handler):
    """What is shown at this moment, as JSON."""

    def initialize(self, watch: Watch) -> None:
        """Each request is answered from the same."""
        self._watch = watch

    async def get(self) -> None:
        """Send it, as soon as there is one."""
        if not self.current_user:
            raise HTTPError(403)
        for _ in range(_FIRST_SECONDS * 20):
            shown = self._watch.shown()
            if shown is not None:
                self.set_header("Content-Type", "application/json; charset=utf-8")
                self.write(shown.model_dump_json())
                return
            await asyncio.sleep(0.05)
        raise HTTPError(503)
