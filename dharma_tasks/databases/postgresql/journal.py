"""The journal in PostgreSQL: four tables in the schema `public`, written in one statement each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable

from psycopg import errors
from psycopg.rows import TupleRow

from dharma_tasks.databases.postgresql import declaring, rows
from dharma_tasks.databases.postgresql.ledger import PostgresqlLedger
from dharma_tasks.databases.postgresql.ranges import PostgresqlRanges
from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.journal import Declaration, Entry, Journal, Opening, confirm_schema
from dharma_tasks.migration import Key
from dharma_tasks.records import (
    SCHEMA_VERSION,
    Head,
    HistoryRecord,
    MigrationState,
    OperationRecord,
    OperationState,
    Owner,
    Survey,
)
from dharma_tasks.work import Assignment, Earlier, Prepared, Step, Taken


class PostgresqlJournal(PostgresqlLedger, Journal[Session]):
    """See `dharma_tasks.journal.Journal` for what each method promises."""

    def __init__(self, session: Session, namespace: str, free: Callable[[Owner], None]) -> None:
        """Use `session`, the one that the work is done with."""
        super().__init__(session, namespace, "operations")
        self._ranges = PostgresqlRanges(session, namespace)
        self._free = free
        self._is_current = False

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
                operations.setdefault(version, []).append(rows.operation(row))
            found = session.journal(self._sql.MIGRATIONS)
            migrations = [rows.migration(row, operations.get(row[0], [])) for row in found]
        finally:
            session.rollback()
        head = rows.head(heads[0]) if heads else None
        return Survey(database="postgresql", head=head, migrations=migrations)

    def head(self) -> Head | None:
        """Read the one row of its table."""
        found = self._if_there(self._sql.HEAD)
        return rows.head(found[0]) if found else None

    def state(self, version: str) -> MigrationState:
        """Read it from the migration's row."""
        found = self._if_there(self._sql.STATE, version=version)
        return MigrationState(found[0][0]) if found else MigrationState.PENDING

    def _if_there(self, statement: str, **values: object) -> list[TupleRow]:
        """Read in a clean session; there is nothing before the first run."""
        self._session.clean()
        if not self._session.query(self._sql.EXISTS)[0][0]:
            return []
        return self._session.journal(statement, **values)

    def history(self, limit: int) -> list[HistoryRecord]:
        """Read the last entries in the order in which they were made."""
        fields = HistoryRecord.model_fields
        found = self._if_there(self._sql.HISTORY, limit=limit)
        return [HistoryRecord(**dict(zip(fields, row, strict=True))) for row in found[::-1]]

    @property
    def ranges(self) -> PostgresqlRanges:
        """On the same connection."""
        return self._ranges

    def earlier(self, key: Key) -> list[Earlier]:
        """Read the records of those before it."""
        found = self._session.journal(self._sql.EARLIER, **rows.of(key))
        return [Earlier(undo or {}, cursor) for undo, cursor in found]

    # --- a run ---

    def begin(self, opening: Opening, expected: int) -> int:
        """Open a run; a worker that hangs in the middle of a checkpoint is ended first."""
        self._session.clean()
        try:
            return self._begin(opening, expected)
        except errors.LockNotAvailable:
            self._session.rollback()
            self._free_all()
            return self._begin(opening, expected)
        finally:
            self._session.rollback()

    def _begin(self, opening: Opening, expected: int) -> int:
        session = self._session
        generation = self._locked(opening.run, expected)
        if generation is None:
            ((generation,),) = session.journal(
                self._sql.OPEN,
                run=opening.run,
                by=opening.by,
                direction=opening.direction.value,
                plan=opening.plan,
                detail=f"{opening.detail} {opening.plan}",
            )
        session.commit()
        return generation

    def _locked(self, run: str, expected: int) -> int | None:
        """Begin a transaction that has the head. Returns the generation where it is `run`'s."""
        session, statement = self._session, self._sql
        session.begin()
        self._make()
        at_run, generation, schema = session.journal(statement.HEAD_LOCKED)[0]
        confirm_schema("postgresql", schema)
        if at_run == run:
            return int(generation)
        if generation != expected:
            msg = f"the journal is at generation {generation} of run {at_run}, not {expected}"
            raise FenceLost(msg)
        return None

    def _free_all(self) -> None:
        for (owner,) in self._session.journal(self._sql.OWNERS):
            self._free(Owner.model_validate(owner))

    def _make(self) -> None:
        """Make the tables where they are missing, and add what those of an older release lack."""
        session, statement = self._session, self._sql
        if not session.query(statement.CURRENT)[0][0]:
            session.connection.execute(statement.LOCK)
            session.connection.execute(statement.TABLES)
            values = {"schema": SCHEMA_VERSION, "identity": str(uuid.uuid4())}
            session.connection.execute(statement.FIRST_HEAD, values)

    def _upgrade(self) -> None:
        """For a run that a worker of an older release has begun: its journal may be older too."""
        if self._is_current or not self._session.query(self._sql.EXISTS)[0][0]:
            return
        self._session.begin()
        try:
            self._make()
            self._session.commit()
        finally:
            self._session.rollback()
        self._is_current = True

    def declare(self, declaration: Declaration, expected: int) -> None:
        """Write it in one transaction; what workers have open on the server is ended first."""
        self._session.clean()
        head = self.survey().head
        if head is not None and head.run != declaration.run and head.generation == expected:
            confirm_schema("postgresql", head.schema_version)
            self._free_all()
        try:
            if self._locked(declaration.run, expected) is None:
                declaring.write(self._session, self._sql.namespace, declaration)
            self._session.commit()
        finally:
            self._session.rollback()

    # --- an operation ---

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Take over, in one statement, in a clean session."""
        self._session.clean()
        values = rows.taking(assignment, owner, counted=counted, error=error)
        self._upgrade()
        statement = self._sql.TAKE_BACK if assignment.back else self._sql.TAKE
        # None, and then a row: another worker has finished it while this one waited for it.
        found = self._session.journal(statement, **values)
        found = found or self._session.journal(statement, **values)
        if not found:
            raise Outdated(f"{assignment.key}: {self._why_not(assignment)}")
        return rows.taken(assignment, found[0], self._session.identity)

    def _why_not(self, assignment: Assignment) -> str:
        _, schema, run, generation, *_ = self._session.journal(self._sql.HEAD)[0]
        confirm_schema("postgresql", schema)
        if (generation, run) != (assignment.generation, assignment.run):
            wanted = f"{assignment.generation} of run {assignment.run}"
            return f"the journal is at generation {generation} of run {run}, not {wanted}"
        if assignment.back:
            return "the operation after it is not undone"
        state = self._found(assignment)[1]
        if state == OperationState.UNDOING:
            return "it is being undone"
        if state == OperationState.DONE:
            return "it is done, and its rollback file has begun, which must come to its end"
        if assignment.key.number == 1:
            return "this run has rolled the migration back"
        return "the operation before it is not done, or this run has undone it"

    def prepare(self, taken: Taken, prepared: Prepared) -> Taken:
        """Write what was found, and the ranges in the same transaction."""
        self._same_connection(taken)
        session = self._session
        undo, cursor = json.dumps(prepared.recorded), json.dumps(prepared.cursor)
        session.rollback()
        try:
            session.begin()
            self._fenced(self._sql.PREPARE, taken, undo=undo, cursor=cursor, total=prepared.total)
            if prepared.ranges:
                values = rows.values(taken.assignment) | {"ranges": rows.ranges(prepared)}
                session.connection.execute(self._sql.MAKE_RANGES, values)
            session.commit()
        finally:
            session.rollback()
        return taken.prepared(prepared)

    def _checkpoint(self, taken: Taken, step: Step) -> None:
        if step.finished and taken.assignment.back:
            self._fenced(self._sql.UNDONE, taken)
        else:
            self._stepped(self._sql.FINISH if step.finished else self._sql.STEP, taken, step)

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        """Write the lasting error."""
        said = rows.storable(error)
        if state is MigrationState.APPLIED:
            self._write(self._sql.SPARE, taken, error=said)
        else:
            shown = taken.assignment.failure(said)
            self._write(self._sql.FAIL, taken, error=said, shown=shown, state=state.value)

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
                "by": rows.storable(entry.by),
                "version": entry.key.version,
                "number": entry.key.number,
                "detail": rows.storable(entry.detail),
            }
            session.connection.execute(self._sql.AUDIT, values)
            session.commit()
        finally:
            session.rollback()
