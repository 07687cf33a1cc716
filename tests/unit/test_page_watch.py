"""The one thread that keeps the Migrations page up to date, and what it does without Redis."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_run import migration, progress
from page_scene import Scene, applied, record
from redis.exceptions import ConnectionError as RedisConnectionError

from dharma_tasks.page import watch
from dharma_tasks.page.shown import Shown
from dharma_tasks.page.watch import Watch
from dharma_tasks.records import MigrationState
from dharma_tasks.run import RunState

M1 = migration("mongodb", "1.0.0", name="create_users")
P1 = migration("postgresql", "1.0.0")


@pytest.fixture
def scene() -> Scene:
    """A run in MongoDB that has begun."""
    made = Scene(M1, P1)
    made.journal("mongodb")
    run = made.driver.submit()
    at, _ = made.driver.start(run)
    made.driver.runs.report(run.id, "mongodb", progress(at))
    return made


@pytest.fixture
def watching(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    """A watch over the scene; the journals say what the scene says, and are not asked.

    When the test is over nobody looks any more, so its thread rests.
    """
    monkeypatch.setattr(watch, "connect_redis", lambda _settings: scene.redis)
    monkeypatch.setattr(watch, "_EVERY_SECONDS", 0.01)
    made = Watch(scene.settings, lambda _chains: None)
    made._journals._known = scene.known
    monkeypatch.setattr(made._journals, "refresh", lambda _relayed, _marks: None)
    yield made
    made._looked = float("-inf")
    wait_for(lambda: not made._wanted.is_set())


def wait_for(condition: Callable[[], Any]) -> Any:
    """Wait until `condition` returns something true, and return that."""
    until = time.monotonic() + 10
    while not (found := condition()):
        assert time.monotonic() < until
        time.sleep(0.01)
    return found


def without_redis(*_: object) -> None:
    """Redis does not answer."""
    raise RedisConnectionError("Connection refused.")


def test_redis_is_lost_and_comes_back(
    scene: Scene, watching: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read last stays, with the reason and since when."""
    before = watching.look()
    assert before.lost is None
    with monkeypatch.context() as patch:
        patch.setattr(watch, "feel", without_redis)
        first, second = watching.look(), watching.look()
    assert first.lost == "Redis cannot be read: Connection refused"
    assert first.lost_since is not None
    assert first.lost_since == second.lost_since
    assert first.runs == before.runs
    assert first.databases[0].moving is not None
    assert first.workers == before.workers == ["w@here"]
    assert watching.look().lost is None


def test_what_has_ended_gives_another_mark(scene: Scene, watching: Watch) -> None:
    """So do a passing error, and the run's end; progress does not."""
    (run,) = (snapshot.run for snapshot in scene.driver.runs.open())
    at = scene.driver.runs.open()[0].working["mongodb"]

    def mark() -> object:
        watching.look()
        return watching._marks().get("mongodb")

    first = mark()
    scene.driver.runs.report(run.id, "mongodb", progress(at, done=62_000))
    assert mark() == first
    scene.driver.runs.report(run.id, "mongodb", progress(at, waiting="refused"))
    second = mark()
    scene.driver.move(run, at)
    third = mark()
    scene.driver.move(run, scene.driver.runs.open()[0].working["postgresql"])
    assert len({first, second, third, mark()}) == 4


def test_the_last_run_is_found_by_the_journal(scene: Scene, watching: Watch) -> None:
    """When it is over Redis has no list of it any more, but the journal's head names it."""
    (run,) = (snapshot.run for snapshot in scene.driver.runs.open())
    for name in ("mongodb", "postgresql"):
        scene.driver.move(run, scene.driver.runs.open()[0].working[name])
    scene.journal("mongodb", *applied(M1), run=run)
    assert watching.look().databases[0].ended == "Last run: 1 migration applied"


def test_a_journal_of_before_the_end_is_no_reason_to_submit_again(
    scene: Scene, watching: Watch
) -> None:
    """What it says is going on has ended meanwhile: that is for a newer one to tell."""
    (run,) = [found.run for found in scene.driver.runs.open()]
    scene.journal("mongodb", record(M1, MigrationState.RUNNING), run=run)
    assert watching.look().databases[0].troubles == []
    scene.driver.runs.end(run, RunState.FAILED, [])
    assert watching.look().databases[0].troubles == []
    scene.journal("mongodb", record(M1, MigrationState.RUNNING), run=run)
    (trouble,) = watching.look().databases[0].troubles
    assert trouble.todo == "No run that Redis knows goes on with it."


def test_only_while_somebody_looks(watching: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes after a while without a look is not shown what was made for others long ago."""
    monkeypatch.setattr(watch, "_IDLE_SECONDS", 0.2)
    assert watching.shown() is None
    old = wait_for(watching.shown)
    wait_for(lambda: not watching._wanted.is_set())  # its thread waits for the next look
    assert watching.shown() is None
    assert wait_for(watching.shown).at > old.at


def test_a_fault_is_shown(watching: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page says that it stands still, and shows what it knew."""
    assert watching.shown() is None
    good = wait_for(watching.shown)

    def fail() -> Shown:
        raise KeyError("mongodb")

    monkeypatch.setattr(watching, "look", fail)
    shown = wait_for(lambda: (found := watching.shown()) and found.lost and found)
    assert "KeyError" in str(shown.lost)
    assert shown.databases == good.databases
