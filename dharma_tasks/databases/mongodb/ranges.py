"""The ranges of an operation in MongoDB's journal: see `dharma_tasks.journal.Ranges`."""

from __future__ import annotations

from collections.abc import Sequence

from pymongo.collection import Collection

from dharma_tasks.databases.mongodb import kept, records
from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.databases.mongodb.ledger import MongodbLedger, Session
from dharma_tasks.errors import Outdated
from dharma_tasks.journal import Ranges
from dharma_tasks.migration import Key
from dharma_tasks.records import MigrationState, OperationState, Owner, RangeRecord
from dharma_tasks.work import Assignment, Range, Step, Taken


class MongodbRanges(MongodbLedger, Ranges[Handle]):
    """A collection of their own, beside the operations. Only where there are transactions."""

    @property
    def rows(self) -> Collection[Document]:
        """The ranges."""
        return self._collection("ranges")

    def of(self, key: Key) -> list[RangeRecord]:
        """Read those that the operation has now."""
        operation = self._operations.find_one({"_id": records.name(key)}, {"undo.ranges": True})
        count = ((operation or {}).get("undo") or {}).get("ranges", 0)
        now = {**_of(key), "_id.range": {"$lte": count}}
        return [records.range_record(each) for each in self.rows.find(now).sort("_id.range")]

    def owners(self, key: Key) -> list[Owner]:
        """Who has one of the operation's."""
        return self.held(_of(key))

    def make(self, key: Key, ranges: Sequence[Range], session: Session) -> None:
        """Begin with these. A fence goes on rising: see `records.ANEW`."""
        for number, each in enumerate(ranges, start=1):
            self.rows.update_one(
                {"_id": records.name(key.of_range(number))},
                {"$set": records.made(each), "$inc": {"fence": 1}},
                upsert=True,
                session=session,
            )

    def fence_out(self, key: Key, session: Session) -> None:
        """Raise the fence of each: no worker commits anything in them any more (FAULTS 22).

        Whoever takes the operation on takes those on too that have failed.
        """
        self.rows.update_many(_of(key), {"$inc": {"fence": 1}}, session=session)
        failed = _of(key) | {"state": OperationState.FAILED}
        again = {"state": OperationState.RUNNING, "attempts": 0}
        self.rows.update_many(failed, {"$set": again}, session=session)

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Raise the fence and read what it guards in one transaction."""

        def write(session: Session) -> Taken:
            self._confirm_run(assignment, session)
            recorded = self._at_work(assignment, session)
            name = {"_id": records.name(assignment.key)}
            found = self.rows.find_one(name, session=session)
            if found is None or assignment.key.range > recorded["ranges"]:
                raise _over(assignment)
            if found["state"] != OperationState.DONE:
                taking = records.taking(assignment, owner, counted=counted, error=error)
                found = self._seize(assignment, found, taking, session)
                who = f"{owner.worker}, range {assignment.key.range}"
                told = {"number": assignment.key.number, "worker": who}
                self._tell(assignment, "taken", session, fence=found["fence"], **told)
            taken = records.taken(assignment, found)
            return taken.within(recorded)

        return self._connection.atomically(write)

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:  # noqa: ARG002
        """Write the lasting error; whoever has the operation lets it fail."""
        self._write(taken, records.failed(taken, error), None, fence=taken.fence + 1)

    def _at_work(self, assignment: Assignment, session: Session) -> Document:
        """What the operation has found. By a write, as in `_confirm_run`: it may fail just now."""
        key = assignment.key.model_copy(update={"range": None})
        found = self._operations.find_one_and_update(
            {"_id": records.name(key), "state": OperationState.RUNNING},
            {"$inc": {"joined": 1}},
            {"undo": True, "cursor": True},
            session=session,
        )
        if found is None or "ranges" not in (found["undo"] or {}):
            raise _over(assignment)
        return kept.explained(found, self._connection.cipher) or {}

    def _check_in(self, taken: Taken, step: Step, session: Session) -> None:
        self._write(taken, records.checkpoint(taken, step), session)

    @property
    def _operations(self) -> Collection[Document]:
        return self._collection("operations")


def _of(key: Key) -> Document:
    return {"_id.version": key.version, "_id.number": key.number}


def _over(assignment: Assignment) -> Outdated:
    return Outdated(f"{assignment.key}: its operation is not at work any more")
