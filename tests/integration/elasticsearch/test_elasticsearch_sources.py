"""`reindex` from several indices, by routing, and of some fields."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue

Content = Callable[[str], dict[str, JSON]]


@pytest.fixture
def dest(client: Elasticsearch, unique: str) -> str:
    """An empty index."""
    client.indices.create(index=f"{unique}-new", settings={"number_of_replicas": 0})
    return f"{unique}-new"


@pytest.fixture
def logs(fill: Callable[..., None], client: Elasticsearch, unique: str) -> list[str]:
    """Two indices with other ids, of other numbers of shards, and an alias of both."""
    names = [f"{unique}-logs-1", f"{unique}-logs-2"]
    fill(names[0], 300, shards=2)
    fill(names[1], 200, start=300)
    client.indices.put_alias(index=names, name=f"{unique}-logs")
    return names


@pytest.mark.parametrize("name", ["{}-logs", "{}-logs-*"])
def test_an_alias_or_a_pattern(
    hand: Hand,
    client: Elasticsearch,
    fill: Callable[..., None],
    logs: list[str],
    dest: str,
    content: Content,
    unique: str,
    name: str,
) -> None:
    """It is what it stands for at the start; both indices are followed; the way back empties."""
    operation = {"type": "reindex", "source": name.format(unique), "dest": dest}
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"])
    fill(f"{unique}-logs-3", 5, start=900)
    for n, index in ((1, logs[0]), (301, logs[1])):
        client.index(index=index, id=str(n), document={"n": -n})
        client.delete(index=index, id=str(n + 1))
    taken = hand.finish(operation, taken)
    assert content(dest) == {**content(logs[0]), **content(logs[1])}
    assert taken.done == taken.total
    hand.undo(operation)
    assert content(dest) == {}


def test_an_alias_of_several_moves(
    hand: Hand, client: Elasticsearch, logs: list[str], dest: str, unique: str
) -> None:
    """All of them lose it, the destination gets it; back again on the way back."""
    alias = f"{unique}-logs"
    operation = {"type": "reindex", "source": alias, "dest": dest, "move_aliases": [alias]}
    hand.do(operation)
    assert set(client.indices.get_alias(name=alias)) == {dest}
    hand.undo(operation)
    assert set(client.indices.get_alias(name=alias)) == set(logs)


def test_one_id_in_two_indices_is_named(
    hand: Hand, client: Elasticsearch, logs: list[str], dest: str, unique: str
) -> None:
    """One of the two would be lost."""
    client.index(index=logs[1], id="7", document={"n": 7})
    with pytest.raises(OperationFailed, match=r"has 501 .* has got 500; .* have one id: 7\."):
        hand.do({"type": "reindex", "source": f"{unique}-logs", "dest": dest})


def test_one_id_under_two_routings_is_named(
    hand: Hand, client: Elasticsearch, dest: str, unique: str
) -> None:
    """The destination has fewer shards, where they fall together."""
    source = f"{unique}-routed"
    client.indices.create(index=source, settings={"number_of_shards": 3})
    for routing in ("r0", "r5"):
        client.index(index=source, id="x", routing=routing, document={"r": routing})
    with pytest.raises(OperationFailed, match="have one id: x"):
        hand.do({"type": "reindex", "source": source, "dest": dest})


def test_some_fields(
    hand: Hand, client: Elasticsearch, logs: list[str], dest: str, content: Content
) -> None:
    """In the first pass, the catch-up and the way back."""
    source = {"index": logs[0], "_source": ["n"]}
    operation: JSON = {"type": "reindex", "source": source, "dest": dest}
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"])
    client.index(index=logs[0], id="1", document={"n": -1, "name": "late"})
    hand.finish(operation, taken)
    assert content(dest) == {k: {"n": v["n"]} for k, v in content(logs[0]).items()}
    hand.undo(operation)
    assert content(dest) == {}


def test_a_source_that_would_not_be_copied_whole(
    hand: Hand, client: Elasticsearch, logs: list[str], dest: str, unique: str
) -> None:
    """An alias with a filter, and a pattern that has the destination in it."""
    client.indices.put_alias(index=logs[0], name=f"{unique}-few", filter={"term": {"n": 1}})
    with pytest.raises(OperationFailed, match="shows only a part"):
        hand.prepared({"type": "reindex", "source": f"{unique}-few", "dest": dest})
    with pytest.raises(OperationFailed, match="has the destination"):
        hand.prepared({"type": "reindex", "source": f"{unique}-*", "dest": dest})
    with pytest.raises(OperationFailed, match="there is no index"):
        hand.prepared({"type": "reindex", "source": f"{unique}-none-*", "dest": dest})


def test_names_that_are_none() -> None:
    """A pattern is one, a list is none."""
    operation = {"type": "reindex", "source": "logs-*", "dest": "b"}
    assert catalogue.parse(operation).problems() == []
    assert catalogue.parse(operation | {"source": "a,b"}).problems()
