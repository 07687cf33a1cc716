"""What a person declares, as the journal's documents have it: see `Journal.declare`."""

from __future__ import annotations

from dataclasses import dataclass

from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from dharma_tasks.databases.mongodb import records
from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.journal import Amendment, Declaration
from dharma_tasks.records import MigrationState, OperationState

_NOBODY: Document = {"owner": None}
_ENDED: Document = {"seconds": None, "error": None}


@dataclass(frozen=True)
class Declaring:
    """The writes of a declaration, in `session`'s transaction. Harmless when repeated."""

    migrations: Collection[Document]
    operations: Collection[Document]
    ranges: Collection[Document]
    history: Collection[Document]
    session: ClientSession | None

    def all_of(self, declaration: Declaration) -> None:
        """Write each amendment, with its entry in the history."""
        for amendment in declaration.amendments:
            match amendment.state:
                case MigrationState.APPLIED:
                    self._applied(declaration, amendment)
                case MigrationState.ROLLED_BACK:
                    self._reset({"_id.version": amendment.version})
                    over = {**_ENDED, "finished": records.now()}
                    self._amend(amendment, _stated(declaration, amendment) | over)
                case None:
                    self._amend(amendment, _named(amendment))
                case _:
                    self._again(amendment)
                    going = {**_ENDED, "finished": None}
                    self._amend(amendment, _stated(declaration, amendment) | going)
            self._tell(declaration, amendment)

    def _applied(self, declaration: Declaration, amendment: Amendment) -> None:
        of_it = {"_id.version": amendment.version}
        rolled_back = {"_id": amendment.version, "state": MigrationState.ROLLED_BACK}
        kinds = enumerate(amendment.types, start=1)
        same = [{"_id.number": number, "type": kind} for number, kind in kinds]
        stay = {"state": OperationState.DONE, "$or": same}
        if self.migrations.find_one(rolled_back, {"_id": True}, session=self.session):
            self._reset(of_it)
        else:
            self._reset(of_it | {"$nor": [stay]})
        done = [
            each["_id"]["number"]
            for each in self.operations.find(of_it | stay, {"_id": True}, session=self.session)
        ]
        for number, kind in enumerate(amendment.types, start=1):
            if number not in done:
                self._done(declaration, amendment, number, kind)
        applied = _named(amendment) | _stated(declaration, amendment) | _ENDED
        finished = records.now()
        self.migrations.update_one(
            {"_id": amendment.version},
            {
                "$set": applied | {"finished": finished, "turned": None},
                "$setOnInsert": {"started": finished},
            },
            upsert=True,
            session=self.session,
        )

    def _done(self, declaration: Declaration, amendment: Amendment, number: int, kind: str) -> None:
        written: Document = {
            **records.NOTHING,
            **_NOBODY,
            "type": kind,
            "run": declaration.run,
            "state": OperationState.DONE,
            "undo": {"irreversible": declaration.reason},
            "updated": records.now(),
        }
        self.operations.update_one(
            {"_id": {"version": amendment.version, "number": number}},
            {"$set": written, "$inc": {"fence": 1}},
            upsert=True,
            session=self.session,
        )

    def _reset(self, matching: Document) -> None:
        nothing = records.NOTHING | _NOBODY | {"updated": records.now()}
        self.operations.update_many(matching, {"$set": nothing}, session=self.session)

    def _again(self, amendment: Amendment) -> None:
        of_it = {"_id.version": amendment.version}
        failed = of_it | {"state": OperationState.FAILED}
        running = {"$set": {"state": OperationState.RUNNING}}
        open_ = of_it | {"state": {"$in": records.AT_WORK}}
        fresh = _NOBODY | {"attempts": 0, "error": None, "updated": records.now()}
        for rows in (self.operations, self.ranges):
            rows.update_many(failed, running, session=self.session)
            rows.update_many(open_, {"$set": fresh}, session=self.session)

    def _amend(self, amendment: Amendment, fields: Document) -> None:
        self.migrations.update_one(
            {"_id": amendment.version}, {"$set": fields}, session=self.session
        )

    def _tell(self, declaration: Declaration, amendment: Amendment) -> None:
        entry = {
            "at": records.now(),
            "event": declaration.event,
            "run": declaration.run,
            "by": declaration.by,
            "version": amendment.version,
            "detail": declaration.reason,
            **_named(amendment),
        }
        once = {"_id": f"{declaration.run} {amendment.version}"}
        self.history.update_one(once, {"$setOnInsert": entry}, upsert=True, session=self.session)


def _named(amendment: Amendment) -> Document:
    return {"name": amendment.name, "checksum": amendment.checksum}


def _stated(declaration: Declaration, amendment: Amendment) -> Document:
    return {"state": amendment.state, "run": declaration.run, "by": declaration.by}
