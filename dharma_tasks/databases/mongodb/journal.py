"""The journal in MongoDB: see `dharma_tasks/journal.py` for what it promises.

Every write is a multi-document transaction on the one session whose id is journalled, and is
committed to a majority. A standalone server has no transactions: there each document is
still written atomically under its condition, the fence's and the cursor's first.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial

from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, OperationFailure

from dharma_tasks.databases.mongodb import kept, records
from dharma_tasks.databases.mongodb.connection import Connection, Document, Handle
from dharma_tasks.databases.mongodb.declaring import Declaring
from dharma_tasks.databases.mongodb.ledger import MongodbLedger, Session
from dharma_tasks.databases.mongodb.ranges import MongodbRanges
from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.journal import Declaration, Entry, Journal, Opening, Pruned, confirm_schema
from dharma_tasks.migration import Key
from dharma_tasks.records import (
    SCHEMA_VERSION,
    Head,
    HistoryRecord,
    MigrationState,
    OperationState,
    Owner,
    Survey,
)
from dharma_tasks.work import Assignment, Earlier, Prepared, Step, Taken

_NAMESPACE_EXISTS = 48
_OPEN = {"state": {"$ne": OperationState.DONE}}


class MongodbJournal(MongodbLedger, Journal[Handle]):
    """Six collections in the database that is migrated."""

    def __init__(
        self, connection: Connection, namespace: str, free: Callable[[Owner], None]
    ) -> None:
        """Remember where they are. `free` ends what an owner left open on the server."""
        super().__init__(connection, namespace)
        self._ranges = MongodbRanges(connection, namespace)
        self._free = free

    # -- reading -------------------------------------------------------------------------

    def survey(self) -> Survey:
        """Read the head first: planning is refused later if it has moved on since."""
        head = self.head()
        operations = [self._explained(each) for each in self._operations.find()]
        found = records.migrations(self._migrations.find(), operations)
        return Survey(database="mongodb", head=head, migrations=found)

    def head(self) -> Head | None:
        """Read the one document of its collection."""
        found = self._head.find_one({"_id": records.HEAD})
        return records.head(found) if found else None

    def state(self, version: str) -> MigrationState:
        """Read it from the migration's document."""
        found = self._migrations.find_one({"_id": version}, {"state": True})
        return MigrationState(found["state"]) if found else MigrationState.PENDING

    def history(self, limit: int) -> list[HistoryRecord]:
        """Read the last entries; those of one millisecond in the order of their ids."""
        found = self._history.find().sort([("at", -1), ("_id", -1)]).limit(limit)
        return [records.told(document) for document in found][::-1]

    def _explained(self, operation: Document) -> Document:
        return operation | {"undo": kept.explained(operation, self._connection.cipher)}

    @property
    def ranges(self) -> MongodbRanges:
        """In the same session."""
        return self._ranges

    def earlier(self, key: Key) -> list[Earlier]:
        """Read the records of those before it."""
        before = {"_id.version": key.version, "_id.number": {"$lt": key.number}}
        done = {**before, "state": OperationState.DONE}
        found = self._operations.find(done).sort("_id.number")
        return [Earlier(each.get("undo") or {}, each.get("cursor")) for each in found]

    # -- a run ---------------------------------------------------------------------------

    def begin(self, opening: Opening, expected: int) -> int:
        """Compare and set the head; see `Journal.begin`."""
        self._make_way(opening.run, expected)
        written = {"direction": opening.direction, "plan": opening.plan}

        def write(session: Session) -> int:
            found = self._raise(opening.run, written, expected, session)
            if found is not None:
                return found
            entry = records.begun(opening, expected + 1)
            self._history.insert_one(entry, session=session)
            return expected + 1

        return self._connection.atomically(write)

    def _make_way(self, run: str, expected: int) -> None:
        """Make the collections, and free what the owners hold that are to lose their fence."""
        self._create()
        head = self._head.find_one({"_id": records.HEAD}) or {}
        confirm_schema("mongodb", head.get("schema_version", SCHEMA_VERSION))
        if head.get("run") != run and head.get("generation", 0) == expected:
            self._free_all()

    def _create(self) -> None:
        """Make the collections beforehand: older servers make none inside a transaction."""
        database = self._connection.database
        names = [f"{self._namespace}_{part}" for part in records.COLLECTIONS]
        found = database.list_collection_names(filter={"name": {"$in": names}})
        for name in names:
            if name not in found:
                self._create_one(name)

    def _create_one(self, name: str) -> None:
        try:
            self._connection.database.create_collection(name, check_exists=False)
        except OperationFailure as error:
            if error.code != _NAMESPACE_EXISTS:  # that is: another worker made it just now
                raise

    def _free_all(self) -> None:
        """End the transactions of the owners that lose their fence: they would block us."""
        for owner in [*self.held({}), *self._ranges.held({})]:
            self._free(owner)

    def _raise(self, run: str, fields: Document, expected: int, session: Session) -> int | None:
        """Raise the generation and every open fence; or return it where it is `run`'s already."""
        head = self._head.find_one({"_id": records.HEAD}, session=session)
        found = int(head["generation"]) if head else 0
        confirm_schema("mongodb", head["schema_version"] if head else SCHEMA_VERSION)
        if head and head["run"] == run:
            return found
        if found != expected:
            msg = f"the journal is at generation {found}, not {expected}"
            raise FenceLost(msg)
        written = {"run": run, "generation": expected + 1, "schema_version": SCHEMA_VERSION}
        written |= fields
        if head is None:
            identity = {"_id": records.HEAD, "identity": uuid.uuid4().hex}
            self._head.insert_one(identity | written, session=session)
        else:
            same = {"_id": records.HEAD, "generation": expected}
            _matched(self._head.update_one(same, {"$set": written}, session=session).matched_count)
        for rows in (self._operations, self._ranges.rows):
            rows.update_many(_OPEN, {"$inc": {"fence": 1}}, session=session)
        return None

    def declare(self, declaration: Declaration, expected: int) -> None:
        """Write it in one transaction; without any it is written again when it is repeated."""
        self._make_way(declaration.run, expected)

        def write(session: Session) -> None:
            found = self._raise(declaration.run, {"plan": None}, expected, session)
            if found is None or session is None:
                rows = self._migrations, self._operations, self._ranges.rows, self._history
                Declaring(*rows, session).all_of(declaration)

        self._connection.atomically(write)

    # -- an operation --------------------------------------------------------------------

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        """Raise the fence and read what it guards in one write; see `Journal.take`."""

        def write(session: Session) -> Taken:
            return self._take(assignment, owner, session, counted=counted, error=error)

        if assignment.outcome is MigrationState.APPLIED:
            kept.remove_old(self._kept, self._migrations, assignment.key.version)
        return self._connection.atomically(write)

    def _take(
        self,
        assignment: Assignment,
        owner: Owner,
        session: Session,
        *,
        counted: bool,
        error: str | None,
    ) -> Taken:
        self._confirm_run(assignment, session)
        if not assignment.back:
            self._start_migration(assignment, session)
        found = self._operations.find_one({"_id": records.name(assignment.key)}, session=session)
        if assignment.back:
            taken = self._before_back(assignment, found, session)
        else:
            taken = self._before_forward(assignment, found, session)
        if taken is not None:
            return taken
        taking = records.taking(assignment, owner, counted=counted, error=error)
        document = self._seize(assignment, found, taking, session)
        who = {"number": assignment.key.number, "worker": owner.worker}
        self._tell(assignment, "taken", session, fence=document["fence"], **who)
        return records.taken(assignment, self._explained(document))

    def _before_forward(
        self, assignment: Assignment, found: Document | None, session: Session
    ) -> Taken | None:
        """What goes before the taking; or what `take` returns where there is nothing to take."""
        if found and found["state"] == OperationState.UNDOING:
            msg = f"{assignment.key} is being undone"
            raise Outdated(msg)
        if found and found["state"] == OperationState.PENDING and found["run"] == assignment.run:
            msg = f"this run has undone {assignment.key}: who begins it was frozen meanwhile"
            raise Outdated(msg)
        self._confirm_order(assignment, session)
        if found is None or found["state"] != OperationState.DONE:
            self._go_on(assignment, session)
            return None
        if assignment.last:
            self._confirm_direction(assignment, session)
            self._end(assignment, session)
        return replace(records.taken(assignment, found), former=None)

    def _before_back(
        self, assignment: Assignment, found: Document | None, session: Session
    ) -> Taken | None:
        """What goes before the taking; or what `take` returns where there is nothing to undo."""
        if found is None or found["state"] == OperationState.PENDING:
            if assignment.last:
                self._end(assignment, session)
            return records.untaken(assignment, found)
        self._confirm_undone(assignment, session)
        self._ranges.fence_out(assignment.key, session)
        self._go_on(assignment, session)
        return None

    def _start_migration(self, assignment: Assignment, session: Session) -> None:
        """Make the migration's record where it begins, or begins again."""
        version = assignment.key.version
        found = self._migrations.find_one({"_id": version}, session=session)
        if found is not None and not _again(assignment, found):
            return
        if found is not None and found["run"] == assignment.run:
            msg = f"this run has rolled {version} back: who begins it anew was frozen meanwhile"
            raise Outdated(msg)
        if found is not None:
            self._operations.update_many({"_id.version": version}, records.ANEW, session=session)
        record = records.started(assignment)
        self._migrations.replace_one({"_id": version}, record, upsert=True, session=session)
        self._tell(assignment, "started", session)

    def _go_on(self, assignment: Assignment, session: Session) -> None:
        version = {"_id": assignment.key.version}
        found = self._migrations.find_one(version, session=session) or {}
        again = records.resumed(assignment, found)
        self._migrations.update_one(version, {"$set": again}, session=session)

    def _confirm_order(self, assignment: Assignment, session: Session) -> None:
        key = assignment.key
        before = [records.name(key.model_copy(update={"number": n})) for n in range(1, key.number)]
        done = {"_id": {"$in": before}, "state": OperationState.DONE}
        if self._operations.count_documents(done, session=session) < len(before):
            msg = f"an operation before {key} is not done"
            raise Outdated(msg)

    def _confirm_undone(self, assignment: Assignment, session: Session) -> None:
        key = assignment.key
        after = {"_id.version": key.version, "_id.number": {"$gt": key.number}}
        left = after | {"state": {"$ne": OperationState.PENDING}}
        if self._operations.find_one(left, {"_id": True}, session=session):
            msg = f"an operation after {key} is not undone"
            raise Outdated(msg)

    def _confirm_direction(self, assignment: Assignment, session: Session) -> None:
        """Where all is done and yet it goes another way, a rollback file has begun."""
        ways = [assignment.going, assignment.outcome]
        version = {"_id": assignment.key.version, "state": {"$in": ways}}
        if not self._migrations.find_one(version, {"_id": True}, session=session):
            msg = f"{assignment.key} is done, but the migration's rollback file has begun"
            raise Outdated(msg)

    def prepare(self, taken: Taken, prepared: Prepared) -> Taken:
        """Write what was found, under the fence, and the ranges in the same transaction."""
        found = {"undo": prepared.recorded, "total": prepared.total}
        if not prepared.ranges:
            self._write(taken, found, None)
            return taken.prepared(prepared)

        def write(session: Session) -> None:
            self._write(taken, found | {"cursor": prepared.cursor}, session)
            self._ranges.make(taken.assignment.key, prepared.ranges, session)

        self._connection.atomically(write)
        return taken.prepared(prepared)

    def _check_in(self, taken: Taken, step: Step, session: Session) -> None:
        self._write(taken, records.checkpoint(taken, step), session)
        if step.finished:
            done = taken.stepped(step).done
            what = "undone" if taken.assignment.back else "done"
            number = taken.assignment.key.number
            self._tell(taken.assignment, what, session, number=number, done=done)
            if taken.assignment.last:
                self._end(taken.assignment, session)

    def fail(self, taken: Taken, error: str, state: MigrationState) -> None:
        """Write the lasting error and how the migration ended, under the fence."""
        assignment = taken.assignment
        version = {"_id": assignment.key.version}
        applied = state is MigrationState.APPLIED
        failed = records.NOTHING | records.LEFT if applied else records.failed(taken, error)

        def write(session: Session) -> None:
            self._write(taken, failed, session, fence=taken.fence + 1)
            self._ranges.fence_out(assignment.key, session)
            record = self._migrations.find_one(version, session=session)
            told = {"number": assignment.key.number, "error": error, **records.which(record)}
            if record:
                first = record["error"] or assignment.failure(error)
                ended = records.ended(record, state, first)
                told["seconds"] = ended["seconds"]
                written = ended | records.SPARED if applied else ended
                self._migrations.update_one(version, {"$set": written}, session=session)
            event = MigrationState.FAILED if applied else state
            self._tell(assignment, event.value, session, **told)

        self._connection.atomically(write)

    def prune(self, before: datetime, *, run: str, by: str) -> list[Pruned]:
        """Remove what was kept before `before`; see `Journal.prune`.

        What is irreversible by it says so, and the history tells of it, before anything is
        removed; cut off after that, the next time goes on.
        """
        pruned = []
        for (version, number), names in kept.old(self._kept, before).items():
            gone = Pruned(version, number, len(names))
            entry = records.pruned(gone, run, by)
            if self._connection.atomically(partial(self._give_up, entry)):
                kept.remove_all(self._kept, names)
                pruned.append(gone)
        return pruned

    def _give_up(self, entry: Document, session: Session) -> bool:
        name = {"version": entry["version"], "number": entry["number"]}
        given_up = kept.give_up(self._migrations, self._operations, name, session)
        if given_up:
            record = self._migrations.find_one({"_id": entry["version"]}, session=session)
            self._history.insert_one(entry | records.which(record), session=session)
        return given_up

    def audit(self, entry: Entry) -> None:
        """Add an entry to the history; its `_id` is made from what it says."""
        with suppress(DuplicateKeyError):
            self._history.insert_one(records.entry(entry))

    # -- the writes they share -----------------------------------------------------------

    def _end(self, assignment: Assignment, session: Session) -> None:
        """Bring the migration to its outcome, unless it is there already."""
        outcome = assignment.outcome
        open_ = {"_id": assignment.key.version, "state": {"$ne": outcome}}
        record = self._migrations.find_one(open_, session=session)
        if record:
            error = None if outcome is MigrationState.APPLIED else record["error"]
            ended = records.ended(record, outcome, error)
            self._migrations.update_one(open_, {"$set": ended}, session=session)
            told = {**records.which(record), "seconds": ended["seconds"]}
            self._tell(assignment, outcome.value, session, **told)

    def _tell(self, assignment: Assignment, what: str, session: Session, **more: object) -> None:
        self._history.insert_one(records.event(assignment, what, **more), session=session)

    # -- the collections -----------------------------------------------------------------

    @property
    def rows(self) -> Collection[Document]:
        """The operations."""
        return self._collection("operations")

    @property
    def _operations(self) -> Collection[Document]:
        return self.rows

    @property
    def _migrations(self) -> Collection[Document]:
        return self._collection("migrations")

    @property
    def _kept(self) -> Collection[Document]:
        return self._collection("undo")


def _again(assignment: Assignment, migration: Document) -> bool:
    """Whether a migration that was rolled back is to be applied again, from its start."""
    forward = assignment.outcome is MigrationState.APPLIED
    return forward and bool(migration["state"] == MigrationState.ROLLED_BACK)


def _matched(count: int) -> None:
    if not count:
        msg = "the journal's generation was raised by another run"
        raise FenceLost(msg)
