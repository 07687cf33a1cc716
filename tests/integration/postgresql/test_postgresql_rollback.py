"""Rollback files on a real PostgreSQL: exact, resumable, and never the two ways at once."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from postgresql_state import state

from dharma_tasks.databases.postgresql import PostgresqlDatabase
from dharma_tasks.errors import FenceLost, MigrationFailed, Outdated, Stopped
from dharma_tasks.journal import Opening
from dharma_tasks.operations.base import Operation
from dharma_tasks.records import Direction, MigrationState, OperationState
from dharma_tasks.work import Assignment, Step

BATCH = {"table": "t", "key": "id", "size": 40}
STATEMENTS = "sql_statements"
BEFORE = """
CREATE SCHEMA s;
CREATE TYPE s.mood AS ENUM ('sad', 'ok');
CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0, a text COLLATE "C", m s.mood);
INSERT INTO t SELECT g, g %% 7, 'row ' || g, 'ok' FROM generate_series(1, 300) g;
CREATE INDEX t_a ON t (lower(a)) WHERE n > 2;
CREATE VIEW s.v AS SELECT id, n FROM t WHERE n > 3;
CREATE FUNCTION s.f(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';
COMMENT ON TABLE t IS 'what is to be there again';
"""


class Migration:
    """A migration of one file, and its rollback file, in the journal."""

    def __init__(self, postgres: Any, forward: Operation[Any], back: Operation[Any]) -> None:
        self.postgres, self.forward, self.back = postgres, forward, back
        self.assignment: Assignment = postgres.assignment(forward.kind)
        self.namespace = postgres.settings.namespace
        self.runs = 0

    def rollback(self) -> Assignment:
        """What a worker is told to carry the rollback file out, in another run: number 2 of 2."""
        self.runs += 1
        return replace(
            self.assignment,
            run=f"back-{self.runs}",
            key=self.assignment.key.model_copy(update={"number": 2}),
            type=self.back.kind,
            count=2,
            outcome=MigrationState.ROLLED_BACK,
            first=2,
        )

    def apply(self) -> None:
        """As another run than the one before: what that has rolled back it does not begin anew."""
        self.assignment = replace(self.assignment, run=f"{self.assignment.run}+")
        self.postgres.runner(self.forward, self.assignment).run()
        assert self.postgres.record().state is MigrationState.APPLIED

    def roll_back(self) -> None:
        self.postgres.runner(self.back, self.rollback()).run()
        assert self.postgres.record().state is MigrationState.ROLLED_BACK

    def state(self) -> list[Any]:
        return state(self.postgres.see, self.namespace)


def migration(
    postgres: Any,
    forward: str,
    back: str,
    kinds: tuple[str, str] = ("sql", "sql"),
    batch: dict[str, Any] | None = None,
) -> Migration:
    """Make one on a database that holds something of everything."""
    postgres.see.execute(BEFORE.replace("%%", "%"))
    made = [
        postgres.operation(text, kind, **((batch or BATCH) if kind == "sql_batch" else {}))
        for text, kind in zip((forward, back), kinds, strict=True)
    ]
    return Migration(postgres, *made)


ALTERED = (
    "DROP VIEW s.v;"
    "ALTER TABLE t ADD extra jsonb DEFAULT '[1]', ALTER n TYPE bigint, ALTER n DROP NOT NULL;"
    "CREATE TABLE s.new (id int GENERATED ALWAYS AS IDENTITY, t_id int REFERENCES t);"
    "INSERT INTO s.new (t_id) SELECT id FROM t WHERE n = 1 ORDER BY id;"
    "CREATE OR REPLACE FUNCTION s.f(int) RETURNS int LANGUAGE sql AS 'SELECT $1 - 1';"
    "UPDATE t SET a = upper(a); COMMENT ON TABLE t IS 'new';"
    "CREATE VIEW s.v AS SELECT id FROM t"
)
PUT_BACK = (
    "DROP VIEW s.v; DROP TABLE s.new;"
    "ALTER TABLE t DROP extra, ALTER n TYPE int, ALTER n SET NOT NULL;"
    "CREATE OR REPLACE FUNCTION s.f(int) RETURNS int LANGUAGE sql AS 'SELECT $1 + 1';"
    "UPDATE t SET a = lower(a); COMMENT ON TABLE t IS 'what is to be there again';"
    "CREATE VIEW s.v AS SELECT id, n FROM t WHERE n > 3"
)
REBUILT = (
    "CREATE INDEX CONCURRENTLY i ON t (n, a); DROP INDEX CONCURRENTLY t_a;"
    "ALTER TYPE s.mood RENAME VALUE 'ok' TO 'fine'; BEGIN; DROP VIEW s.v; COMMIT"
)
BUILT_AGAIN = (
    "SET search_path = s, public;"
    "BEGIN; CREATE VIEW s.v AS SELECT id, n FROM t WHERE n > 3; COMMIT;"
    "ALTER TYPE mood RENAME VALUE 'fine' TO 'ok'; DROP INDEX CONCURRENTLY i;"
    "CREATE INDEX CONCURRENTLY t_a ON t (lower(a)) WHERE n > 2"
)
UP = "CREATE INDEX CONCURRENTLY i ON t (n); UPDATE t SET n = n + 1; DROP INDEX CONCURRENTLY t_a"
DOWN = (
    "CREATE INDEX CONCURRENTLY t_a ON t (lower(a)) WHERE n > 2;"
    "UPDATE t SET n = n - 1; DROP INDEX CONCURRENTLY i"
)
BETWEEN = " WHERE id BETWEEN :batch_start AND :batch_end"


@pytest.mark.parametrize(
    ("kinds", "forward", "back"),
    [
        (("sql", "sql"), ALTERED, PUT_BACK),
        (("sql", STATEMENTS), ALTERED, PUT_BACK),
        ((STATEMENTS, STATEMENTS), REBUILT, BUILT_AGAIN),
        (
            ("sql_batch", "sql_batch"),
            "UPDATE t SET n = n + 1" + BETWEEN,
            "UPDATE t SET n = n - 1" + BETWEEN,
        ),
        (("sql", "sql_batch"), "UPDATE t SET n = n * 3", "UPDATE t SET n = n / 3" + BETWEEN),
        (("sql_batch", "sql"), "UPDATE t SET n = -n" + BETWEEN, "UPDATE t SET n = -n"),
        (("sql", "sql"), "ANALYZE t", "-- there is nothing to undo"),
    ],
)
def test_there_and_back_again(
    postgres: Any, kinds: tuple[str, str], forward: str, back: str
) -> None:
    """Schema and rows are as they were; applied again they are as after the first time."""
    one = migration(postgres, forward, back, kinds)
    before = one.state()
    one.apply()
    applied = one.state()
    assert (applied != before) is ("nothing" not in back)
    one.roll_back()
    assert one.state() == before
    one.apply()
    assert one.state() == applied
    assert [each.number for each in postgres.record().operations] == [1]
    one.roll_back()
    assert one.state() == before
    events = f"SELECT event FROM public.{one.namespace}_history WHERE event <> 'taken' ORDER BY id"
    assert [event for (event,) in postgres.rows(events)] == [
        "run",
        *["applied", "rolled_back", "applied", "rolled_back"],
    ]


def test_what_cannot_be_undone_says_what_would_help(postgres: Any) -> None:
    """Each kind, but not a file that does nothing."""
    batch = postgres.operation("UPDATE t SET n = 1" + BETWEEN, "sql_batch", table="t", key="id")
    for operation in (
        postgres.operation("CREATE TABLE t ()"),
        postgres.operation("CREATE INDEX CONCURRENTLY i ON t (a)", STATEMENTS),
        batch,
    ):
        problem = operation.irreversible()
        assert problem is not None
        assert "rollback file" in problem.what
        assert "NNN_name_rollback.sql" in problem.todo
    for kind in ("sql", STATEMENTS):
        assert postgres.operation("-- nothing", kind).irreversible() is None


def test_what_has_done_nothing_is_undone(postgres: Any) -> None:
    """A file of comments needs no rollback file."""
    one = migration(postgres, "-- nothing", "-- nothing")
    one.apply()
    back = replace(one.assignment, direction=Direction.BACK, outcome=MigrationState.ROLLED_BACK)
    assert postgres.runner(one.forward, back).run().over
    assert postgres.record().state is MigrationState.ROLLED_BACK


# --- crashes ---


def lose(
    postgres: Any, monkeypatch: pytest.MonkeyPatch, where: str, times: int = 2
) -> list[dict[str, Any]]:
    """Kill the server process at checkpoints: "before" the write, or "behind" the COMMIT.

    Returns the processes that were killed, as they are.
    """
    journal, killed = postgres.database.journal, []
    checkpoint, commit = journal._checkpoint, journal._session.commit
    written: list[bool] = []

    def kill() -> None:
        if len(killed) < times:
            killed.append(postgres.database.resources())
            postgres.see.execute("SELECT pg_terminate_backend(%(pid)s, 5000)", killed[-1])
            msg = "the answer is lost"
            raise psycopg.OperationalError(msg)

    def write(*arguments: Any) -> None:
        if where == "before":
            kill()
        checkpoint(*arguments)
        written.append(True)

    def commits() -> None:
        commit()
        if written and where == "behind":
            written.clear()
            kill()

    monkeypatch.setattr(journal, "_checkpoint", write)
    monkeypatch.setattr(journal._session, "commit", commits)
    return killed


@pytest.mark.parametrize("where", ["before", "behind"])
@pytest.mark.parametrize(
    ("kind", "forward", "back"),
    [
        ("sql", "UPDATE t SET n = n + 1", "UPDATE t SET n = n - 1"),
        ("sql_batch", "UPDATE t SET n = n + 1" + BETWEEN, "UPDATE t SET n = n - 1" + BETWEEN),
        (STATEMENTS, UP, DOWN),
    ],
)
def test_killed_between_batch_and_checkpoint(
    postgres: Any,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    kind: str,
    forward: str,
    back: str,
) -> None:
    """Whether the checkpoint or only its answer is lost: each batch counts once, both ways."""
    one = migration(postgres, forward, back, (kind, kind))
    before = one.state()
    for go, changed in ((one.apply, 300), (one.roll_back, 0)):
        with monkeypatch.context() as patch:
            killed = lose(postgres, patch, where)
            go()
        assert killed
        assert postgres.value("SELECT sum(n - (id % 7)) FROM t") == changed
        assert (one.state() == before) is (changed == 0)


def test_the_way_back_stops_and_goes_on(postgres: Any) -> None:
    """Between any two of its statements, each time in another session, with its settings."""
    one = migration(
        postgres,
        "CREATE TABLE s.one (a int); CREATE TABLE s.two (a int); CREATE TABLE s.three (a int)",
        "SET search_path = s; DROP TABLE one; DROP TABLE two; DROP TABLE three;"
        "SELECT set_config('search_path', 'nowhere', false)",
        ("sql", STATEMENTS),
    )
    before = one.state()
    one.apply()
    stops = 0
    done = f"SELECT sum(done)::int FROM public.{one.namespace}_operations"

    def stop() -> None:
        nonlocal stops
        if (postgres.value(f"{done} WHERE number = 2") or 0) > stops:
            stops += 1
            postgres.database.close()
            raise Stopped

    postgres.control.on_check = stop
    while True:
        try:
            one.roll_back()
        except Stopped:
            assert postgres.record().state is MigrationState.ROLLING_BACK
            continue
        break
    assert stops == 4
    assert one.state() == before


def test_a_rollback_file_that_fails(postgres: Any) -> None:
    """It has changed nothing, so the migration is applied; what failed is in the history."""
    one = migration(postgres, "UPDATE t SET n = n + 1", "UPDATE t SET n = n - 1; SELECT nothing")
    before = one.state()
    one.apply()
    applied = one.state()
    with pytest.raises(MigrationFailed, match=r"line 1 of the \.sql file"):
        one.roll_back()
    record = postgres.record()
    assert (record.state, record.error) == (MigrationState.APPLIED, None)
    assert [(each.number, each.state) for each in record.operations] == [(1, OperationState.DONE)]
    told = postgres.database.journal.history(1)[0]
    assert (told.event, told.number) == ("failed", 2)
    assert 'column "nothing" does not exist' in (told.error or "")
    assert one.state() == applied
    forward = postgres.in_its_run(one.assignment)
    done = postgres.database.journal.take(forward, postgres.owner(), counted=True)
    assert done.state is OperationState.DONE
    one.back = postgres.operation("UPDATE t SET n = n - 1")
    one.roll_back()
    assert one.state() == before


def test_a_failure_in_the_middle_keeps_what_is_done(postgres: Any) -> None:
    """Of a rollback file of several steps: it goes on where it was, and does none twice."""
    one = migration(
        postgres,
        "UPDATE t SET n = n + 2",
        "UPDATE t SET n = n - 1; UPDATE t SET n = n - 1 WHERE check_it(); SELECT 1",
        ("sql", STATEMENTS),
    )
    before = one.state()
    one.apply()
    with pytest.raises(MigrationFailed, match="check_it"):
        one.roll_back()
    assert postgres.record().state is MigrationState.FAILED
    forward = postgres.in_its_run(one.assignment)
    with pytest.raises(Outdated, match="rollback file has begun"):
        postgres.database.journal.take(forward, postgres.owner(), counted=True)
    assert postgres.value("SELECT sum(n - (id % 7)) FROM t") == 300
    assert postgres.record().operations[1].done == 1
    postgres.see.execute("CREATE FUNCTION check_it() RETURNS bool LANGUAGE sql AS 'SELECT true'")
    one.roll_back()
    postgres.see.execute("DROP FUNCTION check_it")
    assert one.state() == before


def test_a_last_operation_that_was_never_begun(postgres: Any) -> None:
    """There is nothing of it to undo, and with that the way back is at its end."""
    journal = postgres.database.journal
    first = replace(postgres.assignment("sql"), count=2)
    taken = journal.take(first, postgres.owner(), counted=True)
    journal.step(taken, lambda _session: Step(cursor=None, finished=True), transactional=True)
    last = replace(
        first,
        key=first.key.model_copy(update={"number": 2}),
        direction=Direction.BACK,
        outcome=MigrationState.FAILED,
        until=2,
    )
    for _ in range(2):
        assert journal.take(last, postgres.owner(), counted=True).over
        record = postgres.record()
        assert (record.state, len(record.operations)) == (MigrationState.FAILED, 1)
        assert record.finished is not None


# --- fences, both ways ---


def owner(database: PostgresqlDatabase, postgres: Any) -> Any:
    """Whoever works with that database."""
    return postgres.owner().model_copy(update={"resources": database.resources()})


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("late", ["forward", "file", "back"])
def test_who_is_late_commits_nothing(
    postgres: Any, other: PostgresqlDatabase, level: str, late: str
) -> None:
    """Neither way under the other one's fence, at every isolation level (Law 8)."""
    one = migration(postgres, "SELECT 1", "SELECT 1")
    journal = postgres.database.journal
    forward = one.assignment
    back = replace(forward, direction=Direction.BACK, outcome=MigrationState.ROLLED_BACK)
    file = one.rollback()
    if late == "file":
        one.apply()
        postgres.in_its_run(file)
    first, second = {"forward": (forward, back), "file": (file, file), "back": (back, back)}[late]
    if late == "back":
        journal.take(forward, postgres.owner(), counted=True)
    mine = journal.take(first, postgres.owner(), counted=True)
    before = one.state()

    def batch(session: Any) -> Step:
        session.run(f"SET TRANSACTION ISOLATION LEVEL {level}; DELETE FROM t".encode())
        other.journal.take(second, owner(other, postgres), counted=True)
        return Step(cursor=None, finished=True)

    with pytest.raises(FenceLost):
        journal.step(mine, batch, transactional=True)
    assert one.state() == before
    assert postgres.record().state is MigrationState.ROLLING_BACK


def test_a_new_run_fences_out_the_way_back(postgres: Any, other: PostgresqlDatabase) -> None:
    """And what the file has begun keeps the way forward shut."""
    one = migration(
        postgres, "SELECT 1", "DELETE FROM t WHERE n = 1; SELECT 1", ("sql", STATEMENTS)
    )
    one.apply()
    journal = postgres.database.journal
    back = postgres.in_its_run(one.rollback())
    mine = journal.take(back, postgres.owner(), counted=True)
    opening = Opening(run="next", direction=Direction.FORWARD, plan="p", by="me")
    generation = other.journal.begin(opening, postgres.generation)
    before = one.state()

    def batch(session: Any) -> Step:
        session.run(b"DELETE FROM t")
        return Step(cursor=None, finished=True)

    with pytest.raises(FenceLost):
        journal.step(mine, batch, transactional=True)
    assert one.state() == before
    for direction, outcome in (
        (Direction.FORWARD, MigrationState.APPLIED),
        (Direction.BACK, MigrationState.ROLLED_BACK),
    ):
        wrong = replace(one.assignment, generation=generation, direction=direction, outcome=outcome)
        with pytest.raises(Outdated):
            other.journal.take(wrong, owner(other, postgres), counted=True)
    one.assignment = replace(one.assignment, generation=generation)
    one.roll_back()


@pytest.mark.parametrize("first", ["forward", "back"])
def test_both_ways_at_once(postgres: Any, other: PostgresqlDatabase, first: str) -> None:
    """Operation 2 is taken at the moment in which operation 1 begins to be undone: one gives way.

    The first one is held at its last write; the second one has looked by then (FAULTS 7).
    """
    journal = postgres.database.journal
    forward = replace(postgres.assignment("sql"), count=2)
    second = replace(forward, key=forward.key.model_copy(update={"number": 2}))
    back = replace(forward, direction=Direction.BACK, outcome=MigrationState.ROLLED_BACK)
    taken = journal.take(forward, postgres.owner(), counted=True)
    journal.step(taken, lambda _session: Step(cursor=None, finished=True), transactional=True)
    migrations = f"public.{postgres.settings.namespace}_migrations"
    order = [(journal, second), (other.journal, back)]
    if first == "back":
        order.reverse()
    me = postgres.owner()
    with psycopg.connect(postgres.url) as holder:
        holder.execute(f"SELECT FROM {migrations} FOR UPDATE")
        results = []
        for number, (one, assignment) in enumerate(order, start=1):
            one._session.connection.execute("SET lock_timeout = 0")

            def take(one: Any = one, assignment: Assignment = assignment) -> Any:
                return one.take(assignment, me, counted=True)

            results.append(postgres.in_background(take))
            postgres.wait_for(
                f"SELECT count(*) >= {number} FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                " AND datname = current_database()"
            )
    assert not results[0].result(15).over
    with pytest.raises(Outdated):
        results[1].result(15)
    states = f"SELECT state FROM public.{postgres.settings.namespace}_operations ORDER BY number"
    found = [state for (state,) in postgres.rows(states)]
    assert found == (["done", "running"] if first == "forward" else ["undoing", "pending"])


def test_two_begin_to_undo_at_once(postgres: Any, other: PostgresqlDatabase) -> None:
    """They get different fences, and how far it had come is kept from the first of them."""
    journal = postgres.database.journal
    forward = postgres.assignment("sql")
    back = replace(forward, direction=Direction.BACK, outcome=MigrationState.ROLLED_BACK)
    taken = journal.take(forward, postgres.owner(), counted=True)
    journal.step(taken, lambda _session: Step(cursor="far", done=7), transactional=True)
    start = threading.Barrier(2)

    def take(database: PostgresqlDatabase) -> Any:
        database.resources()
        start.wait(15)
        return database.journal.take(back, postgres.owner(), counted=True)

    futures = [
        postgres.in_background(lambda each=each: take(each)) for each in (postgres.database, other)
    ]
    found = sorted((future.result(15) for future in futures), key=lambda each: each.fence)
    assert [each.fence for each in found] == [taken.fence + 1, taken.fence + 2]
    assert [(each.walked.cursor, each.walked.done) for each in found] == [("far", 7)] * 2
    assert [each.cursor for each in found] == [None, None]
