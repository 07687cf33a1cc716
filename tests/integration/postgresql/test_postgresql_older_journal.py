"""A journal that an older release has made: it is read as it is, and brought up to date."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql

from dharma_tasks.databases.postgresql import PostgresqlDatabase, database
from dharma_tasks.errors import FenceLost
from dharma_tasks.journal import Opening
from dharma_tasks.migration import Key
from dharma_tasks.records import Direction, MigrationState, OperationState, Owner, Survey
from dharma_tasks.settings import Settings
from dharma_tasks.work import Assignment, Step, Walked

OLD = """
CREATE TABLE {head} (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    identity text NOT NULL,
    schema_version integer NOT NULL,
    run text,
    generation bigint NOT NULL DEFAULT 0,
    direction text NOT NULL DEFAULT 'forward',
    plan text
);
CREATE TABLE {migrations} (
    version text PRIMARY KEY,
    name text NOT NULL,
    state text NOT NULL,
    checksum text NOT NULL,
    count integer NOT NULL,
    run text NOT NULL,
    by text NOT NULL,
    started timestamptz NOT NULL,
    finished timestamptz,
    seconds double precision,
    error text
);
CREATE TABLE {operations} (
    version text,
    number integer,
    type text NOT NULL,
    state text NOT NULL,
    fence bigint NOT NULL,
    cursor json,
    undo json,
    done bigint NOT NULL DEFAULT 0,
    total bigint,
    attempts integer NOT NULL DEFAULT 0,
    error text,
    worker text,
    owner json,
    former json,
    updated timestamptz NOT NULL,
    PRIMARY KEY (version, number)
);
CREATE TABLE {history} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL,
    run text NOT NULL,
    by text NOT NULL,
    version text,
    number integer,
    fence bigint,
    detail text
);
INSERT INTO {head} VALUES (true, 'identity', 1, 'run', 3, 'forward', 'plan');
INSERT INTO {migrations} VALUES
    ('1.0.0', 'first', 'applied', 'sum', 1, 'run', 'me', now(), now(), 0),
    ('1.1.0', 'second', 'running', 'sum', 1, 'run', 'me', now(), NULL, NULL);
INSERT INTO {operations} VALUES
    ('1.0.0', 1, 'sql', 'done', 1, 'null', NULL, 1, 1, 0, NULL, 'w', NULL, NULL, now()),
    ('1.1.0', 1, 'sql_batch', 'running', 4, '"500"', '{{"last": "900"}}', 500, 900, 0, NULL, 'w',
        {owner}::json, NULL, now());
INSERT INTO {history} (event, run, by) VALUES ('run', 'run', 'me')
"""
"""As the release before the way back made them, while it carries out the run's second migration."""

ADDED = """
ALTER TABLE {migrations} ADD COLUMN turned timestamptz;
ALTER TABLE {operations} ADD COLUMN walked json, ADD COLUMN run text
"""
"""As the release after that did, whose history does not say yet what a migration's end was."""

ME = Owner(worker="w", node="n", boot="b", pid=1, started=1.0)


@pytest.fixture(params=[(OLD,), (OLD, ADDED)], ids=["before the way back", "a day old"])
def make(
    request: pytest.FixtureRequest, settings: Settings
) -> Iterator[Callable[[], PostgresqlDatabase]]:
    """Make workers on a database with such a journal."""
    url = settings.postgresql_url
    assert url is not None
    tables = {
        name: sql.Identifier("public", f"{settings.namespace}_{name}")
        for name in ("head", "migrations", "operations", "history")
    }
    owner = sql.Literal(json.dumps(ME.model_dump()))
    with psycopg.connect(url.get_secret_value()) as connection:
        for text in request.param:
            connection.execute(sql.SQL(text).format(**tables, owner=owner))
    made: list[PostgresqlDatabase] = []

    def worker() -> PostgresqlDatabase:
        made.append(database(settings.model_copy(update={"lock_timeout_seconds": 0.5})))
        return made[-1]

    yield worker
    for each in made:
        each.close()


def assignment(version: str, **more: Any) -> Assignment:
    """Its only operation, in the run that the journal is at."""
    key = Key(database="postgresql", version=version, number=1)
    values = {"generation": 3, "name": "name", "checksum": "sum", "type": "sql", "count": 1}
    return Assignment(by="me", key=key, **{"run": "run", **values, **more})


def back(version: str, **more: Any) -> Assignment:
    """The same on the way back."""
    outcome = MigrationState.ROLLED_BACK
    return assignment(version, direction=Direction.BACK, outcome=outcome, **more)


def current(worker: PostgresqlDatabase, settings: Settings) -> bool:
    """Whether the journal is up to date."""
    text = "SELECT attname FROM pg_attribute WHERE attrelid = %(table)s::regclass"
    added = {"migrations": "turned", "operations": "walked", "history": "seconds"}
    return all(
        (name,) in worker.handle.query(text, table=f"public.{settings.namespace}_{part}")
        for part, name in added.items()
    )


def begin(worker: PostgresqlDatabase, run: str, expected: int) -> int:
    """Begin a run on what the journal is expected to be at."""
    opening = Opening(run=run, direction=Direction.BACK, plan="plan", by="me")
    return worker.journal.begin(opening, expected)


def tells_all(survey: Survey, generation: int = 3) -> None:
    """What was in it is there."""
    assert survey.head is not None
    assert (survey.head.identity, survey.head.generation) == ("identity", generation)
    first, second = (survey.by_version()[version] for version in ("1.0.0", "1.1.0"))
    assert (first.state, second.state) == (MigrationState.APPLIED, MigrationState.RUNNING)
    assert first.operations[0].state is OperationState.DONE
    (operation,) = second.operations
    assert (operation.done, operation.total, operation.irreversible) == (500, 900, None)


def test_it_can_be_read(make: Callable[[], PostgresqlDatabase], settings: Settings) -> None:
    """As it is; reading changes nothing."""
    worker = make()
    tells_all(worker.journal.survey())
    assert worker.journal.owner(assignment("1.1.0").key) == ME
    (told,) = worker.journal.history(10)
    assert (told.event, told.by, told.name, told.seconds) == ("run", "me", None, None)
    assert not current(worker, settings)


def test_a_run_that_has_begun_goes_on(
    make: Callable[[], PostgresqlDatabase], settings: Settings
) -> None:
    """Workers are replaced in the middle of a run: the first taking brings it up to date."""
    worker = make()
    taken = worker.journal.take(assignment("1.1.0"), ME, counted=True)
    assert (taken.cursor, taken.undo, taken.done) == ("500", {"last": "900"}, 500)
    step = Step(cursor="900", done=400, finished=True)
    worker.journal.step(taken, lambda _session: step, transactional=True)
    assert worker.journal.survey().by_version()["1.1.0"].state is MigrationState.APPLIED
    assert current(worker, settings)
    told = worker.journal.history(10)
    assert [each.event for each in told] == ["run", "taken", "applied"]
    assert (told[-1].name, told[-1].checksum) == ("name", "sum")
    assert told[-1].seconds is not None


def test_a_run_that_has_begun_may_turn_back(
    make: Callable[[], PostgresqlDatabase], settings: Settings
) -> None:
    """The way back brings the journal up to date by itself."""
    worker = make()
    taken = worker.journal.take(back("1.1.0"), ME, counted=True)
    assert (taken.state, taken.walked) == (OperationState.UNDOING, Walked("500", 500))
    assert taken.former == ME
    assert current(worker, settings)
    step = Step(cursor=None, finished=True)
    worker.journal.step(taken, lambda _session: step, transactional=True)
    assert worker.journal.survey().by_version()["1.1.0"].state is MigrationState.ROLLED_BACK


@pytest.mark.parametrize("run", ["next", "run"])
def test_a_run_that_begins_brings_it_up_to_date(
    make: Callable[[], PostgresqlDatabase], settings: Settings, run: str
) -> None:
    """With all that is in it; a repeated begin of its own run does so too."""
    worker = make()
    generation = 4 if run == "next" else 3
    assert begin(worker, run, 3) == generation
    assert current(worker, settings)
    tells_all(worker.journal.survey(), generation)
    taken = worker.journal.take(back("1.0.0", run=run, generation=generation), ME, counted=True)
    assert taken.walked == Walked(None, 1)


def test_a_run_that_is_refused_leaves_it_alone(
    make: Callable[[], PostgresqlDatabase], settings: Settings
) -> None:
    """A refusal changes nothing, not even that."""
    worker = make()
    with pytest.raises(FenceLost):
        begin(worker, "next", 2)
    assert not current(worker, settings)
    tells_all(worker.journal.survey())


def test_several_begin_at_once(make: Callable[[], PostgresqlDatabase]) -> None:
    """One of them gets it; the others are told so, and nobody meets a half-made table."""

    def attempt(number: int) -> int | None:
        try:
            return begin(workers[number], f"run-{number}", 3)
        except FenceLost:
            return None

    workers = [make() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(attempt, range(4)))
    assert sorted(results, key=str) == [4, None, None, None]
    tells_all(workers[0].journal.survey(), 4)


def test_a_journal_that_is_up_to_date_is_not_locked(
    make: Callable[[], PostgresqlDatabase], settings: Settings
) -> None:
    """A dump that reads it for hours keeps no run from beginning."""
    worker, reader = make(), make().handle
    begin(worker, "next", 3)
    reader.begin()
    reader.query(f"SELECT * FROM public.{settings.namespace}_operations")
    assert begin(worker, "one more", 4) == 5
    reader.rollback()
