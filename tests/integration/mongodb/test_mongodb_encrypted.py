"""What is kept for the way back, encrypted: who has the key can undo, and nobody else reads it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from mongodb_hand import Hand, op
from mongodb_state import raw
from pydantic import SecretStr
from pymongo.database import Database

from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.databases.mongodb import kept as keeping
from dharma_tasks.encryption import new_key
from dharma_tasks.errors import OperationFailed, Unequipped
from dharma_tasks.settings import Settings
from dharma_tasks.work import SEALED

CANARY = "c4nary-of-a-person"
OLD, NEW, OTHER = new_key(), new_key(), new_key()

UPDATE = op(
    "update_documents",
    collection="things",
    filter={},
    update={"$set": {"name": "nobody"}},
    keep_before_image=True,
)
RENAME = op("rename_field", collection="things", old_name="name", new_name="called")
INSERT = op("insert_documents", collection="things", documents=[{"_id": CANARY}])


@pytest.fixture
def keyed(settings: Settings, documents: Database[Any]) -> Iterator[Callable[..., Hand]]:
    """Makes workers that have these keys, or none."""
    made: list[Hand] = []

    def make(*keys: str) -> Hand:
        key = SecretStr(",".join(keys)) if keys else None
        mine = settings.model_copy(update={"encryption_key": key})
        made.append(Hand(MongodbDatabase(mine), f"worker {len(made)}"))
        if len(made) == 1:
            made[-1].begin()
        return made[-1]

    documents["things"].insert_many([{"_id": n, "name": CANARY} for n in range(25)])
    yield make
    for each in made:
        each.database.close()


def readable(documents: Database[Any]) -> list[bytes]:
    """What somebody can make of what is kept who has no key."""
    found = []
    for each in documents[f"{documents.name}_undo"].find():
        found.append(each["data"])
        try:
            found.append(zlib.decompress(each["data"]))
        except zlib.error:
            continue
    return found


def irreversible(hand: Hand) -> str | None:
    """What planning hears of the one operation that is done."""
    (migration,) = hand.database.journal.survey().migrations
    return migration.operations[0].irreversible


@pytest.mark.parametrize("operation", [UPDATE, RENAME, INSERT], ids=lambda each: each.kind)
def test_there_and_back(
    keyed: Callable[..., Hand], documents: Database[Any], operation: Any
) -> None:
    """By a worker with a newer key before the old one; what was kept says nothing to others."""
    before = raw(documents, "things")
    keyed(OLD).run(operation)
    assert readable(documents)
    assert not any(CANARY.encode() in each for each in readable(documents))
    later = keyed(NEW, OLD)
    assert irreversible(later) is None
    later.undo(operation)
    assert raw(documents, "things") == before
    assert readable(documents) == []


@pytest.mark.parametrize("keys", [(), (OTHER,)], ids=["none", "another"])
def test_without_the_key_nothing_is_undone(
    keyed: Callable[..., Hand], documents: Database[Any], keys: tuple[str, ...]
) -> None:
    """Planning hears of it, and so does whoever takes it over all the same; then it goes on."""
    before = raw(documents, "things")
    keyed(OLD).run(UPDATE)
    done, stored = raw(documents, "things"), readable(documents)
    without = keyed(*keys)
    assert "is encrypted with a key that is not here" in str(irreversible(without))
    with pytest.raises(OperationFailed, match="DHARMA_ENCRYPTION_KEY"):
        without.undo(UPDATE)
    assert raw(documents, "things") == done
    assert readable(documents) == stored
    keyed(OLD).undo(UPDATE)
    assert raw(documents, "things") == before


def test_a_part_of_another_key(keyed: Callable[..., Hand], documents: Database[Any]) -> None:
    """What was begun without a key, went on with one and ended with another needs both of them.

    Planning hears of it, and so does whoever takes it over.
    """
    before = raw(documents, "things")
    in_three_parts(keyed)
    done = raw(documents, "things")
    for keys in ((), (OLD,), (NEW,)):
        hand = keyed(*keys)
        assert "is encrypted with a key that is not here" in str(irreversible(hand))
        assert SEALED in (hand.take("1.0.0", UPDATE, back=True).undo or {})
    assert raw(documents, "things") == done
    both = keyed(OLD, NEW)
    assert irreversible(both) is None
    both.undo(UPDATE)
    assert raw(documents, "things") == before


def test_a_part_of_a_key_that_is_not_known_of(
    keyed: Callable[..., Hand], documents: Database[Any]
) -> None:
    """Each part is looked at before the first one is used; a worker that has the key goes on.

    So does one that meets the part in the middle of the way back.
    """
    before = raw(documents, "things")
    in_three_parts(keyed)
    unknown = {"$unset": {"cursor.other_keys": 1}}
    assert documents[f"{documents.name}_operations"].update_many({}, unknown).modified_count == 1
    done = raw(documents, "things")
    with pytest.raises(Unequipped, match="DHARMA_ENCRYPTION_KEY"):
        keyed(NEW).undo(UPDATE)
    assert raw(documents, "things") == done
    both = keyed(OLD, NEW)
    both.step(both.take("1.0.0", UPDATE, back=True), UPDATE)
    with pytest.raises(Unequipped, match="DHARMA_ENCRYPTION_KEY"):
        keyed(NEW).undo(UPDATE)
    keyed(OLD, NEW).undo(UPDATE)
    assert raw(documents, "things") == before


def in_three_parts(keyed: Callable[..., Hand]) -> None:
    """Begun by one worker without a key, gone on with by one with one, ended with another."""
    for keys in ((), (OLD,), (NEW,)):
        hand = keyed(*keys)
        taken = hand.step(hand.take("1.0.0", UPDATE), UPDATE)
    assert taken.over


def test_ranges_know_of_each_others_keys() -> None:
    """What is joined of them names all."""
    ranges = [{"walked": 1, "other_keys": ["a", "b"]}, None, {"walked": 2, "other_keys": ["c"]}]
    joined = UPDATE.joined(ranges)
    assert (joined["walked"], joined["other_keys"]) == (3, ["a", "b", "c"])
    assert "other_keys" not in UPDATE.joined([{"walked": 1}])


def test_several_pieces(
    keyed: Callable[..., Hand], documents: Database[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too large for a document is encrypted as one, and put together again."""
    monkeypatch.setattr(keeping, "PIECE", 100)
    before = raw(documents, "things")
    keyed(OLD).run(UPDATE)
    assert max(map(len, readable(documents))) <= 100
    keyed(OLD).undo(UPDATE)
    assert raw(documents, "things") == before
