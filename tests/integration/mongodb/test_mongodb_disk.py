"""Before-images that the disk has no room for, as the server itself tells what is free."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from guarded import url_of
from mongodb_hand import Hand, op
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.database import Database

from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.errors import OperationFailed
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.mongodb import disk
from dharma_tasks.operations.mongodb.keeping import Documents
from dharma_tasks.settings import Settings

SPACE = "dharma_tasks.operations.disk_space"


def update(**parameters: Any) -> Operation[Any]:
    """One that keeps what was there before."""
    usual = {"filter": {}, "update": {"$set": {"new": 1}}, "keep_before_image": True}
    return op("update_documents", **{"collection": "things", **usual, **parameters})


@pytest.fixture
def things(hand: Hand, documents: Database[Any]) -> Any:
    """2,000 documents of about 1,000 bytes that become a tenth of that when they are kept."""
    documents.things.insert_many(
        [{"_id": n, "n": n, "text": f"{n * 7919**5:x}" * 40} for n in range(2000)]
    )
    hand.size = 500
    return documents.things


def test_no_room(hand: Hand, things: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is changed; whoever knows better begins all the same."""
    monkeypatch.setattr(f"{SPACE}._FULL", 1e-9)
    monkeypatch.setattr(f"{SPACE}._NEAR", 1e-9)
    said = r"keeping what the documents of 'things' were before, compressed, needs about \d+ kB of "
    with pytest.raises(OperationFailed, match=said):
        hand.take("1.0.0", update())
    assert things.count_documents({"new": 1}) == 0
    hand.take("2.0.0", update(check_disk=False))
    hand.take("3.0.0", update(keep_before_image=False))
    assert hand.warnings == []


def test_nearly_no_room(hand: Hand, things: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on, and a person knows."""
    assert things.estimated_document_count() == 2000
    monkeypatch.setattr(f"{SPACE}._NEAR", 1e-9)
    hand.run(update())
    assert len(hand.warnings) == 1


def test_how_much_it_is(hand: Hand, things: Any, documents: Database[Any]) -> None:
    """The estimate is what is kept in the end; of a filter, its part; of few, no more than all."""
    taken = hand.take("1.0.0", update(check_disk=False))
    seen = Documents(hand.work(taken, hand.database.handle), "things")
    whole = disk._size(seen)
    assert (whole.count, disk._number(whole)) == (2000, 1000)
    estimates = [disk._sampled(seen, each, 1000) * 2 for each in ({}, {"n": {"$mod": [10, 0]}})]
    hand.finish(taken, update(check_disk=False))
    kept = sum(len(each["data"]) for each in documents[f"{documents.name}_undo"].find())
    assert estimates[0] == pytest.approx(kept, rel=0.25)
    assert estimates[1] == pytest.approx(kept / 10, rel=0.5)
    assert kept < whole.bytes / 4


def test_a_filter_that_matches_nothing(
    hand: Hand, things: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However large the collection is; a filter may be what no aggregation takes."""
    monkeypatch.setattr(f"{SPACE}._FULL", 1e-9)
    monkeypatch.setattr(f"{SPACE}._NEAR", 1e-9)
    assert things.estimated_document_count() == 2000
    hand.take("1.0.0", update(filter={"$where": "this.n < 0"}))
    assert hand.warnings == []


def test_a_few_large_ones(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say too little of the others: it is told, and not refused."""
    monkeypatch.setattr(f"{SPACE}._FULL", 1e-9)
    monkeypatch.setattr(f"{SPACE}._NEAR", 1e-9)
    documents.things.insert_many([{"_id": n, "text": "x" * 1000} for n in range(20)])
    hand.take("1.0.0", update())
    assert "needs at most 20 kB of disk space" in hand.warnings[0]


def test_what_the_server_tells(hand: Hand, things: Any) -> None:
    """Of its disk what the system does too."""
    taken = hand.take("1.0.0", update(check_disk=False))
    seen = Documents(hand.work(taken, hand.database.handle), "things")
    where = things.database.client.admin.command("getCmdLineOpts")["parsed"]["storage"]["dbPath"]
    assert disk._free(seen) == pytest.approx(shutil.disk_usage(where).free, rel=0.2)
    assert disk._size(seen).bytes == pytest.approx(2_000_000, rel=0.5)


def test_who_may_not_see_it(guarded: MongoClient[Any]) -> None:
    """It is told so once, and nothing is refused."""
    guarded["guarded"].things.insert_one({"_id": 1})
    settings = Settings(_env_file=None, mongodb_url=SecretStr(url_of(guarded, "narrow")))  # type: ignore[call-arg]
    hand = Hand(MongodbDatabase(settings), "narrow")
    hand.begin()
    hand.take("1.0.0", update())
    hand.database.close()
    (said,) = hand.warnings
    assert said.startswith("how much disk space is free cannot be seen, so nothing was compared: ")
    assert "not authorized" in said
