#!/usr/bin/env python3
"""The picture in README: the Migrations page in the middle of the worked example, on real engines.

make picture
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from dharma_tasks.local import LocalEngines
from dharma_tasks.local.crew import Crew, Door
from dharma_tasks.local.seed import seed
from dharma_tasks.settings import Settings

FOLDER = Path(".local", "picture")
SIZE = 60_000
RATE = 3_000
"""Documents or rows a second: slow enough to be seen."""
PATIENCE = 180
"""Seconds until the moment must have come."""
MIDDLE = range(15, 86)
"""Percent of what is to be done."""


def main(target: Path) -> None:
    """Run the example, look at the page when much is to be seen, and end everything."""
    engines, crew = LocalEngines(FOLDER), Crew(FOLDER.resolve())
    try:
        variables = engines.up(report=print)
        crew = Crew(FOLDER.resolve(), variables)
        fields = {name.removeprefix("DHARMA_").lower(): url for name, url in variables.items()}
        seed(Settings.model_validate(fields), SIZE, print)
        door = crew.up()
        limit = ("--max-rate", str(RATE), "--no-wait", "--by", "deploy@shop")
        folder = ("--migrations", str(Path("migrations").resolve()))
        crew.run("dharma_tasks.submit", "--target", "latest", *limit, *folder)
        photograph(door, target)
    finally:
        crew.down()
        engines.delete()


def photograph(door: Door, target: Path) -> None:
    """Open the page, wait for the moment, and write the picture."""
    login = {"username": door.user, "password": door.password}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1000, "height": 700}, http_credentials=login)
        page.goto(f"{door.url}/migrations")
        wait(page)
        box = page.locator(".database").last.bounding_box()
        if box is not None:
            page.set_viewport_size({"width": 1000, "height": round(box["y"] + box["height"]) + 16})
        page.screenshot(path=target)
        browser.close()
    print(f"{target}: {target.stat().st_size // 1024} KB")


def wait(page: Page) -> None:
    """Wait until two databases are in the middle of something, and one waits for another."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        bars = page.locator(".now:not(.waiting) .bar[aria-valuenow]").all()
        shares = [int(bar.get_attribute("aria-valuenow") or 0) for bar in bars]
        waits = page.locator(".waits").filter(has_text="waits for").count()
        if waits and len(shares) > 1 and all(share in MIDDLE for share in shares):
            page.wait_for_timeout(1_000)  # the bars' own movement
            return
        page.wait_for_timeout(200)
    sys.exit("The moment did not come.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
