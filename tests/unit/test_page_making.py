"""What the Migrations page shows: steps, progress, waits, troubles, and what is out of date."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from fake_run import migration, progress
from page_scene import BEGUN, Scene, applied, record

from dharma_tasks.identity import owner
from dharma_tasks.lease import Leases
from dharma_tasks.migration import Key
from dharma_tasks.page.known import Known
from dharma_tasks.page.shown import DatabaseShown, Now, Shown
from dharma_tasks.records import Direction, MigrationState, OperationRecord, OperationState
from dharma_tasks.run import Event, RunState
from dharma_tasks.status import feel
from dharma_tasks.trail import Told

M1 = migration("mongodb", "1.0.0", name="create_users")
M2 = migration("mongodb", "1.1.0", name="lower_case", operations=2)
M3 = migration("mongodb", "1.10.0", name="unique_email")
P1 = migration("postgresql", "1.0.0", "mongodb:1.1.0", name="create_projects")


@pytest.fixture
def scene() -> Scene:
    """Two databases, of which one waits for the other; nothing has begun."""
    made = Scene(M1, M2, M3, P1)
    made.journal("mongodb", *applied(M1))
    made.journal("postgresql")
    return made


def states(found: DatabaseShown) -> list[str]:
    """The line of versions in short."""
    return [f"{step.version} {step.state}" for step in found.steps]


def waiting(scene: Scene, database: str) -> str:
    """Why a database does not move."""
    found = scene.database(database).moving
    assert found is not None
    return found.waits


def running(scene: Scene, shown: Shown | None = None) -> Now:
    """What runs in MongoDB."""
    found = (shown or scene.shown()).databases[0].moving
    assert found is not None
    assert found.now is not None
    return found.now


def test_a_run_moves_the_line_before_the_journal_is_read_again(scene: Scene) -> None:
    """What a run has ended is applied, and what it is at runs."""
    scene.journal("mongodb")
    run = scene.driver.submit()
    (at,) = scene.driver.start(run)
    assert states(scene.database("mongodb")) == [
        "1.0.0 running",
        "1.1.0 pending",
        "1.10.0 pending",
    ]
    (at,) = scene.driver.move(run, at)
    found = scene.database("mongodb")
    assert states(found) == ["1.0.0 applied", "1.1.0 running", "1.10.0 pending"]
    assert (found.current, found.applied, found.total) == ("1.0.0", 1, 3)
    assert found.moving is not None
    assert (found.moving.title, found.moving.position) == ("1.1.0 lower_case", "2/3")
    assert found.moving.version == "1.1.0"


def test_a_way_back_moves_the_line_too(scene: Scene) -> None:
    """What a run has undone is rolled back, and what it is at is being rolled back."""
    scene.journal("mongodb", *applied(M1, M2))
    run = scene.driver.submit(direction=Direction.BACK, target="0.0.0", databases=("mongodb",))
    made = scene.driver.plan(run).model_copy(update={"orders": {"mongodb": ("1.1.0", "1.0.0")}})
    assert scene.driver.runs.start(run, made)
    (at,) = scene.driver.runs.begun(run, "mongodb", 1)
    scene.driver.move(run, at)
    shown = scene.shown()
    assert states(shown.databases[0])[:2] == ["1.0.0 rolling_back", "1.1.0 rolled_back"]
    assert shown.runs[0].goal == "back to 0.0.0"


def test_what_runs_now(scene: Scene) -> None:
    """The bar, how much and how fast, who holds the lease, and the last sign of life."""
    scene.journal("mongodb")
    run = scene.driver.submit()
    (at,) = scene.driver.start(run)
    scene.driver.runs.report(run.id, "mongodb", progress(at, limit=5000.0))
    now = running(scene)
    assert now.what == "update_documents users"
    assert now.share == pytest.approx(0.61)
    assert now.numbers == ["61,000 of 100,000", "6,100/s", "6.4 s left", "at most 5,000/s"]
    assert now.worker == "celery@host"
    assert not now.quiet
    assert now.heartbeat.endswith("s ago")
    leases = Leases(scene.redis, scene.settings.namespace, 10)
    leases.acquire(Key(database="mongodb", version="1.0.0", number=1), owner("w@there", {}), run.id)
    now = running(scene)
    assert str(now.worker).startswith("w@there (pid ")


def test_what_gives_no_sign_of_life(scene: Scene) -> None:
    """It has no rate any more, and says since when; a run that is paused may be silent."""
    run = scene.driver.submit()
    (at,) = scene.driver.start(run)
    scene.driver.runs.report(run.id, "mongodb", progress(at, heartbeat=time.time() - 120))
    now = running(scene)
    assert now.quiet
    assert now.heartbeat == "2 min 00 s ago"
    assert now.numbers == ["61,000 of 100,000"]
    assert waiting(scene, "mongodb") == "no sign of life from celery@host for 2 min 00 s"
    scene.driver.runs.pause(run, Event(at=BEGUN, kind="paused", text="me"))
    assert not running(scene).quiet
    assert scene.shown().runs[0].command == f"dharma resume {run.id}"


def test_what_waits_for_what(scene: Scene) -> None:
    """A migration that waits for another database names it; a passing error is a reason too."""
    run = scene.driver.submit()
    (at,) = scene.driver.start(run)
    found = scene.database("postgresql").moving
    assert found is not None
    assert (found.title, found.waits) == ("1.0.0 create_projects", "waits for mongodb:1.1.0")
    assert found.now is None
    scene.driver.runs.report(run.id, "mongodb", progress(at, waiting="connection refused"))
    assert waiting(scene, "mongodb") == "waits: connection refused"


@pytest.mark.parametrize(
    ("state", "title", "command"),
    [
        (MigrationState.FAILED, "has failed", "dharma submit --target latest"),
        (
            MigrationState.ROLLED_BACK,
            "has failed, and was rolled back",
            "dharma submit --target latest",
        ),
    ],
)
def test_a_failure(scene: Scene, state: MigrationState, title: str, command: str) -> None:
    """The database's message whole, and the command that goes on."""
    error = 'ERROR 23505: duplicate key\nDETAIL: Key (email)=("a") already exists.'
    scene.journal("mongodb", *applied(M1), record(M2, state, error=f"{error}\n"))
    (trouble,) = scene.database("mongodb").troubles
    assert trouble.title == f"1.1.0 lower_case {title}"
    assert trouble.error == error
    assert trouble.command == command
    assert "orrect the cause" in trouble.todo


def test_a_failure_on_the_way_back(scene: Scene) -> None:
    """A submit would be refused: the command is the rollback that finishes it."""
    undoing = OperationRecord(number=1, type="kind_1", state=OperationState.UNDOING)
    half = record(M2, MigrationState.FAILED, error="on the way back: no", operations=[undoing])
    scene.journal("mongodb", *applied(M1), half)
    (trouble,) = scene.database("mongodb").troubles
    assert trouble.command == "dharma rollback 1.0.0 --databases mongodb"


def test_what_is_undone_at_this_moment_shows_why(scene: Scene) -> None:
    """While a run undoes what has failed, the message is there, and nothing is to be done yet."""
    run = scene.driver.submit()
    (at,) = scene.driver.start(run)
    scene.driver.runs.failed(
        run, at, Event(at=BEGUN, kind="failed", text="no"), at._replace(until=1)
    )
    scene.journal("mongodb", record(M1, MigrationState.ROLLING_BACK, error="no such field"))
    found = scene.database("mongodb")
    assert states(found)[0] == "1.0.0 rolling_back"
    (trouble,) = found.troubles
    assert (trouble.error, trouble.command) == ("no such field", None)


def test_what_nobody_goes_on_with(scene: Scene) -> None:
    """Redis has lost the run: a submit goes on from the journal."""
    scene.journal("mongodb", record(M1, MigrationState.RUNNING))
    (trouble,) = scene.database("mongodb").troubles
    assert trouble.title == "1.0.0 create_users is running"
    assert trouble.command == "dharma submit --target latest"


def test_what_is_pending_when_the_run_is_over(scene: Scene) -> None:
    """What was submitted last and not applied stays in the line, until Redis forgets the run."""
    run = scene.driver.submit()
    (at,) = scene.driver.start(run)
    scene.driver.fail(run, at)
    scene.journal("mongodb", record(M1, MigrationState.FAILED, error="no"), run=run)
    found = scene.database("mongodb")
    assert states(found) == ["1.0.0 failed", "1.1.0 pending", "1.10.0 pending"]
    assert found.ended == "Last run: stopped: 3 migrations not applied"
    assert scene.shown().runs == []
    for key in scene.redis.scan_iter(f"*{run.id}*"):
        scene.redis.delete(key)
    scene.submissions._over.clear()
    assert states(scene.database("mongodb")) == ["1.0.0 failed"]


def test_a_journal_that_is_read_again(scene: Scene) -> None:
    """What was put together of the former reading is not shown any more."""
    scene.driver.submit()
    assert scene.database("mongodb").applied == 1
    scene.journal("mongodb", *applied(M1, M2))
    assert scene.database("mongodb").applied == 2


def test_a_run_that_is_not_over_is_no_last_run(scene: Scene) -> None:
    """Between two readings of Redis a run may begin, and the journal name it already."""
    run = scene.driver.submit()
    assert scene.submissions.by_database([], {"mongodb": run.id}) == {}
    scene.driver.fail(run, scene.driver.start(run)[0])
    found = scene.submissions.by_database([], {"mongodb": run.id})
    assert found["mongodb"].snapshot.state is RunState.FAILED


def test_a_long_line_is_cut(scene: Scene) -> None:
    """Of a thousand versions those are shown around the first that is not applied."""
    many = [migration("mongodb", f"1.{n}.0") for n in range(1000)]
    scene = Scene(*many)
    scene.journal("mongodb", *applied(*many[:500]))
    scene.driver.submit()
    found = scene.database("mongodb")
    assert (found.applied, found.total) == (500, 1000)
    versions = [step.version for step in found.steps]
    assert versions[:2] == ["1.492.0", "1.493.0"]
    assert "1.500.0" in versions
    assert found.earlier + len(versions) + found.later == 1000
    assert len(versions) < 25
    scene.journal("mongodb", *applied(*many[:10]))
    assert scene.database("mongodb").earlier == 0


def test_what_is_out_of_date_says_so(scene: Scene) -> None:
    """A journal that cannot be read shows what was known, since when, and why not more."""
    before = scene.known["mongodb"]
    scene.known["mongodb"] = replace(before, error="mongodb cannot be used: refused", since=5.0)
    found = scene.database("mongodb")
    assert states(found) == ["1.0.0 applied"]
    assert found.stale == "mongodb cannot be used: refused"
    assert found.stale_since is not None
    assert found.stale_since.timestamp() == 5
    assert found.read is not None


def test_without_redis_the_last_pulse_is_shown(scene: Scene) -> None:
    """The run and its progress stay, with the reason."""
    run = scene.driver.submit()
    (at,) = scene.driver.start(run)
    scene.driver.runs.report(run.id, "mongodb", progress(at))
    before = feel(scene.redis, scene.settings)
    shown = scene.shown(replace(before, error="Redis is gone", leases=None), lost=7.0)
    assert shown.lost == "Redis is gone"
    assert shown.lost_since is not None
    assert shown.runs[0].id == run.id
    assert running(scene, shown).numbers


def test_a_database_that_nobody_uses_is_left_out(scene: Scene) -> None:
    """Also one that a worker would serve; one whose first question failed is shown."""
    assert [each.name for each in scene.shown().databases] == ["mongodb", "postgresql"]
    scene.known["elasticsearch"] = Known().failed("refused")
    assert [each.name for each in scene.shown().databases][-1] == "elasticsearch"


def test_the_last_entries_of_the_trails(scene: Scene) -> None:
    """Newest first, of all databases; what is about single operations is left to the command."""
    told = Told(at=BEGUN, event="applied", run="r", by="me", version="1.0.0", database="mongodb")
    entries = (
        told.model_copy(update={"event": "run", "detail": "forward", "version": None}),
        told.model_copy(update={"event": "paused", "version": "", "number": 0, "detail": "asked"}),
        told.model_copy(update={"event": "taken", "number": 1}),
        told.model_copy(
            update={"name": "create_users", "seconds": 1.3, "at": BEGUN.replace(hour=13)}
        ),
        told.model_copy(
            update={"event": "rolled_back", "error": "no\n", "at": BEGUN.replace(hour=14)}
        ),
    )
    scene.known["mongodb"] = replace(scene.known["mongodb"], entries=entries)
    shown = [(each.event, each.what, each.took, each.text) for each in scene.shown().history]
    assert shown == [
        ("rolled back", "1.0.0", "", "no"),
        ("applied", "1.0.0 create_users", "1.3 s", ""),
        ("run", "r forward", "", ""),
        ("paused", "r", "", "asked"),
    ]
