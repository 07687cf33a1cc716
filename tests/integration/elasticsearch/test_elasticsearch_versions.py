"""`reindex` of documents whose versions an application gives by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from elasticsearch import ConflictError, Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import following, ranges

Written = dict[str, tuple[int, JSON]]
"""Versions and documents, by id."""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges and pages with few documents."""
    monkeypatch.setattr(ranges, "MOST", 100)
    monkeypatch.setattr(ranges, "FEWEST", 40)
    monkeypatch.setattr(following, "_PAGE", 30)


@pytest.fixture
def operation(client: Elasticsearch, unique: str) -> JSON:
    """300 documents whose versions are as small as counters are."""
    for name in (f"{unique}-v1", f"{unique}-v2"):
        client.indices.create(
            index=name,
            settings={"number_of_shards": 2, "number_of_replicas": 0, "gc_deletes": "1s"},
        )
    for n in range(300):
        write(client, f"{unique}-v1", n, 1 + n % 3)
    dest = {"index": f"{unique}-v2", "version_type": "external"}
    return {"type": "reindex", "source": f"{unique}-v1", "dest": dest}


def write(client: Elasticsearch, index: str, n: int, version: int) -> None:
    """As the application does."""
    document = {"n": n, "at": version}
    client.index(
        index=index, id=str(n), document=document, version=version, version_type="external"
    )


def written(client: Elasticsearch, index: str) -> Written:
    """All that is there."""
    client.indices.refresh(index=index)
    hits = client.search(index=index, size=1000, version=True)["hits"]["hits"]
    return {hit["_id"]: (hit["_version"], hit["_source"]) for hit in hits}


def disturb(client: Elasticsearch, source: str) -> None:
    """Updates, deletes and new ones; one that is rewritten under its own version."""
    for n in range(0, 60, 2):
        write(client, source, n, 10)
    for n in range(1, 60, 6):
        client.delete(index=source, id=str(n), version=20, version_type="external")
    write(client, source, 7, 30)
    write(client, source, 900, 5)
    client.index(index=source, id="60", document={"n": -1}, version=1, version_type="external_gte")


def test_they_are_kept(hand: Hand, client: Elasticsearch, operation: JSON) -> None:
    """So the application goes on with its next number, and an old state is refused as ever."""
    source, dest = operation["source"], operation["dest"]["index"]
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"] >= 200)
    disturb(client, source)
    assert hand.persist(operation, taken)[1] == []
    assert written(client, dest) == written(client, source)
    write(client, dest, 299, 4)
    with pytest.raises(ConflictError):
        write(client, dest, 299, 4)
    assert hand.warnings == []


def test_killed_between_any_two_steps(
    hands: Callable[[str], Hand], client: Elasticsearch, operation: JSON
) -> None:
    """Each step loses its checkpoint; the successor comes to the same end."""
    source, dest = operation["source"], operation["dest"]["index"]
    hand = hands("first")
    taken = hand.prepared(operation)
    steps = 0
    while not taken.over:
        steps += 1
        assert steps < 200
        hand.look(operation, taken)  # and dies
        if steps == 3:
            disturb(client, source)
        hand = hands(f"worker {steps}")
        taken = hand.step(operation, hand.prepared(operation))
    assert written(client, dest) == written(client, source)
    assert hand.warnings == []


def test_after_a_rollback(hand: Hand, client: Elasticsearch, operation: JSON) -> None:
    """What was just deleted has a higher version for a while, which is waited for."""
    source, dest = operation["source"], operation["dest"]["index"]
    client.indices.put_settings(index=dest, settings={"gc_deletes": "4s"})
    hand.do(operation)
    hand.undo(operation)
    assert written(client, dest) == {}
    hand.again()
    _, passed = hand.persist(operation, hand.prepared(operation))
    assert passed
    assert all("has forgotten that it was deleted" in each for each in passed)
    assert written(client, dest) == written(client, source)


def test_a_version_that_begins_again(hand: Hand, client: Elasticsearch, operation: JSON) -> None:
    """Deleted, forgotten, and written anew with a lower one (FAULTS 4)."""
    source, dest = operation["source"], operation["dest"]["index"]
    write(client, source, 7, 50)
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["following"])
    client.delete(index=source, id="7", version=51, version_type="external")
    until = time.monotonic() + 30
    while time.monotonic() < until:
        client.indices.refresh(index=source)
        try:
            write(client, source, 7, 1)
        except ConflictError:
            time.sleep(0.2)
        else:
            break
    assert written(client, dest)["7"][0] == 50
    assert hand.persist(operation, taken)[1]
    assert written(client, dest) == written(client, source)
    assert written(client, dest)["7"][0] == 1


def test_a_destination_that_holds_documents(
    hand: Hand, client: Elasticsearch, operation: JSON
) -> None:
    """A copy with a higher version would replace one of them."""
    client.index(index=operation["dest"]["index"], id="7", document={"mine": 1}, refresh=True)
    with pytest.raises(OperationFailed, match=r"holds 1 documents, which the copies could replace"):
        hand.prepared(operation)
