"""`reindex` that moves aliases under a write block: no write is lost, whoever dies in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from elasticsearch import AuthorizationException, Elasticsearch
from elasticsearch_hand import Hand
from elasticsearch_writer import Writer

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue, following, write_block
from dharma_tasks.work import Taken

Content = Callable[[str], dict[str, JSON]]
ACTIVE = {"term": {"name": "name 1"}}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several passes and pages with few documents."""
    monkeypatch.setattr(following, "_SMALL", 20)
    monkeypatch.setattr(following, "_PAGE", 30)
    monkeypatch.setattr(following, "_IDS", 300)


@pytest.fixture
def operation(client: Elasticsearch, unique: str) -> JSON:
    """From an index with three shards to one with two, with an alias to write by and a filter."""
    source, dest = f"{unique}-v1", f"{unique}-v2"
    for name, shards in ((source, 3), (dest, 2)):
        client.indices.create(
            index=name,
            mappings={"properties": {"n": {"type": "long"}, "name": {"type": "keyword"}}},
            settings={"number_of_shards": shards, "number_of_replicas": 0},
        )
    both = f"{unique}-app", f"{unique}-active"
    client.indices.put_alias(index=source, name=both[0], is_write_index=True)
    client.indices.put_alias(index=source, name=both[1], filter=ACTIVE)
    return {"type": "reindex", "source": source, "dest": dest, "move_aliases": list(both)}


@pytest.fixture
def writer(client: Elasticsearch, operation: JSON) -> Iterator[Writer]:
    """An application that writes by the alias, with 600 documents."""
    made = Writer(client, operation["move_aliases"][0], 600)
    made.fill()
    yield made
    if made.running:
        made.stop()


def _aliases(client: Elasticsearch, operation: JSON) -> JSON:
    """Who has which alias, and how."""
    found = client.indices.get_alias(name=",".join(operation["move_aliases"]))
    return {index: each["aliases"] for index, each in found.items()}


def _is_blocked(client: Elasticsearch, index: str) -> bool:
    try:
        client.index(index=index, id="probe", document={})
    except AuthorizationException:
        return True
    client.delete(index=index, id="probe")
    return False


def _closed(hand: Hand, operation: JSON) -> Taken:
    """Go on until the write block is on."""
    taken = hand.until(
        operation, hand.prepared(operation), lambda c: c["following"] and c["following"]["closed"]
    )
    return hand.step(operation, taken)


def test_a_writer_that_never_stops_loses_nothing(
    hand: Hand, client: Elasticsearch, writer: Writer, operation: JSON, content: Content
) -> None:
    """FAULTS 19: it writes by the alias before, during and after, and is refused for a moment."""
    before = _aliases(client, operation)
    with writer:
        taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"])
        writer.wait(200)
        hand.finish(operation, taken)
        writer.wait(100)
    assert writer.refused
    assert content(operation["dest"]) == writer.state
    assert _aliases(client, operation) == {operation["dest"]: before[operation["source"]]}
    assert not _is_blocked(client, operation["source"])
    assert hand.warnings == []


def test_killed_between_any_two_steps(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    writer: Writer,
    operation: JSON,
    content: Content,
) -> None:
    """Under the block and after the move too: the successor lifts it, and nothing is lost."""
    first = hands("first")
    with writer:
        taken = first.until(operation, first.prepared(operation), lambda c: c["copied"])
        writer.wait(100)
        steps = 0
        while not taken.over:
            steps += 1
            assert steps < 200
            first.look(operation, taken)  # and dies
            first = hands(f"worker {steps}")
            taken = first.prepared(operation)
            taken = first.step(operation, taken)
        writer.wait(20)
    assert content(operation["dest"]) == writer.state
    assert not _is_blocked(client, operation["source"])
    assert first.warnings == []


def test_paused_under_the_block(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    writer: Writer,
    operation: JSON,
    content: Content,
) -> None:
    """It is lifted; whoever goes on blocks again, and copies what was written meanwhile."""
    hand = hands("first")
    taken = _closed(hand, operation)
    assert _is_blocked(client, operation["source"])
    catalogue.parse(operation).halt(hand.work(taken))
    assert not _is_blocked(client, operation["source"])
    with writer:
        writer.wait(100)
        second = hands("second")
        taken = second.until(
            operation, second.prepared(operation), lambda c: c["following"]["proven"]
        )
        catalogue.parse(operation).halt(second.work(taken))
        writer.wait(20)
        second.finish(operation, taken)
    assert content(operation["dest"]) == writer.state
    assert not _is_blocked(client, operation["source"])


def test_a_failure_under_the_block_lifts_it(
    hand: Hand, client: Elasticsearch, writer: Writer, operation: JSON
) -> None:
    """Somebody else has moved an alias meanwhile: it is not moved on."""
    before = _aliases(client, operation)
    taken = _closed(hand, operation)
    client.indices.put_alias(index=operation["dest"], name=operation["move_aliases"][1])
    with pytest.raises(OperationFailed, match="was changed by somebody else"):
        hand.finish(operation, taken)
    assert not _is_blocked(client, operation["source"])
    assert _aliases(client, operation)[operation["source"]] == before[operation["source"]]


@pytest.mark.parametrize("finished", [True, False])
def test_undone(
    hand: Hand,
    client: Elasticsearch,
    writer: Writer,
    operation: JSON,
    content: Content,
    *,
    finished: bool,
) -> None:
    """From the end, and from under the block: aliases and settings as before, no copy left."""
    before = _aliases(client, operation)
    if finished:
        hand.do(operation)
        assert _aliases(client, operation) != before
    else:
        hand.look(operation, _closed(hand, operation))  # and dies
    hand.undo(operation)
    assert _aliases(client, operation) == before
    assert not _is_blocked(client, operation["source"])
    assert content(operation["source"]) == writer.state
    assert content(operation["dest"]) == {}


def test_a_block_of_somebody_else_stays(
    hand: Hand, client: Elasticsearch, writer: Writer, operation: JSON, content: Content
) -> None:
    """One that was there before, on the way forth and back."""
    client.indices.put_settings(index=operation["source"], settings={write_block.SETTING: True})
    hand.do(operation)
    assert _is_blocked(client, operation["source"])
    assert content(operation["dest"]) == writer.state
    hand.undo(operation)
    assert _is_blocked(client, operation["source"])


def test_a_block_that_was_set_after_stays(
    hand: Hand, client: Elasticsearch, writer: Writer, operation: JSON
) -> None:
    """Once it is done, the block is none of ours: the way back does not lift it."""
    assert writer.state
    hand.do(operation)
    client.indices.put_settings(index=operation["source"], settings={write_block.SETTING: True})
    hand.undo(operation)
    assert _is_blocked(client, operation["source"])


def test_an_alias_that_is_not_there(hand: Hand, operation: JSON) -> None:
    """A typo changes nothing, and names what there is."""
    known = operation["move_aliases"][0]
    with pytest.raises(OperationFailed, match=rf"is no alias of .*{known}"):
        hand.prepared(operation | {"move_aliases": [f"{known}s"]})


def test_without_a_block_a_warning(operation: JSON) -> None:
    """Said before anything runs."""
    (warned,) = catalogue.parse(operation | {"block_source": False}).warnings()
    assert "is lost" in warned.what
    assert catalogue.parse(operation).warnings() == []
