"""The Migrations page and Flower's own, in a browser, while a run goes on in three databases."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from place import Place, wait_for
from playwright.sync_api import Browser
from watching import LOGIN, Flower, Look, browsing, looking

from dharma_tasks.local import LocalEngines
from dharma_tasks.settings import Settings

ROWS = 30_000
RATE = 200
HOSTILE = "<img src=x onerror=alert(1)>" + "long" * 30
PHONE: Any = {"width": 390, "height": 844}
DESK: Any = {"width": 1280, "height": 800}


@dataclass
class Live:
    """A run that takes minutes in PostgreSQL, that Elasticsearch waits for; MongoDB has failed."""

    place: Place
    flower: Flower

    def write(self) -> None:
        """Write the migrations: one that fails, and one that takes its time."""
        place = self.place
        twice = [{"_id": n, "email": "same"} for n in range(2)]
        fill = {"type": "insert_documents", "collection": "users", "documents": twice}
        made = {"type": "create_collection", "collection": "users"}
        place.write("mongodb", "001_fill", {"version": "1.0.0", "operations": [made, fill]})
        index = {"type": "create_index", "collection": "users", "index": [["email", 1]]}
        unique = [{**index, "options": {"unique": True}}]
        second = {"version": "1.1.0", "name": HOSTILE, "operations": unique}
        place.write("mongodb", "002_unique", second)
        table = f"CREATE TABLE counters AS SELECT id, 0 AS n FROM generate_series(1, {ROWS}) AS id;"
        key = "ALTER TABLE counters ADD PRIMARY KEY (id);"
        place.write("postgresql", "001_create", {"version": "1.0.0"}, f"{table}\n{key}\n")
        batch = {"batch": {"table": "counters", "key": "id", "size": 100, "throttle": RATE}}
        text = "UPDATE counters SET n = n + 1 WHERE id BETWEEN :batch_start AND :batch_end;\n"
        place.write("postgresql", "002_count", {"version": "1.1.0", **batch}, text)
        place.write("postgresql", "003_more", {"version": "1.2.0"}, "CREATE TABLE more (id int);")
        name = f"{place.settings.namespace}_things"
        create = {"type": "create_index", "index": name, "mapping": {"properties": {}}}
        after = {"version": "1.0.0", "dependencies": ["postgresql:1.1.0"], "operations": [create]}
        place.write("elasticsearch", "001_search", after)

    def begin(self) -> None:
        """Start everything, and wait until it is as it is to be."""
        self.flower.launch()
        self.start_worker()
        self.flower.wait()  # of what ran before it knows nothing
        submits = [
            self.place.start_submit("--no-wait", "--databases", databases)
            for databases in ("mongodb", "postgresql,elasticsearch")
        ]
        for submit in submits:
            out, err = submit.communicate(timeout=120)
            assert submit.returncode == 0, f"{out}\n{err}"
        wait_for(self._as_it_is_to_be, "the run, and the failure")

    def start_worker(self) -> None:
        """Start one that soon counts as gone when it is."""
        self.place.start_worker(DHARMA_RESCUE_SECONDS="0.5")

    def _as_it_is_to_be(self) -> bool:
        shown = self.flower.get("migrations/state")["databases"]
        found = {each["name"]: each for each in shown}
        moving = found.get("postgresql", {}).get("moving") or {}
        failed = found.get("mongodb", {}).get("troubles")
        return bool(failed) and (moving.get("now") or {}).get("share") is not None

    @property
    def page(self) -> str:
        """The page's address."""
        return self.flower.url("migrations")

    def tasks(self, about: str) -> list[Any]:
        """Flower's tasks that have this in their arguments."""
        found = self.flower.get("api/tasks").values()
        return [each for each in found if f"version {about}" in (each["args"] or "")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium."""
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def live(
    browser: Browser,
    corner: Callable[[], AbstractContextManager[Settings]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Live]:
    """One run for all tests of this file."""
    folder = tmp_path_factory.mktemp("live")
    with corner() as settings:
        place = Place(settings, folder / "migrations", folder)
        made = Live(place, Flower(place, folder))
        try:
            made.write()
            made.begin()
            yield made
        finally:
            made.flower.end()
            for worker in place.workers:
                if worker.poll() is None:
                    os.killpg(worker.pid, 9)
                    worker.wait()


@pytest.fixture(scope="module")
def opened(browser: Browser, live: Live) -> Iterator[Look]:
    """The page stays open through all tests, as on the screen of somebody who waits."""
    with looking(browser, live.page) as found:
        yield found


@pytest.fixture
def look(opened: Look) -> Iterator[Look]:
    """A look at it, with nothing for the browser to complain of."""
    yield opened
    assert opened.faults == []


def moves(look: Look) -> None:
    """Wait until the bar is further than it is now."""
    facts = look.database("postgresql").locator(".facts")
    facts.wait_for()
    before = facts.inner_text()
    wait_for(lambda: facts.inner_text() != before, "the bar to move")


def test_flower_shows_which_migration_each_task_is(live: Live) -> None:
    """A row for each operation, with the migration's name, and none for those who only look."""
    assert live.flower.refuses("tasks")
    assert live.flower.refuses("migrations")
    wait_for(lambda: len(live.tasks("1.1.0")) == 3, "what runs, what failed, what undid it")
    (count,) = live.tasks("1.1.0 count")
    assert count["name"] == "dharma_tasks.postgresql.sql_batch"
    assert count["args"].startswith("version 1.1.0 count, operation 1 of 1, run ")
    assert count["state"] == "STARTED"
    unique = {each["state"]: each for each in live.tasks(f"1.1.0 {HOSTILE}")}
    assert "E11000" in unique["FAILURE"]["exception"]
    assert "undo_until 1" in unique["SUCCESS"]["args"]
    names = [each["name"] for each in live.flower.get("api/tasks").values()]
    assert "dharma_tasks.read" not in names


def test_a_login_in_the_address(browser: Browser, live: Live) -> None:
    """As people keep it in a bookmark: what the page asks for then must not repeat it."""
    login = ":".join(LOGIN.values())
    page = browser.new_page()
    page.goto(live.page.replace("://", f"://{login}@"))
    page.locator("section.database .step").first.wait_for()
    page.close()


def test_bars_move(look: Look) -> None:
    """With done and total, the rate, the time left, the worker and its last sign of life."""
    bar = look.database("postgresql").locator(".bar i")
    width = bar.evaluate("bar => bar.getBoundingClientRect().width")
    moves(look)
    facts = look.database("postgresql").locator(".facts").inner_text()
    for part in (" of 30,000", "/s", " left", "at most 200/s", "w1@", "heartbeat "):
        assert part in facts, facts
    wait_for(
        lambda: bar.evaluate("bar => bar.getBoundingClientRect().width") > width, "a wider bar"
    )
    assert look.share("postgresql") >= 0
    assert look.page.locator("#summary").inner_text().startswith("running")


def test_what_waits_and_what_failed(look: Look) -> None:
    """The line of versions, what waits for what, the database's message, and the command."""
    steps = look.database("postgresql").locator(".step .unseen").all_inner_texts()
    assert [each.split()[-1] for each in steps] == ["applied", "running", "pending"]
    look.wait("elasticsearch", "waits for postgresql:1.1.0")
    failed = look.database("mongodb").locator(".trouble").inner_text()
    assert "has failed, and was rolled back" in failed
    assert "E11000 duplicate key error" in failed
    assert "dharma submit --target latest" in failed
    trail = look.page.locator(".history").inner_text()
    assert "1.0.0 create" in trail
    assert HOSTILE in trail


def test_names_are_texts(look: Look) -> None:
    """A name that is HTML is shown as it is, and does nothing."""
    step = look.database("mongodb").locator(".step").nth(1)
    assert HOSTILE in str(step.get_attribute("title"))
    assert HOSTILE in look.database("mongodb").locator(".trouble").inner_text()
    assert look.page.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_well(look: Look, scheme: Any) -> None:
    """On a phone nothing scrolls sideways, and every text has a contrast of 4.5 in both schemes."""
    look.page.emulate_media(color_scheme=scheme)
    for size in (PHONE, DESK):
        look.page.set_viewport_size(size)
        look.assert_readable()


@pytest.mark.long
def test_a_database_that_is_down(look: Look, engines: LocalEngines) -> None:
    """The last known state stays, with the reason and since when, and it goes on by itself."""
    moves(look)
    engines.stop("postgresql")
    try:
        look.wait("postgresql", "Last known state, from ")
        look.wait("postgresql", "postgresql cannot be used: ")
        look.wait("postgresql", "waits: ")
        assert look.database("postgresql").locator(".step").count() == 3
        assert look.database("mongodb").locator(".notice").count() == 0
        look.assert_readable()
    finally:
        engines.start("postgresql")
    noted = look.database("postgresql").locator(".notice, .waits")
    wait_for(lambda: noted.count() == 0, "its return")
    moves(look)


def test_without_a_worker(look: Look, live: Live) -> None:
    """The page says so, how to start one, and what was known; a new one goes on."""
    for worker in live.place.workers:
        worker.terminate()
        worker.wait(60)
    look.page.get_by_text("No worker is alive. Start one:").wait_for()
    look.wait("postgresql", "no live worker serves it")
    look.wait("postgresql", "no worker alive for postgresql")
    assert look.database("postgresql").locator(".step").count() == 3
    assert look.share("postgresql") >= 0
    look.assert_readable()
    live.start_worker()
    wait_for(lambda: look.page.locator("main > .notice").count() == 0, "the new worker")
    moves(look)


def test_without_flower(look: Look, live: Live) -> None:
    """An open page stays and says so, and goes on when Flower is back, which forgot nothing."""
    live.flower.end()
    look.page.get_by_text("Flower does not answer; this is what was known at ").wait_for()
    assert look.database("postgresql").locator(".step").count() == 3
    look.assert_readable()
    live.flower.launch()
    live.flower.wait()
    wait_for(lambda: look.page.locator("main > .notice").count() == 0, "Flower")
    look.faults.clear()  # the browser complains of each request that fails
    assert live.tasks("1.1.0 count")
