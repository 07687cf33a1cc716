"""What the journal's operations and their ranges share: writes that only the owner may do."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable

from psycopg import errors

from dharma_tasks.databases.postgresql import rows, statements
from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import FenceLost
from dharma_tasks.journal import Ledger
from dharma_tasks.migration import Key
from dharma_tasks.records import Owner
from dharma_tasks.work import Assignment, Step, Taken

__all__ = ["ConnectionChanged", "PostgresqlLedger", "Statements"]


class ConnectionChanged(errors.ConnectionException):
    """The connection is not the one with which the work was taken over.

    The journal names another server process as the owner's, which a successor could not end;
    so the work is taken over anew (Law 4).
    """


class Statements:
    """The statements about `rows` with the names of one journal, each made on first use."""

    def __init__(self, namespace: str, rows: str) -> None:
        self.namespace = namespace
        self._rows = rows

    def __getattr__(self, name: str) -> str:
        text = statements.rendered(getattr(statements, name), self.namespace, self._rows)
        setattr(self, name, text)
        return text


class PostgresqlLedger(Ledger[Session]):
    """See `dharma_tasks.journal.Ledger` for what each method promises."""

    def __init__(self, session: Session, namespace: str, rows: str) -> None:
        """Use `session`, the one that the work is done with; `rows` is a table of the journal."""
        self._session = session
        self._sql = Statements(namespace, rows)

    @abstractmethod
    def _checkpoint(self, taken: Taken, step: Step) -> None:
        """Write what a batch has come to, in the open transaction."""

    def owner(self, key: Key) -> Owner | None:
        """Who has it; None after an orderly stop, a failure or its end."""
        self._session.clean()
        found = self._session.journal(self._sql.OWNER, **rows.of(key))
        return Owner.model_validate(found[0][0]) if found else None

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

    def note(self, taken: Taken, error: str | None) -> None:
        """Write a passing error or an orderly stop, and give the attempt back."""
        self._write(self._sql.NOTE, taken, error=rows.storable(error) if error else None)

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
        values |= {**rows.values(taken.assignment), "fence": taken.fence}
        try:
            if self._session.journal(statement, **values):
                return
        except errors.SerializationFailure as error:
            # A file with an isolation level of its own does not see the newer fence but fails.
            self._session.rollback()
            if self._found(taken.assignment)[0] == taken.fence:
                raise
            raise _lost(taken) from error
        raise _lost(taken)

    def _stepped(self, statement: str, taken: Taken, step: Step) -> None:
        """A fenced write with the values of a step."""
        cursor = json.dumps(step.cursor)
        self._fenced(statement, taken, cursor=cursor, done=step.done, total=step.total)

    def _found(self, assignment: Assignment) -> tuple[int | None, str | None]:
        """Fence and state, as they are now."""
        found = self._session.journal(self._sql.FENCE, **rows.of(assignment.key))
        return found[0] if found else (None, None)

    def _same_connection(self, taken: Taken) -> None:
        if self._session.identity != taken.mark:
            msg = "the connection was made anew after the operation was taken over"
            raise ConnectionChanged(msg)


def _lost(taken: Taken) -> FenceLost:
    return FenceLost(f"{taken.assignment.key}: fence {taken.fence} is not the newest any more")
