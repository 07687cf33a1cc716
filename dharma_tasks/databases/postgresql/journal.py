"""The journal in PostgreSQL: four tables in the schema `public`, written in one statement each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

from psycopg import errors
from psycopg.rows import TupleRow

from dharma_tasks.databases.postgresql import statements
from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.journal import (
    SCHEMA_VERSION,
    Assignment,
    Direction,
    Entry,
    Head,
    HistoryRecord,
    Journal,
    MigrationRecord,
    MigrationState,
    Opening,
    OperationRecord,
    OperationState,
    Owner,
    Prepared,
    Step,
    Survey,
    Taken,
)
from dharma_tasks.migration import JSON, Key


class ConnectionChanged(errors.ConnectionException):
    """The connection is not the one with which the operation was taken over.

    The journal names another server process as the owner's, which a successor could not end;
    so the operation is taken over anew (Law 4).
    """


class PostgresqlJournal(Journal[Session]):
    """See `dharma_tasks.journal.Journal` for what each method promises."""

    def __init__(self, session: Session, namespace: str, free: Callable[[Owner], None]) -> None:
        """Use `session`, the one that the work is done with."""
        self._session = session
        self._sql = _Statements(namespace)
        self._free = free

    # --- reading ---

    def survey(self) -> Survey:
        """Read the head, every migration and every operation, as of one moment."""
        session = self._session
        session.clean()
        if not session.query(self._sql.EXISTS)[0][0]:
            return Survey(database="postgresql")
        session.connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            heads = session.journal(self._sql.HEAD)
            operations: dict[str, list[OperationRecord]] = {}
            for version, *row in session.journal(self._sql.OPERATIONS):
                operations.setdefault(version, []).append(_operation(row))
            rows = session.journal(self._sql.MIGRATIONS)
            migrations = [_migration(row, operations.get(row[0], [])) for row in rows]
        finally:
            session.rollback()
        head = _head(heads[0]) if heads else None
        return Survey(database="postgresql", head=head, migrations=migrations)

    def history(self, limit: int) -> list[HistoryRecord]:
        """Read the last entries in the order in which they were made."""
        self._session.clean()
        if not self._session.query(self._sql.EXISTS)[0][0]:
            return []
        fields = HistoryRecord.model_fields
        rows = self._session.journal(self._sql.HISTORY, limit=limit)
        return [HistoryRecord(**dict(zip(fields, row, strict=False))) for row in rows[::-1]]

    def owner(self, key: Key) -> Owner | None:
        """Who has the operation; None after an orderly stop, a failure or its end."""
        self._session.clean()
        rows = self._session.journal(self._sql.OWNER, version=key.version, number=key.number)
        return Owner.model_validate(rows[0][0]) if rows else None

    # --- a run ---

    def begin(self, opening: Opening, expected: int) -> int:
        """Open a run; a worker that hangs in the middle of a checkpoint is ended first."""
        self._session.clean()
        try:
            return self._begin(opening, expected)
        except errors.LockNotAvailable:
            self._session.rollback()
            for (owner,) in self._session.journal(self._sql.OWNERS):
                self._free(Owner.model_validate(owner))
            return self._begin(opening, expected)
        finally:
            self._session.rollback()

    def _begin(self, opening: Opening, expected: int) -> int:
        session, statement = self._session, self._sql
        session.begin()
        if not session.query(statement.EXISTS)[0][0]:
            session.connection.execute(statement.LOCK)
            session.connection.execute(statement.TABLES)
            values = {"schema": SCHEMA_VERSION, "identity": str(uuid.uuid4())}
            session.connection.execute(statement.FIRST_HEAD, values)
        run, generation = session.journal(statement.HEAD_LOCKED)[0]
        if run == opening.run:
            return int(generation)
        if generation != expected:
            msg = f"the journal is at generation {generation} of run {run}, not {expected}"
            raise FenceLost(msg)
        ((opened,),) = session.journal(
            statement.OPEN,
            run=opening.run,
            by=opening.by,
            direction=opening.direction.value,
            plan=opening.plan,
            detail=f"{opening.direction.value} {opening.plan}",
        )
        session.commit()
        return int(opened)

    # --- an operation ---

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Take over, in one round trip, in a clean session."""
        self._session.clean()
        values = {
            **_values(assignment),
            "generation": assignment.generation,
            "name": assignment.name,
            "checksum": assignment.checksum,
            "count": assignment.count,
            "type": assignment.type,
            "worker": owner.worker,
            "owner": owner.model_dump_json(),
            "counted": counted,
            "error": _storable(error) if error else None,
        }
        # None, and then a row: another worker has finished it while this one waited for it.
        rows = self._session.journal(self._sql.TAKE, **values)
        rows = rows or self._session.journal(self._sql.TAKE, **values)
        if not rows:
            raise Outdated(self._why_not(assignment))
        return _taken(assignment, rows[0], self._session.identity)

    def _why_not(self, assignment: Assignment) -> str:
        run, generation = self._session.journal(self._sql.HEAD)[0][2:4]
        if generation != assignment.generation:
            return (
                f"{assignment.key}: the journal is at generation {generation} of run {run}, "
                f"not {assignment.generation}"
            )
        return f"{assignment.key}: the operation before it is not done"

    def prepare(self, taken: Taken, prepared: Prepared) -> Taken:
        """Write what was found."""
        self._same_connection(taken)
        undo = json.dumps(prepared.undo)
        self._write(self._sql.PREPARE, taken, undo=undo, total=prepared.total)
        return taken.prepared(prepared)

    def step(self, taken: Taken, batch: Callable[[Session], Step], *, transactional: bool) -> Taken:
        """Run a batch and its checkpoint, in one transaction where `transactional`."""
        self._same_connection(taken)
        session = self._session
        try:
            if transactional:
                session.begin()
            step = batch(session)
            if not transactional:
                session.begin()
            self._checkpoint(taken, step)
            session.commit()
        finally:
            session.rollback()
        return taken.stepped(step)

    def _checkpoint(self, taken: Taken, step: Step) -> None:
        values = {"cursor": json.dumps(step.cursor), "done": step.done, "total": step.total}
        if step.finished:
            self._fenced(self._sql.FINISH, taken, last=taken.assignment.last, **values)
        else:
            self._fenced(self._sql.STEP, taken, **values)

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        """Write the lasting error."""
        self._write(self._sql.FAIL, taken, error=_storable(error), state=state.value)

    def note(self, taken: Taken, error: str | None) -> None:
        """Write a passing error or an orderly stop, and give the attempt back."""
        self._write(self._sql.NOTE, taken, error=_storable(error) if error else None)

    def audit(self, entry: Entry) -> None:
        """Add an entry to the history, where none says the same."""
        session = self._session
        session.clean()
        try:
            session.begin()
            session.connection.execute(self._sql.LOCK)
            values = {
                "event": entry.event,
                "run": entry.run,
                "by": _storable(entry.by),
                "version": entry.key.version,
                "number": entry.key.number,
                "detail": _storable(entry.detail),
            }
            session.connection.execute(self._sql.AUDIT, values)
            session.commit()
        finally:
            session.rollback()

    # --- writing ---

    def _write(self, statement: str, taken: Taken, **values: object) -> None:
        """A fenced write in a transaction of its own."""
        session = self._session
        session.rollback()
        try:
            session.begin()
            self._fenced(statement, taken, **values)
            session.commit()
        finally:
            session.rollback()

    def _fenced(self, statement: str, taken: Taken, **values: object) -> None:
        """The write that only the owner may do, at the end of the open transaction."""
        self._session.become_ours()
        values |= {**_values(taken.assignment), "fence": taken.fence}
        try:
            if self._session.journal(statement, **values):
                return
        except errors.SerializationFailure as error:
            # A file with an isolation level of its own does not see the newer fence but fails.
            self._session.rollback()
            if self._fence(taken) == taken.fence:
                raise
            raise _lost(taken) from error
        raise _lost(taken)

    def _fence(self, taken: Taken) -> int | None:
        key = taken.assignment.key
        rows = self._session.journal(self._sql.FENCE, version=key.version, number=key.number)
        return rows[0][0] if rows else None

    def _same_connection(self, taken: Taken) -> None:
        if self._session.identity != taken.mark:
            msg = "the connection was made anew after the operation was taken over"
            raise ConnectionChanged(msg)


class _Statements:
    """The statements with the names of one journal, each made on first use."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace

    def __getattr__(self, name: str) -> str:
        text = statements.rendered(getattr(statements, name), self._namespace)
        setattr(self, name, text)
        return text


def _lost(taken: Taken) -> FenceLost:
    return FenceLost(f"{taken.assignment.key}: fence {taken.fence} is not the newest any more")


def _values(assignment: Assignment) -> dict[str, Any]:
    return {
        "version": assignment.key.version,
        "number": assignment.key.number,
        "run": assignment.run,
        "by": assignment.by,
    }


def _storable(text: str) -> str:
    """PostgreSQL's text holds no NUL characters."""
    return text.replace("\x00", "\ufffd")


def _head(row: TupleRow) -> Head:
    identity, schema_version, run, generation, direction, plan = row
    return Head(
        identity=identity,
        schema_version=schema_version,
        run=run,
        generation=generation,
        direction=Direction(direction),
        plan=plan,
    )


_MIGRATION = (
    "version",
    "name",
    "state",
    "checksum",
    "run",
    "by",
    "started",
    "finished",
    "seconds",
    "error",
)
_OPERATION = (
    "number",
    "type",
    "state",
    "done",
    "total",
    "attempts",
    "error",
    "worker",
    "updated",
)


def _migration(row: TupleRow, operations: list[OperationRecord]) -> MigrationRecord:
    values = dict(zip(_MIGRATION, row, strict=True))
    return MigrationRecord.model_validate({**values, "operations": operations})


def _operation(row: list[Any]) -> OperationRecord:
    return OperationRecord.model_validate(dict(zip(_OPERATION, row, strict=True)))


def _taken(assignment: Assignment, row: TupleRow, mark: JSON) -> Taken:
    fence, state, cursor, undo, done, total, attempts, former = row
    return Taken(
        assignment=assignment,
        fence=fence,
        state=OperationState(state),
        cursor=cursor,
        undo=undo,
        done=done,
        total=total,
        attempts=attempts,
        former=Owner.model_validate(former) if former else None,
        mark=mark,
    )
