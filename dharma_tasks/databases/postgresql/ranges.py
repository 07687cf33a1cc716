"""The ranges of an operation in PostgreSQL's journal: see `dharma_tasks.journal.Ranges`."""

from __future__ import annotations

from dharma_tasks.databases.postgresql import rows
from dharma_tasks.databases.postgresql.ledger import PostgresqlLedger
from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import Outdated
from dharma_tasks.journal import Ranges
from dharma_tasks.migration import Key
from dharma_tasks.records import MigrationState, Owner, RangeRecord
from dharma_tasks.work import Assignment, Step, Taken


class PostgresqlRanges(PostgresqlLedger, Ranges[Session]):
    """A table of their own, beside the operations."""

    def __init__(self, session: Session, namespace: str) -> None:
        """Use `session`, the one that the work is done with."""
        super().__init__(session, namespace, "ranges")

    def of(self, key: Key) -> list[RangeRecord]:
        """Read those that the operation has now."""
        found = self._session.journal(self._sql.RANGES, **rows.of(key))
        return [rows.range_record(row) for row in found]

    def owners(self, key: Key) -> list[Owner]:
        """Who has one of the operation's."""
        self._session.clean()
        found = self._session.journal(self._sql.RANGE_OWNERS, **rows.of(key))
        return [Owner.model_validate(owner) for (owner,) in found]

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Take over, in one statement, in a clean session."""
        self._session.clean()
        values = rows.taking(assignment, owner, counted=counted, error=error)
        found = self._session.journal(self._sql.TAKE_RANGE, **values)
        # None, and then a row: another worker has finished it while this one waited for it.
        found = found or self._session.journal(self._sql.TAKE_RANGE, **values)
        if not found:
            msg = f"{assignment.key}: its operation is not at work any more"
            raise Outdated(msg)
        *row, recorded = found[0]
        return rows.taken(assignment, row, self._session.identity).within(recorded)

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:  # noqa: ARG002
        """Write the lasting error; whoever has the operation lets it fail."""
        self._write(self._sql.FAIL_RANGE, taken, error=rows.storable(error))

    def _checkpoint(self, taken: Taken, step: Step) -> None:
        statement = self._sql.FINISH_RANGE if step.finished else self._sql.STEP
        self._stepped(statement, taken, step)
