"""What the journal's operations and their ranges share: writes that only the owner may do."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from contextlib import suppress

from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError

from dharma_tasks.databases.mongodb import records
from dharma_tasks.databases.mongodb.connection import Connection, Document, Handle
from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.journal import Ledger, confirm_schema
from dharma_tasks.migration import Key
from dharma_tasks.records import SCHEMA_VERSION, Owner
from dharma_tasks.work import Assignment, Step, Taken

__all__ = ["MongodbLedger", "Session"]

Session = ClientSession | None

_HELD = {"state": {"$in": records.AT_WORK}, "owner.resources": {"$nin": [{}, None]}}


class MongodbLedger(Ledger[Handle]):
    """See `dharma_tasks.journal.Ledger` for what each method promises."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        """Remember where the journal is."""
        self._connection = connection
        self._namespace = namespace

    @property
    @abstractmethod
    def rows(self) -> Collection[Document]:
        """Where the records are that are taken over."""

    @abstractmethod
    def _check_in(self, taken: Taken, step: Step, session: Session) -> None:
        """Write what a batch has come to, in its transaction."""

    def owner(self, key: Key) -> Owner | None:
        """Who has it now; nobody once it was left in order."""
        return next(iter(self.held({"_id": records.name(key)})), None)

    def held(self, matching: Document) -> list[Owner]:
        """Who has those that match, and may have something open on the server."""
        found = self.rows.find(matching | _HELD, {"owner": True})
        return [Owner.model_validate(each["owner"]) for each in found]

    def step(self, taken: Taken, batch: Callable[[Handle], Step], *, transactional: bool) -> Taken:
        """Run a batch and write its checkpoint, in one transaction if it can; see `Ledger.step`.

        The checkpoint is written last: while it is not, a successor's take-over does not
        have to wait for this transaction.
        """

        def both(session: Session) -> Step:
            step = batch(self._connection.handle(session))
            self._check_in(taken, step, session)
            return step

        try:
            if transactional:
                step = self._connection.once(both)
            else:
                step = batch(self._connection.handle())
                self._connection.atomically(lambda session: self._check_in(taken, step, session))
        except OperationFailure as error:
            self._explain(taken, error)
            raise
        return taken.stepped(step)

    def note(self, taken: Taken, error: str | None) -> None:
        """Write a passing error or an orderly stop; the attempt is taken back."""
        attempts = max(taken.attempts - 1, 0)
        left = records.LEFT if error is None else {}
        noted = {"error": error, "attempts": attempts, "updated": records.now(), **left}
        self._write(taken, noted, None)

    def _confirm_run(self, assignment: Assignment, session: Session) -> None:
        """By a write: a read could be of a moment before the head moved on (Law 4)."""
        run, generation = assignment.run, assignment.generation
        ours = {"_id": records.HEAD, "generation": generation, "run": run}
        known = {"schema_version": {"$lte": SCHEMA_VERSION}}
        taken = {"$inc": {"taken": 1}}
        if not self._head.update_one(ours | known, taken, session=session).matched_count:
            head = self._head.find_one(ours, session=session)
            confirm_schema("mongodb", head["schema_version"] if head else SCHEMA_VERSION)
            msg = f"the journal is not at generation {generation} of run {run}"
            raise Outdated(msg)

    def _seize(
        self,
        assignment: Assignment,
        found: Document | None,
        taking: list[Document],
        session: Session,
    ) -> Document:
        """Raise the fence and read what it guards in one write; `found` is what was there."""
        name = {"_id": records.name(assignment.key)}
        document = self.rows.find_one_and_update(
            name | {"fence": found["fence"]} if found else name,
            taking,
            upsert=found is None,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        if document is None:  # without transactions another one has taken it just now
            msg = f"{assignment.key}: another worker has taken it meanwhile"
            raise FenceLost(msg)
        return document

    def _write(
        self, taken: Taken, fields: Document, session: Session, *, fence: int | None = None
    ) -> None:
        """Write under the fence; a new `fence` ends this worker's own right."""
        written = fields if fence is None else fields | {"fence": fence}
        result = self.rows.update_one(_ours(taken), {"$set": written}, session=session)
        if not result.matched_count:
            raise _lost(taken)

    def _explain(self, taken: Taken, error: OperationFailure) -> None:
        """A transaction that met a successor's fence ends as a write conflict: say what it was."""
        with suppress(PyMongoError):
            if not self.rows.find_one(_ours(taken), {"_id": True}):
                raise _lost(taken) from error

    def _tell(self, assignment: Assignment, what: str, session: Session, **more: object) -> None:
        self._history.insert_one(records.event(assignment, what, **more), session=session)

    @property
    def _head(self) -> Collection[Document]:
        return self._collection("head")

    @property
    def _history(self) -> Collection[Document]:
        return self._collection("history")

    def _collection(self, part: str) -> Collection[Document]:
        return self._connection.database[f"{self._namespace}_{part}"]


def _ours(taken: Taken) -> Document:
    """What was taken as long as it is this worker's, and not ended."""
    return {
        "_id": records.name(taken.assignment.key),
        "fence": taken.fence,
        "state": taken.assignment.at_work,
    }


def _lost(taken: Taken) -> FenceLost:
    msg = f"{taken.assignment.key}: the journal has a newer fence than {taken.fence}"
    return FenceLost(msg)
