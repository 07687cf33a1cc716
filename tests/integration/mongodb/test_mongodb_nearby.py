"""Where batches end is read from where the URL says, and what they change from nowhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any

import pytest
from mixed_ids import mixed_ids
from mongodb_hand import Hand, op
from pydantic import SecretStr
from pymongo import MongoClient, WriteConcern
from pymongo.database import Database
from three_members import Three

from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.databases.mongodb.connection import Connection
from dharma_tasks.settings import Settings

INCREMENT = op("update_documents", collection="things", filter={}, update={"$inc": {"n": 1}})


@contextmanager
def working(url: str, namespace: str = "dharma") -> Iterator[Hand]:
    """A worker with this URL, in a run that is open."""
    settings = Settings(
        _env_file=None,  # type: ignore[call-arg]
        mongodb_url=SecretStr(url),
        namespace=namespace,
    )
    hand = Hand(MongodbDatabase(settings), "first")
    hand.begin()
    yield hand
    hand.database.close()


@pytest.mark.parametrize(
    ("preference", "mode"),
    [
        ("&readPreference=nearest&maxStalenessSeconds=120&readPreferenceTags=", "nearest"),
        ("", None),
    ],
)
def test_the_url_says_where(
    settings: Settings, documents: Database[Any], preference: str, mode: str | None
) -> None:
    """Outside of the batch's transaction; without a word, inside it and on the primary."""
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(25)])
    documents.command({"profile": 2})
    with working(settings.mongodb_url.get_secret_value() + preference, documents.name) as hand:
        hand.run(INCREMENT)
    documents.command({"profile": 0})
    asked = {"command.find": "things", "command.skip": {"$gt": 0}}
    first = documents["system.profile"].find_one(asked)["command"]
    assert first.get("$readPreference", {}).get("mode") == mode
    assert ("autocommit" in first) is (mode is None)
    assert documents.things.count_documents({"n": 1}) == 25


@pytest.mark.parametrize("seed", range(3))
def test_what_is_out_of_date(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Documents that it lacks are visited once, and those that it has still are no matter."""
    random = Random(seed)  # noqa: S311 - the same each time
    ids = mixed_ids(600, seed)
    older = documents.client[f"{documents.name}-older"]
    older.things.insert_many([{"_id": each} for each in ids if random.random() < 0.4])
    documents.things.insert_many([{"_id": e, "n": 0} for e in ids if random.random() < 0.8])
    monkeypatch.setattr(Connection, "_nearby", property(lambda self: self.client[older.name]))
    hand.size = 17
    try:
        taken = hand.take("1.0.0", INCREMENT)
        while not taken.over:
            with pytest.raises(ZeroDivisionError):
                hand.step(taken, INCREMENT, lambda: 1 // 0)
            taken = hand.step(hand.take("1.0.0", INCREMENT), INCREMENT)
    finally:
        documents.client.drop_database(older.name)
    there = documents.things.count_documents({})
    assert documents.things.count_documents({"n": 1}) == there


def test_what_lacks_all_of_it(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a walk is no one batch because a secondary knows of no end: the primary does."""
    documents.things.insert_many([{"_id": n, "n": 0} for n in range(25)])
    nowhere = f"{documents.name}-nowhere"
    monkeypatch.setattr(Connection, "_nearby", property(lambda self: self.client[nowhere]))
    taken = hand.take("1.0.0", INCREMENT)
    ends = []
    while not taken.over:
        taken = hand.step(taken, INCREMENT)
        ends.append(taken.cursor["after"])
    assert (ends, taken.done) == ([9, 19, 24], 25)


def test_a_rename_still_counts_what_has_both(
    hand: Hand, documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many renamed as the batch should have does not mean that it had no more."""
    older = documents.client[f"{documents.name}-older"]
    older.things.insert_many([{"_id": n} for n in range(0, 30, 2)])
    documents.things.insert_many([{"_id": n, "a": n} for n in range(30)])
    documents.things.update_many({"_id": {"$mod": [2, 1]}}, {"$set": {"b": 1}})
    monkeypatch.setattr(Connection, "_nearby", property(lambda self: self.client[older.name]))
    try:
        hand.run(op("rename_field", collection="things", old_name="a", new_name="b"))
    finally:
        documents.client.drop_database(older.name)
    assert documents.things.count_documents({"a": {"$exists": True}}) == 15
    assert sum(int(each.split()[0]) for each in hand.warnings) == 15


@pytest.mark.campaign
def test_a_secondary_that_lags_serves_them(three: Three) -> None:
    """All that it knows of; documents that it lacks are visited too, each one once."""
    nearby = "&readPreference=secondary&readPreferenceTags=number:2"
    with (
        MongoClient[Any](three.url, w=3) as application,
        three.member(0) as primary,
        three.member(2) as lagging,
    ):
        things = application.app.things
        things.insert_many([{"_id": n, "n": 0} for n in range(0, 3000, 3)])
        lagging.admin.command({"fsync": 1, "lock": True})
        late = [{"_id": n, "n": 0} for n in range(3500) if n % 3 == 1 or n >= 3000]
        things.with_options(write_concern=WriteConcern("majority")).insert_many(late)
        primary.app.command({"profile": 2})
        served = _searches(lagging)
        with working(three.url + nearby) as hand:
            hand.size = 100
            hand.run(INCREMENT)
        assert things.count_documents({"n": 1}) == things.count_documents({}) == 1000 + len(late)
        assert _searches(lagging) - served == 16  # one for each batch
        asked = {"command.find": "things", "command.skip": {"$gt": 0}}
        begins = [each["command"]["min"] for each in primary.app["system.profile"].find(asked)]
        assert begins
        assert min(each["_id"] for each in begins) >= 2997


def _searches(member: MongoClient[Any]) -> int:
    """How many searches of the collection this member has served."""
    return int(member.admin.command("top")["totals"]["app.things"]["queries"]["count"])
