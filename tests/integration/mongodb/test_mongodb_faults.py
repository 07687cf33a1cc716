"""Workers that die, freeze, wake up late or meet others: FAULTS.md on a real replica set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from mongodb_hand import Hand, op
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    ExecutionTimeout,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteError,
    WTimeoutError,
)

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.mongodb import MongodbDatabase, connection, database
from dharma_tasks.errors import FenceLost, Refused
from dharma_tasks.records import OperationState, Owner
from dharma_tasks.settings import Settings

INCREMENT = {"collection": "things", "filter": {}, "update": {"$inc": {"n": 1}}}


@pytest.fixture
def things(documents: Database[Any]) -> Callable[[], list[int]]:
    """Thirty documents; returns how often each was incremented."""
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(30)])
    return lambda: [each["n"] for each in documents.things.find()]


# --- exactly once ---


def test_crash_before_every_checkpoint(hand: Hand, things: Callable[[], list[int]]) -> None:
    """`$inc`, a crash between effect and checkpoint of each batch: once for each (Law 3)."""
    operation = op("update_documents", **INCREMENT)
    taken = hand.take("1.0.0", operation)
    while taken.state is not OperationState.DONE:
        with pytest.raises(ZeroDivisionError):
            hand.step(taken, operation, crash)
        taken = hand.take("1.0.0", operation)
        assert taken.attempts == 2 if taken.cursor is None else taken.attempts <= 2
        taken = hand.step(taken, operation)
    assert things() == [1] * 30


def test_frozen_in_a_take_over(
    settings: Settings, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No record names its session yet, and its locks keep all from the journal: it is ended.

    The server would do so after a minute.
    """
    monkeypatch.setattr(connection, "_JOURNAL_SECONDS", 2)
    hand = Hand(MongodbDatabase(settings.model_copy(update={"lease_seconds": 1.0})), "first")
    hand.begin()
    assert settings.mongodb_url is not None
    url = settings.mongodb_url.get_secret_value()
    wanted = hand.assignment("1.0.0", "update_documents")
    with MongoClient[Any](url, appname="dharma-frozen") as client, client.start_session() as theirs:
        theirs.start_transaction()
        head = client[documents.name][f"{settings.namespace}_head"]
        assert head.update_one({}, {"$inc": {"taken": 1}}, session=theirs).matched_count == 1
        with pytest.raises(PyMongoError) as caught:
            hand.database.journal.take(wanted, hand.owner(), counted=True)
        assert caught.value.timeout
        hand.database.recover()
        assert hand.database.journal.take(wanted, hand.owner(), counted=True).attempts == 1
        with pytest.raises(OperationFailure):
            theirs.commit_transaction()
    hand.database.close()


def test_frozen_before_its_checkpoint(
    hands: Callable[..., Hand], things: Callable[[], list[int]]
) -> None:
    """FAULTS 6, 7: the open transaction is freed at once; the first one wakes to nothing."""
    operation = op("update_documents", **INCREMENT)
    first, second = hands("first"), hands("second")
    taken = first.step(first.take("1.0.0", operation), operation)
    begun = time.monotonic()

    def frozen() -> None:
        taken_over = second.take("1.0.0", operation)
        assert taken_over.former is not None
        assert taken_over.former.worker == "first"
        second.finish(taken_over, operation)

    with pytest.raises(FenceLost):
        first.step(taken, operation, frozen)
    assert time.monotonic() - begun < 10  # the transaction would hold its locks for 60 s
    assert things() == [1] * 30


def test_frozen_without_being_freed(
    hands: Callable[..., Hand], documents: Database[Any], things: Callable[[], list[int]]
) -> None:
    """A batch whose fence is gone does not commit, even where nobody killed its session."""
    operation = op("update_documents", **INCREMENT)
    first, second = hands("first"), hands("second")
    taken = first.take("1.0.0", operation)
    owner = Owner(worker="second", node="n", boot="b", pid=2, started=1.0)

    def frozen() -> None:
        second.database.journal.take(taken.assignment, owner, counted=True)

    with pytest.raises(FenceLost):
        first.step(taken, operation, frozen)
    assert things() == [0] * 30


def test_old_owner_commits_before_the_successor_takes(
    hands: Callable[..., Hand], things: Callable[[], list[int]]
) -> None:
    """FAULTS 7: a successor goes on from the cursor that came with its fence, not an older one."""
    operation = op("update_documents", **INCREMENT)
    first, second = hands("first"), hands("second")
    taken = first.take("1.0.0", operation)
    second.database.journal.owner(taken.assignment.key)
    taken = first.step(taken, operation)
    second.finish(second.take("1.0.0", operation), operation)
    with pytest.raises(FenceLost):
        first.step(taken, operation)
    assert things() == [1] * 30


def test_another_run_begins_during_a_batch(
    hands: Callable[..., Hand], things: Callable[[], list[int]]
) -> None:
    """A new run raises the fence under an open transaction without waiting for it (FAULTS 21)."""
    operation = op("update_documents", **INCREMENT)
    first, second = hands("first"), hands("second")
    taken = first.take("1.0.0", operation)
    begun = time.monotonic()
    with pytest.raises(FenceLost):
        first.step(taken, operation, lambda: _ignore(second.begin("another", 1)))
    assert time.monotonic() - begun < 10
    assert things() == [0] * 30
    with pytest.raises(FenceLost):
        first.take("1.0.0", operation)


def test_conflict_with_an_application(
    hand: Hand, documents: Database[Any], things: Callable[[], list[int]]
) -> None:
    """FAULTS 9: a document that another writes is a conflict; a batch without it gets through."""
    operation = op("update_documents", **INCREMENT)
    hand.size = 30
    taken = hand.take("1.0.0", operation)
    with documents.client.start_session() as session, session.start_transaction():
        documents.things.update_one({"_id": 20}, {"$inc": {"hot": 1}}, session=session)
        with pytest.raises(PyMongoError) as caught:
            hand.step(taken, operation)
        assert hand.database.classify(caught.value) is Fault.CONFLICT
        hand.database.recover()
        hand.size = 15
        taken = hand.step(hand.take("1.0.0", operation), operation)
    hand.finish(taken, operation)
    assert things() == [1] * 30


def test_two_take_over_at_once(hands: Callable[..., Hand]) -> None:
    """Each gets another fence, and only the highest one can write."""
    operation = op("create_collection", collection="things")
    workers = [hands(str(n)) for n in range(4)]
    assignment = workers[0].assignment("1.0.0", operation.kind)
    owner = Owner(worker="w", node="n", boot="b", pid=1, started=1.0)
    with ThreadPoolExecutor(4) as pool:
        taken = list(
            pool.map(
                lambda hand: hand.database.journal.take(assignment, owner, counted=True), workers
            )
        )
    assert sorted(each.fence for each in taken) == [1, 2, 3, 4]
    for worker, each in zip(workers, taken, strict=True):
        if each.fence < 4:
            with pytest.raises(FenceLost):
                worker.database.journal.note(each, "late")


# --- commands outside of transactions ---


def test_index_build_is_joined(hands: Callable[..., Hand], documents: Database[Any]) -> None:
    """A successor joins the build that goes on in the server; the first one is fenced."""
    documents.things.insert_one({"a": 1})
    operation = op("create_index", collection="things", index=[["a", 1]])
    first, second = hands("first"), hands("second")
    taken = first.step(first.take("1.0.0", operation), operation)
    with ThreadPoolExecutor(2) as pool:
        with documents.client.start_session() as session, session.start_transaction():
            documents.things.update_one({}, {"$set": {"b": 1}}, session=session)  # holds it up
            one = pool.submit(first.step, taken, operation)
            wait_until(lambda: building(documents) == 1)
            newer = second.take("1.0.0", operation)
            other = pool.submit(second.finish, newer, operation)
            wait_until(lambda: building(documents) == 2)
        assert other.result(20).state is OperationState.DONE
        with pytest.raises(FenceLost):
            one.result(20)
    assert set(documents.things.index_information()) == {"_id_", "a_1"}


# --- freeing and watching ---


def test_free_leaves_ones_own_session(hand: Hand, things: Callable[[], list[int]]) -> None:
    """A worker that takes its own work again does not kill the session it works with."""
    operation = op("update_documents", **INCREMENT)
    taken = hand.step(hand.take("1.0.0", operation), operation)
    owner = hand.database.journal.owner(taken.assignment.key)
    assert owner is not None
    assert owner.resources == hand.database.resources()
    hand.database.free(owner)
    hand.finish(taken, operation)
    assert things() == [1] * 30


def test_free_ends_a_running_statement(
    hands: Callable[..., Hand], documents: Database[Any], things: Callable[[], list[int]]
) -> None:
    """A statement that still runs in the server is ended, and its error is no lasting one."""
    slow = {**INCREMENT, "filter": {"$where": "sleep(1000) || true"}}
    operation = op("update_documents", **slow)
    first, second = hands("first"), hands("second")
    taken = first.take("1.0.0", operation)
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(first.step, taken, operation)
        wait_until(lambda: updating(documents) == 1)
        second.take("1.0.0", operation)
        assert updating(documents) == 0
        error = result.exception(20)
    assert error is not None
    killed = not isinstance(error, FenceLost)  # else the successor's fence was there already
    assert not killed or first.database.classify(error) is Fault.PASSING
    assert things() == [0] * 30


def test_watched_sees_only_the_servers_work(
    hand: Hand, documents: Database[Any], things: Callable[[], list[int]]
) -> None:
    """A sign of life comes while the server works on our statement, and not while it is idle."""
    alive = threading.Event()
    with hand.database.watched(lambda _seen: alive.set()):
        assert not alive.wait(2.1)  # nothing is sent: no sign, however long
        slow = hand.database.handle.database.things
        with ThreadPoolExecutor(1) as pool:
            result = pool.submit(slow.find_one, {"$where": "sleep(100) || false"})
            assert alive.wait(2.9)
            assert result.result() is None


def test_recover_begins_another_session(hand: Hand, things: Callable[[], list[int]]) -> None:
    """After an error the session is dropped, and what it left open is freed at the take-over."""
    operation = op("update_documents", **INCREMENT)
    taken = hand.take("1.0.0", operation)
    before = hand.database.resources()

    def lost() -> None:
        hand.database.recover()  # as if the connection were gone: nothing is aborted
        again = hand.take("1.0.0", operation)
        assert hand.database.resources() != before
        hand.finish(again, operation)

    with pytest.raises(FenceLost):
        hand.step(taken, operation, lost)
    assert things() == [1] * 30


# --- errors ---


def labelled(label: str, code: int) -> OperationFailure:
    """An error with one of the labels that server and driver give."""
    return OperationFailure("no", code, {"errorLabels": [label]})


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (AutoReconnect("gone"), Fault.PASSING),
        (NetworkTimeout("silent"), Fault.CONFLICT),
        (ExecutionTimeout("no time left", 50), Fault.CONFLICT),
        (WTimeoutError("not on a majority", 64), Fault.CONFLICT),
        (ServerSelectionTimeoutError("no primary"), Fault.PASSING),
        (TimeoutError("slow"), Fault.PASSING),
        (labelled("TransientTransactionError", 24), Fault.PASSING),
        (labelled("UnknownTransactionCommitResult", 1), Fault.PASSING),
        (OperationFailure("stepped down", 189), Fault.PASSING),
        (OperationFailure("conflict", 112), Fault.CONFLICT),
        (OperationFailure("too old", 251), Fault.CONFLICT),
        (BulkWriteError({"writeErrors": [{"code": 112, "errmsg": "conflict"}]}), Fault.CONFLICT),
        (WriteError("duplicate", 11000), Fault.LASTING),
        (OperationFailure("not allowed", 13), Fault.LASTING),
        (ValueError("ours"), Fault.LASTING),
    ],
)  # fmt: skip
def test_classify(hand: Hand, error: Exception, fault: Fault) -> None:
    """By the server's code first, then by the driver's labels."""
    assert hand.database.classify(error) is fault


def test_url_without_a_database(settings: Settings) -> None:
    """It says which setting, what is wrong and what to write; not the password."""
    url = SecretStr("mongodb://user:secret@127.0.0.1:1/")
    made = database(settings.model_copy(update={"mongodb_url": url}))
    with pytest.raises(
        Refused, match=r"DHARMA_MONGODB_URL: .*does not name the database"
    ) as caught:
        made.journal.survey()
    assert "secret" not in str(caught.value)
    made.close()


def test_close_again(settings: Settings) -> None:
    """Closing is harmless before use, twice, and before use again."""
    made = MongodbDatabase(settings)
    made.close()
    assert made.journal.survey().head is None
    made.close()
    made.close()
    assert made.journal.survey().head is None
    made.close()


def crash() -> None:
    """The worker ends here."""
    raise ZeroDivisionError


def _ignore(_result: object) -> None:
    """For a lambda that must return None."""


def wait_until(happened: Callable[[], bool]) -> None:
    """Wait for a condition, for ten seconds at most."""
    deadline = time.monotonic() + 10
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def building(documents: Database[Any]) -> int:
    """How many commands to build an index on `things` clients wait for at this moment."""
    return running(documents, {"command.createIndexes": "things"})


def updating(documents: Database[Any]) -> int:
    """How many updates of `things` clients wait for at this moment."""
    return running(documents, {"op": "update"})


def running(documents: Database[Any], matching: dict[str, Any]) -> int:
    """How many such operations on `things` clients wait for at this moment."""
    ours = {"ns": {"$regex": f"^{documents.name}[.]"}, "appName": {"$exists": True}}
    pipeline = [{"$currentOp": {}}, {"$match": ours | matching}]
    return len(list(documents.client.admin.aggregate(pipeline)))
