"""What a run looks like: rows, lines, and numbers as people read them."""

from __future__ import annotations

import io
import time
from datetime import UTC, datetime

import pytest
from fake_run import Driver, applied, failed, migration, progress
from fakeredis import FakeRedis
from rich.console import Console

from dharma_tasks import words
from dharma_tasks.cli.screen import Lines, console, draw
from dharma_tasks.records import Direction
from dharma_tasks.report import Row, View, event_line, numbers, plain_line, rows
from dharma_tasks.run import Event, Next, Run

M1 = Next("mongodb", "1.0.0", 1)


@pytest.fixture
def driver() -> Driver:
    """Two migrations of mongodb, and a first one of postgresql that needs the second."""
    return Driver(
        FakeRedis(decode_responses=True),
        migration("mongodb", "1.0.0", name="create_users"),
        migration("mongodb", "1.1.0", operations=2, name="add_email"),
        migration("postgresql", "1.0.0", "mongodb:1.1.0", name="create_projects"),
    )


def view(driver: Driver, run: Run, **changes: object) -> View:
    """The view of a run at this moment."""
    snapshot = driver.runs.snapshot(run.id)
    assert snapshot is not None
    fields = {
        "snapshot": snapshot,
        "now": time.time(),
        "plan": driver.runs.plan(run),
        "migrations": {m.reference: m for m in driver.migrations},
        **changes,
    }
    return View(**fields)  # type: ignore[arg-type]


def by_database(found: View) -> dict[str, Row]:
    """The rows of a view."""
    return {row.database: row for row in rows(found)}


def test_the_limit_is_shown_beside_the_rate() -> None:
    """Who wonders why it is slow sees that it is meant to be."""
    shown = progress(M1).model_copy(update={"done": 10, "total": 100, "limit": 500.0})
    assert "at most 500/s" in numbers(shown)
    assert "at most" not in " ".join(numbers(progress(M1)))


def test_the_ranges_that_are_left(driver: Driver) -> None:
    """Of an operation that is cut into some."""
    run = driver.submit()
    driver.start(run)
    driver.runs.report(run.id, "mongodb", progress(M1))
    driver.runs.ranges(run.id, M1.key, [2, 4])
    assert by_database(view(driver, run))["mongodb"].detail == (
        "update_documents users (2 ranges left)"
    )
    driver.move(run, M1)
    assert "range" not in by_database(view(driver, run))["mongodb"].detail


# -- numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.00 s"),
        (0.04, "0.04 s"),
        (1.26, "1.3 s"),
        (42.4, "42 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7_500, "2 h 05 min"),
        (360_000, "100 h 00 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A time span has as many digits as anybody wants to read."""
    assert words.duration(seconds) == text


def test_progress_in_numbers() -> None:
    """Done and total, rate, time left: as far as they are known."""
    assert numbers(progress(M1)) == ["61,000 of 100,000", "6,100/s", "6.4 s left"]
    assert numbers(progress(M1, total=None)) == ["61,000", "6,100/s"]
    assert numbers(progress(M1, done=0, since_done=0)) == ["0 of 100,000"]
    assert numbers(progress(M1, done=0, total=None)) == []


def test_the_rate_is_this_workers_own() -> None:
    """What a former worker has done does not make the new one look fast."""
    assert numbers(progress(M1, since_done=60_000))[1:] == ["100/s", "6 min 30 s left"]


def test_more_done_than_estimated_has_no_time_left() -> None:
    """A total is an estimate; beyond it nobody knows."""
    assert numbers(progress(M1, done=110_000))[-1] == "11,000/s"


# -- rows ----------------------------------------------------------------------------------


def test_rows_while_planning(driver: Driver) -> None:
    """Before the plan each journal is being read, or has been."""
    run = driver.submit()
    found = by_database(view(driver, run, surveyed=frozenset({"mongodb"})))
    assert found["mongodb"].title == "journal read"
    assert found["postgresql"].title == "reads its journal"


def test_rows_say_what_runs_and_what_waits_for_what(driver: Driver) -> None:
    """One database works, the other names the migration that it waits for."""
    run = driver.submit()
    driver.start(run)
    driver.runs.report(run.id, "mongodb", progress(M1))
    found = by_database(view(driver, run))
    assert list(found) == ["mongodb", "postgresql"]
    assert found["mongodb"].position == "1/2"
    assert found["mongodb"].title == "1.0.0 create_users"
    assert found["mongodb"].detail == "update_documents users"
    assert not found["mongodb"].waits
    assert found["postgresql"].title == "1.0.0 create_projects"
    assert found["postgresql"].waits == "waits for mongodb:1.1.0"


def test_progress_of_the_operation_before_is_not_shown(driver: Driver) -> None:
    """Between two operations the record still holds the former one's numbers."""
    run = driver.submit()
    driver.start(run)
    driver.move(run, M1)
    driver.runs.report(run.id, "mongodb", progress(Next("mongodb", "1.1.0", 1)))
    driver.move(run, Next("mongodb", "1.1.0", 1), last=False)
    found = by_database(view(driver, run))["mongodb"]
    assert (found.detail, found.progress) == ("2/2 kind_2", None)


def test_rows_say_why_nothing_moves(driver: Driver) -> None:
    """A passing error, a silent worker, no worker at all: the gravest is named."""
    run = driver.submit()
    driver.start(run)
    driver.runs.report(run.id, "mongodb", progress(M1, waiting="WriteConflict (112)"))
    assert by_database(view(driver, run))["mongodb"].waits == "waits: WriteConflict (112)"
    none = by_database(view(driver, run, unserved=frozenset({"mongodb"})))["mongodb"].waits
    assert none == "no worker alive for mongodb (start one: celery -A dharma_tasks worker)"
    driver.runs.report(run.id, "mongodb", progress(M1, heartbeat=time.time() - 42))
    silent = by_database(view(driver, run))["mongodb"].waits
    assert silent == "no sign of life from celery@host for 42 s"


def test_rows_name_the_worker_that_must_confirm(driver: Driver) -> None:
    """A dependency is confirmed on its own database's queue: without a worker there it waits."""
    run = driver.submit()
    driver.start(run)
    driver.move(run, M1)
    driver.move(run, Next("mongodb", "1.1.0", 1), last=False)
    driver.move(run, Next("mongodb", "1.1.0", 2))
    found = by_database(view(driver, run, unserved=frozenset({"mongodb"})))
    assert found["postgresql"].waits.startswith("cannot confirm mongodb:1.1.0: no worker alive")
    assert found["mongodb"].title == "2 migrations applied"


BACK = migration("mongodb", "1.1.0", operations=2, name="add_email").model_copy(
    update={"rollback": ({"type": "kind_3"}, {"type": "kind_4"})}
)


def going_back(first: str) -> tuple[Driver, Run]:
    """A rollback of mongodb 1.1.0, which waits for postgresql and begins with `first`."""
    driver = Driver(FakeRedis(decode_responses=True), BACK, migration("postgresql", "1.0.0"))
    run = driver.submit(direction=Direction.BACK, target="0.0.0")
    order = {
        "orders": {"mongodb": ("1.1.0",)},
        "dependencies": {"mongodb:1.1.0": ("postgresql:1.0.0",)},
        "first": {"mongodb:1.1.0": first},
    }
    driver.runs.start(run, driver.plan(run).model_copy(update=order))
    assert driver.runs.begun(run, "mongodb", 1)
    return driver, run


def test_rows_of_what_is_undone() -> None:
    """It is called that with its numbers too."""
    driver, run = going_back("1.1.0 2 1")
    assert by_database(view(driver, run))["mongodb"].detail == "2/2 undo kind_2"
    at = Next("mongodb", "1.1.0", 2)
    driver.runs.report(run.id, "mongodb", progress(at, type="kind_2", count=2))
    assert by_database(view(driver, run))["mongodb"].detail == "2/2 undo kind_2 users"


def test_rows_of_a_rollback_file() -> None:
    """Its operations are counted by themselves, though they are numbered on."""
    driver, run = going_back("1.1.0 3")
    assert by_database(view(driver, run))["mongodb"].detail == "1/2 kind_3"
    at = Next("mongodb", "1.1.0", 3)
    driver.runs.report(run.id, "mongodb", progress(at, type="kind_3", count=4))
    assert by_database(view(driver, run))["mongodb"].detail == "1/2 kind_3 users"


def test_rows_on_the_way_back_name_the_worker_that_must_confirm() -> None:
    """It begins with any operation, and asks with every chain."""
    driver, run = going_back("1.1.0 2 1")
    found = by_database(view(driver, run, unserved=frozenset({"postgresql"})))
    assert found["mongodb"].waits.startswith("cannot confirm postgresql:1.0.0: no worker alive")


def test_rows_after_a_failure(driver: Driver) -> None:
    """While others finish, the failed database says how much is left."""
    run = driver.submit()
    driver.start(run)
    driver.fail(run, M1)
    found = by_database(view(driver, run))
    assert found["mongodb"].title == "stopped: 2 migrations not applied"


# -- lines ---------------------------------------------------------------------------------


def test_event_lines() -> None:
    """One line an event; of a long message the first one."""
    assert event_line(applied(M1)) == "mongodb 1.0.0 change applied in 1.3 s"
    assert event_line(failed(M1, "E11000 duplicate\nmore")) == "failed: E11000 duplicate"
    warning = Event(at=datetime.now(UTC), kind="warning", text="comes late")
    assert event_line(warning) == "warning: comes late"


def test_plain_lines(driver: Driver) -> None:
    """What moves and what waits has a line; what is over has had its event."""
    run = driver.submit()
    driver.start(run)
    driver.runs.report(run.id, "mongodb", progress(M1))
    found = by_database(view(driver, run))
    assert plain_line(found["mongodb"]) == (
        "mongodb 1.0.0 create_users update_documents users: 61,000 of 100,000, 6,100/s, 6.4 s left"
    )
    assert plain_line(found["postgresql"]) == (
        "postgresql 1.0.0 create_projects: waits for mongodb:1.1.0"
    )
    assert plain_line(Row("mongodb", "2/2", "2 migrations applied", over=True)) == ""


def test_a_log_is_not_flooded(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long operation has a line every five seconds, however often it is looked at."""
    clock = [100.0]
    monkeypatch.setattr("dharma_tasks.cli.screen.time.monotonic", lambda: clock[0])
    run = driver.submit()
    driver.start(run)
    out = io.StringIO()
    lines = Lines(console(out))
    for tenth in range(101):
        clock[0] = 100 + tenth / 10
        driver.runs.report(run.id, "mongodb", progress(M1, done=1000 * tenth))
        lines.update(view(driver, run))
    assert sum(line.startswith("mongodb") for line in out.getvalue().splitlines()) == 2
    assert out.getvalue().count("postgresql 1.0.0 create_projects: waits") == 1


def test_who_waits_is_heard_once() -> None:
    """The same reason to wait, told with every rescue, is one line."""
    out = io.StringIO()
    lines = Lines(console(out))
    event = Event(at=datetime.now(UTC), kind="waiting", text="this worker does not know it")
    lines.happened([event, event])
    lines.happened([event])
    assert out.getvalue().splitlines() == ["waiting: this worker does not know it"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_bars_fit_the_terminal(driver: Driver, width: int) -> None:
    """Two lines a database and no more, however long the names are and narrow the terminal is."""
    run = driver.submit()
    driver.start(run)
    long = progress(M1, summary="users where " + "x" * 200)
    driver.runs.report(run.id, "mongodb", long)
    found = migration("mongodb", "1.0.0", name="n" * 100)
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system=None).print(
        draw(rows(view(driver, run, migrations={found.reference: found})))
    )
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert all(len(line) <= width for line in lines)
    assert "61%" in lines[1]
    if width >= 80:
        assert lines[2].rstrip().endswith("61,000 of 100,000  6,100/s  6.4 s left")
