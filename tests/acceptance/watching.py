"""A real Flower beside a test's workers, and a real browser that looks at its Migrations page."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from place import Place, wait_for
from playwright.sync_api import Browser, Page, sync_playwright

from dharma_tasks.databases import NAMES
from dharma_tasks.local.processes import free_port

CONFIG = Path(__file__).parents[2] / "workers" / "flowerconfig.py"
LOGIN = {"username": "me", "password": "secret"}
REQUIRED = "DHARMA_TEST_BROWSER"
"""The variable with which `.ci/run` says that there is a Chromium, and that its absence fails."""
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)

CONTRAST = """() => {
    const rgba = (text) => {
        const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = (top, below) => [0, 1, 2].map((n) => top[n] * top[3] + below[n] * (1 - top[3]));
    const ground = (node) => {
        if (!node) return [255, 255, 255];
        const colour = rgba(getComputedStyle(node).backgroundColor);
        return colour[3] === 1 ? colour.slice(0, 3) : over(colour, ground(node.parentElement));
    };
    const light = (colour) => {
        const [r, g, b] = colour.map((n) => n / 255)
            .map((n) => (n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const parent = walker.currentNode.parentElement;
        const text = walker.currentNode.data.trim();
        if (!text || !parent.getClientRects().length) continue;
        const below = ground(parent);
        const ink = over(rgba(getComputedStyle(parent).color), below);
        const [one, other] = [light(ink), light(below)].sort((a, b) => b - a);
        found.push([(one + 0.05) / (other + 0.05), text.slice(0, 40), parent.className]);
    }
    return found;
}"""
"""Of each text on the page its contrast with what is below it, as WCAG 2 defines it."""


@dataclass
class Flower:
    """`celery -A dharma_tasks flower` with the project's configuration, which needs Redis only."""

    place: Place
    folder: Path
    port: int = field(default_factory=lambda: free_port(set()))
    process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, and return at once."""
        environment = {k: v for k, v in self.place.environment.items() if k not in _urls()}
        login = {"FLOWER_BASIC_AUTH": ":".join(LOGIN.values())}
        command = [sys.executable, "-m", "celery", "-A", "dharma_tasks", "flower"]
        options = [f"--conf={CONFIG}", "--address=127.0.0.1", f"--port={self.port}"]
        with (self.folder / "flower.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, *options],
                cwd=self.folder,
                env=environment | login,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until it answers."""
        wait_for(self._answers, "Flower")

    def end(self) -> None:
        """End it."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, 15)
            self.process.wait(30)

    def url(self, path: str) -> str:
        """One of its addresses."""
        return f"http://127.0.0.1:{self.port}/{path}"

    def get(self, path: str) -> Any:
        """What it answers to somebody who has logged in, as JSON."""
        login = base64.b64encode(":".join(LOGIN.values()).encode()).decode()
        status, body = self._ask(path, {"Authorization": f"Basic {login}"})
        assert status == 200, body
        return json.loads(body)

    def refuses(self, path: str) -> bool:
        """Whether it wants a login there."""
        return self._ask(path)[0] == 401

    def _answers(self) -> bool:
        try:
            return self._ask("healthcheck")[0] == 200
        except OSError:
            return False

    def _ask(self, path: str, headers: Mapping[str, str] | None = None) -> tuple[int, bytes]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            connection.request("GET", f"/{path}", headers=dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()


def _urls() -> set[str]:
    return {f"DHARMA_{name.upper()}_URL" for name in NAMES}


@contextmanager
def browsing() -> Iterator[Browser]:
    """A headless Chromium of this system."""
    program = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        why = "no Chromium is installed (Debian: apt install chromium): the Migrations page is not"
        if os.environ.get(REQUIRED):
            pytest.fail(f"{why} tested")
        pytest.skip(f"{why} tested here; .ci/run does")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(_FLAGS))
        yield browser
        browser.close()


@dataclass
class Look:
    """One look at the page; `faults` are what the browser complains of, and dialogs."""

    page: Page
    faults: list[str] = field(default_factory=list)

    def database(self, name: str) -> Any:
        """The part of the page about a database."""
        return self.page.locator(f"section.database:has(h2:text-is('{name}'))")

    def share(self, name: str) -> int:
        """How far the bar of a database is, in percent; -1 where there is none."""
        bars = self.database(name).get_by_role("progressbar")
        return int(bars.get_attribute("aria-valuenow") or -1) if bars.count() else -1

    def wait(self, name: str, text: str, seconds: float = 30) -> None:
        """Wait until the part about a database says this."""
        found = self.database(name).get_by_text(text)
        found.first.wait_for(timeout=seconds * 1000)

    def assert_readable(self) -> None:
        """Every text stands out, and nothing is wider than the screen."""
        found = self.page.evaluate(CONTRAST)
        assert len(found) > 20
        assert [each for each in found if each[0] < 4.5] == []
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(wide) == 0


@contextmanager
def looking(browser: Browser, url: str) -> Iterator[Look]:
    """Open the page as somebody who has logged in."""
    context = browser.new_context(http_credentials=LOGIN)
    context.set_default_timeout(30_000)
    look = Look(context.new_page())
    look.page.on("console", lambda said: said.type == "error" and look.faults.append(said.text))
    look.page.on("pageerror", lambda error: look.faults.append(str(error)))
    look.page.on("dialog", lambda dialog: look.faults.append(dialog.message))
    look.page.goto(url)
    look.page.wait_for_selector("section.database .step")
    yield look
    context.close()
