"""How the server is reached: two clients, one session, transactions."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from threading import Thread
from typing import Any, TypeVar

import pymongo
from bson import Binary
from bson.codec_options import DatetimeConversion
from pymongo import MongoClient, ReadPreference
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConfigurationError, InvalidURI, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from dharma_tasks.encryption import Cipher, cipher
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.settings import Settings
from dharma_tasks.urls import misread

Document = dict[str, Any]
ResultT = TypeVar("ResultT")

SOCKET_SECONDS = 30
"""How long one batch, or any short command, may leave its connection silent."""

_SELECTION_SECONDS = 5
_OLDEST = 9
_COLLECTION_UUID = 17
"""Wire versions: of MongoDB 4.4, which makes collections in transactions, and of 6.0."""
_MAJORITY = WriteConcern("majority", wtimeout=20_000)
_LOCAL = ReadConcern("local")
"""The only one with which a transaction may make collections. A transaction sees one moment all
the same, and what it saw is durable when it is committed to a majority, because it writes."""
_COMMIT_MS = 20_000
_URL_TODO = "Write mongodb://USER:PASSWORD@HOST:PORT/NAME, with % codes where needed."
_APPLICATION = "dharma-"
"""Begins the name by which `$currentOp` knows a worker's clients."""
_JOURNAL_SECONDS = 10
"""How long a write of the journal alone may take, its repetitions included."""


@dataclass(frozen=True)
class Handle:
    """What an operation works with.

    `session` is the batch's transaction, and None outside of one and where the server has
    none (`transactions` is False). `patient` runs a command that may take hours, outside of any
    transaction and without a socket timeout; what watches the statement gives the signs of life.
    `newest` says whether commands take a `collectionUUID` (MongoDB 6.0 and newer). `kept` is
    where operations keep what their way back needs (see `kept.py`). `nearby` is the same database
    as the URL's `readPreference` wants it read, for what may be out of date: outside of any
    transaction, which reads from the primary alone. None where that is the primary too. `cipher` is
    for what is kept; None where it is kept as it is.
    """

    database: Database[Document]
    nearby: Database[Document] | None
    kept: Collection[Document]
    patient: Callable[[Document], Document]
    session: ClientSession | None
    transactions: bool
    newest: bool
    cipher: Cipher | None

    def command(self, command: Document) -> Document:
        """Run a command of the database, in the batch's transaction if there is one."""
        options = self.database.codec_options
        return self.database.command(command, session=self.session, codec_options=options)


class Connection:
    """The clients of one `MongodbDatabase`; they connect on first use."""

    def __init__(self, settings: Settings) -> None:
        """Remember where the server is."""
        self._settings = settings
        self.application = f"{_APPLICATION}{uuid.uuid4().hex[:12]}"
        """Names our clients in `$currentOp`."""
        self._session: ClientSession | None = None
        self._waiting: Future[Document] = Future()
        """For the answer to the last command of any length."""

    @cached_property
    def client(self) -> MongoClient[Document]:
        """For everything that is short."""
        return self._connect(socketTimeoutMS=SOCKET_SECONDS * 1000)

    @cached_property
    def patient(self) -> MongoClient[Document]:
        """For commands of any length, and for the watcher's questions meanwhile.

        A peer that is gone without a word is noticed by the driver's TCP keep-alive.
        """
        return self._connect(socketTimeoutMS=None)

    @cached_property
    def cipher(self) -> Cipher | None:
        """Of the settings' keys."""
        return cipher(self._settings)

    @cached_property
    def name(self) -> str:
        """The database's name: the settings', or the one in the URL."""
        if self._settings.mongodb_database:
            return self._settings.mongodb_database
        try:
            return self.client.get_default_database().name
        except ConfigurationError:
            raise _refused(
                "the URL does not name the database",
                "Write its name after the host, mongodb://host:27017/NAME, or set "
                "DHARMA_MONGODB_DATABASE",
            ) from None

    @property
    def database(self) -> Database[Document]:
        """The database that is migrated; the journal is in it."""
        return self.client[self.name]

    @property
    def _nearby(self) -> Database[Document] | None:
        if self._preference == ReadPreference.PRIMARY:
            return None
        return self.client.get_database(
            self.name, read_preference=self._preference, read_concern=_LOCAL
        )

    @cached_property
    def _hello(self) -> Document:
        hello = self.client.admin.command("hello")
        if hello["maxWireVersion"] < _OLDEST:
            raise _refused("the server is older than MongoDB 4.4", "Upgrade it.")
        return hello

    @property
    def transactions(self) -> bool:
        """Whether the server has multi-document transactions: a standalone one has not."""
        return "setName" in self._hello or self._hello.get("msg") == "isdbgrid"

    def whereabouts(self) -> str:
        """See `Database.whereabouts`. Each mongos is one of many: there it is the cluster's id."""
        hello = self.client.admin.command("hello")
        if hello.get("msg") == "isdbgrid":
            (found,) = self.client["config"]["version"].find()
            return f"{self.name} of the cluster {found['clusterId']}"
        server = hello.get("me", "the server")
        return f"{self.name} of {server}, process {hello['topologyVersion']['processId']}"

    @property
    def session(self) -> ClientSession:
        """The one session whose transactions change anything; its id is journalled (FAULTS 6)."""
        if self._session is None:
            self._session = self.client.start_session()
        return self._session

    def handle(self, session: ClientSession | None = None) -> Handle:
        """The driver's objects for an operation."""
        return Handle(
            database=self.database,
            nearby=self._nearby if self.transactions else None,
            kept=self.database[f"{self._settings.namespace}_undo"],
            patient=self._patiently,
            session=session,
            transactions=self.transactions,
            newest=self._hello["maxWireVersion"] >= _COLLECTION_UUID,
            cipher=self.cipher,
        )

    def once(self, work: Callable[[ClientSession | None], ResultT]) -> ResultT:
        """Run `work` in one transaction and commit it to a majority; not repeated here.

        Where the server has no transactions, `work` gets None.
        """
        if not self.transactions:
            return work(None)
        session = self.session
        with session.start_transaction(
            _LOCAL, _MAJORITY, ReadPreference.PRIMARY, max_commit_time_ms=_COMMIT_MS
        ):
            return work(session)

    def atomically(self, work: Callable[[ClientSession | None], ResultT]) -> ResultT:
        """As `once`, but repeated while others write the same records: for the journal alone."""
        if not self.transactions:
            return work(None)
        try:
            with pymongo.timeout(_JOURNAL_SECONDS):
                return self.session.with_transaction(
                    work, _LOCAL, _MAJORITY, ReadPreference.PRIMARY
                )
        except PyMongoError as error:
            if error.timeout:
                self._end_abandoned()
            raise

    def _end_abandoned(self) -> None:
        """End transactions of workers that have not gone on with them for a lease's time.

        One that is frozen, or killed, in the middle of taking something over is in no record yet,
        and its locks keep everybody else from the journal, until the server ends it: by default
        after a minute (manual, "transactionLifetimeLimitSeconds").
        """
        idle = self._settings.lease_seconds * 1_000_000
        matching = {
            "appName": {"$regex": f"^{_APPLICATION}"},
            "transaction.timeInactiveMicros": {"$gte": idle},
        }
        with suppress(PyMongoError):  # the timeout itself is what the caller must see
            ids = [each["lsid"]["id"] for each in operations(self.client, matching)]
            if ids:
                sessions = [{"id": Binary.from_uuid(each)} for each in ids]
                self.client.admin.command({"killSessions": sessions})

    def _patiently(self, command: Document) -> Document:
        """Run the command in a thread of its own, so that whoever waits for it can leave."""
        database, answer = self.patient[self.name], Future[Document]()

        def run() -> None:
            with suppress(InvalidStateError):  # nobody waits any more
                try:
                    options = database.codec_options
                    answer.set_result(database.command(command, codec_options=options))
                except Exception as error:  # noqa: BLE001 - whoever waits raises it
                    answer.set_exception(error)

        self._waiting = answer
        Thread(target=run, name="patient", daemon=True).start()
        return answer.result()

    def leave(self) -> None:
        """Let nobody wait for a command of any length any more; the server goes on with it."""
        with suppress(InvalidStateError):
            self._waiting.set_exception(PyMongoError("left to the server"))

    def forget(self) -> None:
        """Drop the session, whose state on the server is not known.

        It is not given back to the driver's pool: a successor may still kill it by its id.
        """
        self._session = None

    def close(self) -> None:
        """Close both clients; used again, they connect again."""
        self.forget()
        for name in ("client", "patient"):
            client = self.__dict__.pop(name, None)
            if client is not None:
                client.close()

    @cached_property
    def _preference(self) -> Any:
        """What the URL says; it was read before, so nothing is wrong with it."""
        with MongoClient[Document](self._url, connect=False) as client:
            return client.read_preference

    @property
    def _url(self) -> str:
        url = self._settings.mongodb_url
        if url is None:
            raise _refused("is not set", "Set it, with the database's name in it.")
        if misread(url.get_secret_value()):
            raise _refused("is not a MongoDB URL", _URL_TODO)
        return url.get_secret_value()

    def _connect(self, **timeouts: Any) -> MongoClient[Document]:
        try:
            return MongoClient(
                self._url,
                appname=self.application,
                # Ours win over the URL's: the journal is only as true as its writes are durable.
                read_preference=ReadPreference.PRIMARY,
                readConcernLevel="majority",
                w="majority",
                wtimeoutMS=_MAJORITY.document["wtimeout"],
                retryWrites=True,
                serverSelectionTimeoutMS=_SELECTION_SECONDS * 1000,
                connectTimeoutMS=_SELECTION_SECONDS * 1000,
                uuidRepresentation="standard",
                tz_aware=True,
                # Dates outside of Python's years come as they are, and go back as they are.
                datetime_conversion=DatetimeConversion.DATETIME_AUTO,
                **timeouts,
            )
        except (InvalidURI, ConfigurationError, ValueError):
            # Not the driver's own message: it quotes what may be a part of the password.
            raise _refused("is not a MongoDB URL", _URL_TODO) from None


def operations(
    client: MongoClient[Document], matching: Document, *, everyone: bool = False
) -> list[Document]:
    """The operations, and open transactions, that `$currentOp` shows and that match.

    Everyone may see their own, and with the right `inprog` those of `everyone`, the server's own
    among them, which now and then count as idle. It wants the read concern "local".
    """
    pipeline: list[Document] = [
        {
            "$currentOp": {
                "allUsers": everyone,
                "idleConnections": everyone,
                "idleSessions": True,
            }
        },
        {"$match": matching},
        {"$project": {"command": True, "msg": True, "progress": True, "lsid": True}},
    ]
    admin = client.get_database("admin", read_concern=_LOCAL)
    return list(admin.aggregate(pipeline))


def _refused(what: str, todo: str) -> Refused:
    return Refused([Problem("", "DHARMA_MONGODB_URL", what, todo)])
