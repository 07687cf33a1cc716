"""The Migrations page inside a real Flower: its addresses, its login, and what goes along."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from flower.app import Flower
from flower.urls import handlers
from flower.urls import settings as flower_settings
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.options import OptionParser, options
from tornado.testing import bind_unused_port

from dharma_tasks.page import joining
from dharma_tasks.page.shown import Shown
from dharma_tasks.settings import Settings

Get = Callable[..., Awaitable[HTTPResponse]]
FILES = ("migrations/page.js", "migrations/view.js", "migrations/dom.js", "migrations/page.css")


class FakeWatch:
    """A watch that shows something hostile."""

    def __init__(self, *_: object) -> None:
        pass

    def shown(self) -> Shown:
        """The same each time."""
        return Shown(at=datetime.now(UTC), workers=["</script><script>alert(1)</script>"])


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[OptionParser]:
    """Tornado as it is after the page has joined; Flower's options, to be changed by the test."""
    monkeypatch.setattr(joining, "Watch", FakeWatch)
    before = HTTPServer._save_configuration()
    joining.join(Settings(_env_file=None), lambda _chains: None)
    changed = ("basic_auth", "auth", "url_prefix", "persistent", "auth_provider", "read_only")
    for name in changed:
        monkeypatch.setattr(options.mockable(), name, getattr(options, name))
    yield options
    HTTPServer._restore_configuration(before)


def in_flower(test: Callable[[Get], Awaitable[None]]) -> None:
    """Start Flower's own server as Flower does, and let `test` ask it."""

    async def main() -> None:
        app = Flower(
            capp=Celery("t", broker="memory://"),
            options=options,
            io_loop=IOLoop.current(),
            **{**flower_settings, "cookie_secret": "c"},
        )
        sock, port = bind_unused_port()
        server: Any = HTTPServer(app)
        server.add_sockets([sock])

        async def get(path: str, **how: Any) -> HTTPResponse:
            url = f"http://127.0.0.1:{port}/{path}"
            request = HTTPRequest(url, follow_redirects=False, **how)
            return await AsyncHTTPClient().fetch(request, raise_error=False)

        try:
            await test(get)
        finally:
            server.stop()
            await server.close_all_connections()
            app.executor.shutdown()

    asyncio.run(main())


def test_behind_basic_authentication(joined: OptionParser) -> None:
    """Page, files and document ask for the same login as Flower's own pages, and show with it."""
    joined.basic_auth = ["me:secret"]
    login = {"auth_username": "me", "auth_password": "secret"}

    async def test(get: Get) -> None:
        for path in ("migrations", "migrations/state", *FILES, "tasks"):
            for wrong in ({}, {**login, "auth_password": "wrong"}):
                assert (await get(path, **wrong)).code == 401, path
            assert (await get(path, **login)).code == 200, path

    in_flower(test)


def test_behind_oauth(joined: OptionParser) -> None:
    """Who is not logged in is sent to Flower's login; the rest is refused without one."""
    joined.auth = r".*@example\.org"
    joined.auth_provider = "flower.views.auth.GoogleAuth2LoginHandler"

    async def test(get: Get) -> None:
        page = await get("migrations")
        assert page.code == 302
        assert page.headers["Location"].startswith("/login?next=")
        for path in ("migrations/state", *FILES):
            assert (await get(path)).code == 403, path

    in_flower(test)


def test_what_goes_along(joined: OptionParser) -> None:
    """Nothing inline runs, nobody frames it, nothing is guessed, kept or read by other sites."""

    async def test(get: Get) -> None:
        for path in ("migrations", "migrations/state", *FILES, "migrations/other.js"):
            headers = (await get(path)).headers
            policy = headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe-inline" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Cache-Control"] == "no-store"
            assert "Access-Control-Allow-Origin" not in headers
        state = await get("migrations/state")
        assert state.headers["Content-Type"] == "application/json; charset=utf-8"
        assert json.loads(state.body)["workers"] == ["</script><script>alert(1)</script>"]
        assert (await get("migrations/page.css")).headers["Content-Type"].startswith("text/css")

    in_flower(test)


def test_it_only_shows(joined: OptionParser) -> None:
    """No address takes anything but a look, and none leads to another file."""

    async def test(get: Get) -> None:
        for path in ("migrations", "migrations/state", FILES[0]):
            assert (await get(path, method="POST", body="")).code == 405
        for path in ("migrations/other.js", "migrations/../watch.py", "migrations/%2e%2e/watch.py"):
            assert (await get(path)).code == 404, path

    in_flower(test)


def test_below_a_prefix(joined: OptionParser) -> None:
    """Where Flower is below a path, so is the page; with a slash at its end it is found too."""
    joined.url_prefix = "/ops/flower/"

    async def test(get: Get) -> None:
        assert (await get("ops/flower/migrations")).code == 200
        assert (await get("ops/flower/migrations/state")).code == 200
        assert (await get("ops/flower/tasks")).code == 200
        slash = await get("ops/flower/migrations/")
        assert slash.headers["Location"] == "/ops/flower/migrations"

    in_flower(test)


def test_flowers_own_pages(joined: OptionParser) -> None:
    """They are not framed either, whether they let one in or not."""
    joined.basic_auth = ["me:secret"]
    login = {"auth_username": "me", "auth_password": "secret"}

    async def test(get: Get) -> None:
        for path, how in (("tasks", login), ("tasks", {}), ("nowhere", login), ("api/tasks", {})):
            headers = (await get(path, **how)).headers
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert headers["X-Frame-Options"] == "DENY"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Referrer-Policy"] == "no-referrer"

    in_flower(test)


CONTROLS = (
    *("worker/shutdown/w", "worker/pool/restart/w", "worker/pool/grow/w", "worker/pool/shrink/w"),
    *("worker/pool/autoscale/w", "worker/queue/add-consumer/w", "worker/queue/cancel-consumer/w"),
    *("task/revoke/t", "task/timeout/t", "task/rate-limit/t", "task/apply/t", "task/async-apply/t"),
    *("task/send-task/t", "task/abort/t"),
)
"""All that Flower can do to workers and tasks."""


def test_flower_does_nothing_to_workers(joined: OptionParser) -> None:
    """As it is configured, its buttons do nothing, for those who may look neither."""
    joined.basic_auth = ["me:secret"]
    joined.read_only = True
    login = {"auth_username": "me", "auth_password": "secret"}
    addresses = [each[0] for each in handlers if isinstance(each, tuple)]
    looks = re.compile("/api/(workers|tasks|task/types|queues/length|task/(info|result)/.*)")
    acts = [each for each in addresses if "/api/" in each and not looks.match(each)]
    assert len(acts) == len(CONTROLS)

    async def test(get: Get) -> None:
        for path in CONTROLS:
            assert any(re.fullmatch(act, f"/api/{path}") for act in acts), path
            assert (await get(f"api/{path}", method="POST", body="", **login)).code == 403, path
            assert (await get(f"api/{path}", method="POST", body="")).code in (401, 403), path

    in_flower(test)
