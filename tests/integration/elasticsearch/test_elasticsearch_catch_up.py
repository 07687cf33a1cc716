"""`reindex` of a source that an application writes to: nothing missing, extra or stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand
from elasticsearch_writer import Writer

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import following, ranges

Content = Callable[[str], dict[str, JSON]]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges, passes and pages with few documents."""
    monkeypatch.setattr(ranges, "MOST", 500)
    monkeypatch.setattr(ranges, "FEWEST", 200)
    monkeypatch.setattr(following, "_SMALL", 20)
    monkeypatch.setattr(following, "_PAGE", 30)
    monkeypatch.setattr(following, "_IDS", 300)


@pytest.fixture
def indices(client: Elasticsearch, unique: str) -> tuple[str, str]:
    """A source with three shards, and a destination with two."""
    names = f"{unique}-v1", f"{unique}-v2"
    for name, shards in zip(names, (3, 2), strict=True):
        client.indices.create(
            index=name,
            mappings={"properties": {"n": {"type": "long"}, "name": {"type": "keyword"}}},
            settings={"number_of_shards": shards, "number_of_replicas": 0},
        )
    return names


@pytest.fixture
def operation(indices: tuple[str, str]) -> JSON:
    """The usual one."""
    return {"type": "reindex", "source": indices[0], "dest": indices[1]}


@pytest.fixture
def writer(client: Elasticsearch, indices: tuple[str, str]) -> Iterator[Writer]:
    """An application with 1,500 documents, most of them in one shard."""
    made = Writer(client, indices[0], 1500)
    made.fill()
    client.indices.refresh(index=indices[0])
    shards = client.indices.stats(index=indices[0], metric="docs", level="shards")["indices"]
    held = sorted(each[0]["docs"]["count"] for each in shards[indices[0]]["shards"].values())
    assert held[-1] > 2 * held[0]  # skewed
    yield made
    if made.running:
        made.stop()


def _following(wanted: Callable[[JSON], object]) -> Callable[[JSON], bool]:
    return lambda cursor: bool(cursor["following"] and wanted(cursor["following"]))


def test_what_is_written_meanwhile_is_followed(
    hand: Hand, writer: Writer, operation: JSON, content: Content
) -> None:
    """FAULTS 1, 2 and 4: updates, deletes, new ones and those that come again, on every shard."""
    with writer:
        taken = hand.until(operation, hand.prepared(operation), lambda c: c["running"])
        writer.wait(300)
        taken = hand.until(operation, taken, _following(lambda at: at["last"]))
        writer.wait(50)
    taken = hand.finish(operation, taken)
    assert content(operation["dest"]) == content(operation["source"]) == writer.state
    assert taken.done == taken.total > 1500
    assert hand.warnings == []


def test_a_writer_that_never_stops_does_not_keep_us(
    hand: Hand, writer: Writer, operation: JSON, content: Content
) -> None:
    """Everything of before the last round is there, and deletes of before the ids were looked up.

    That the end is open is said.
    """
    with writer:
        taken = hand.until(operation, hand.prepared(operation), lambda c: c["running"])
        writer.wait(300)
        taken = hand.until(operation, taken, _following(lambda at: at["ends"]))
        gone = {each: writer.touched[each] for each in writer.touched.keys() - writer.state.keys()}
        taken = hand.until(operation, taken, _following(lambda at: at["last"]))
        written = writer.writes
        hand.finish(operation, taken)
        writer.wait(1)
    found = content(operation["dest"])
    early = {each for each, when in writer.touched.items() if when < written}
    wanted = {each: writer.state[each] for each in early & writer.state.keys()}
    assert {each: found.get(each) for each in wanted} == wanted
    deleted = {each for each, when in gone.items() if when == writer.touched[each]}
    assert deleted
    assert deleted.isdisjoint(found)
    assert ["still written to" in each for each in hand.warnings] == [True]


def test_killed_between_any_two_steps(
    hands: Callable[[str], Hand], writer: Writer, operation: JSON, content: Content
) -> None:
    """Each step of the catch-up loses its checkpoint; the successor comes to the same end."""
    first = hands("first")
    taken = first.until(operation, first.prepared(operation), lambda c: c["running"])
    with writer:
        writer.wait(200)
    steps = 0
    while not taken.over:
        steps += 1
        assert steps < 200
        first.look(operation, taken)  # and dies
        first = hands(f"worker {steps}")
        taken = first.prepared(operation)
        taken = first.step(operation, taken)
    assert content(operation["dest"]) == writer.state
    assert first.warnings == []


def test_a_document_that_leaves_the_query_goes(
    hand: Hand, client: Elasticsearch, indices: tuple[str, str], content: Content
) -> None:
    """And one that comes into it is copied; the counts alone would not say so."""
    source, dest = indices
    for n in range(20):
        client.index(index=source, id=str(n), document={"n": n})
    query = {"range": {"n": {"lt": 10}}}
    operation = {"type": "reindex", "source": {"index": source, "query": query}, "dest": dest}
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"] == 10)
    client.index(index=source, id="3", document={"n": 30})
    client.index(index=source, id="13", document={"n": 1})
    hand.finish(operation, taken)
    assert content(dest) == {k: v for k, v in content(source).items() if v["n"] < 10}
    assert "13" in content(dest)


def test_a_tombstone_does_not_keep_an_update_out(
    hand: Hand, client: Elasticsearch, indices: tuple[str, str], content: Content
) -> None:
    """Of a copy that was rolled back a moment ago the version is higher than the next one's."""
    source, dest = indices
    operation: JSON = {"type": "reindex", "source": source, "dest": dest}
    client.index(index=source, id="x", document={"n": 1})
    client.index(index=source, id="y", document={"n": 1})
    for turn in range(2, 5):
        taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"] == 2)
        client.index(index=source, id="x", document={"n": turn})
        client.delete(index=source, id="y")
        hand.finish(operation, taken)
        assert content(dest) == {"x": {"n": turn}}
        hand.undo(operation)
        client.index(index=source, id="y", document={"n": 1})
        hand.again()
    assert hand.warnings == []


def test_documents_that_were_there_before_are_not_followed(
    hand: Hand, client: Elasticsearch, indices: tuple[str, str], content: Content
) -> None:
    """Neither updates nor deletes reach them; others are followed, but for deletes, with a word."""
    source, dest = indices
    for n in range(4):
        client.index(index=source, id=str(n), document={"n": n})
    for n in (0, 1):
        client.index(index=dest, id=str(n), document={"n": -1})
    operation: JSON = {"type": "reindex", "source": source, "dest": dest}
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"] == 4)
    client.index(index=source, id="0", document={"n": 10})
    client.delete(index=source, id="1")
    client.index(index=source, id="2", document={"n": 12})
    client.delete(index=source, id="3")
    hand.finish(operation, taken)
    assert content(dest) == {"0": {"n": -1}, "1": {"n": -1}, "2": {"n": 12}, "3": {"n": 3}}
    assert any("deletes" in each and "held 2 documents" in each for each in hand.warnings)


def test_a_late_document_that_does_not_fit_is_named(
    hand: Hand, client: Elasticsearch, indices: tuple[str, str], content: Content
) -> None:
    """In the catch-up as in the first pass; corrected, it goes on."""
    source, dest = indices
    client.index(index=source, id="a", document={"n": 1})
    client.indices.put_mapping(index=dest, properties={"more": {"type": "long"}})
    operation: JSON = {"type": "reindex", "source": source, "dest": dest}
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"] == 1)
    client.index(index=source, id="b", document={"more": "text"})
    with pytest.raises(OperationFailed, match=r'document "b": .*failed to parse field \[more\]'):
        hand.finish(operation, taken)
    client.index(index=source, id="b", document={"more": 7})
    hand.do(operation)
    assert content(dest) == content(source)


@pytest.mark.parametrize("most", [2, 3])
def test_documents_that_do_not_fit_are_left_out_up_to_a_limit(
    hand: Hand, client: Elasticsearch, indices: tuple[str, str], content: Content, most: int
) -> None:
    """Each is named; two from the first pass, one that did fit before; one too many stops it."""
    source, dest = indices
    client.indices.put_mapping(index=source, properties={"more": {"type": "keyword"}})
    for n in range(20):
        document = {"n": n, "more": "text" if n in (3, 11) else n}
        client.index(index=source, id=str(n), document=document)
    client.indices.put_mapping(index=dest, properties={"more": {"type": "long"}})
    operation: JSON = {"type": "reindex", "source": source, "dest": dest, "max_failures": most}
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["left"] is not None)
    client.index(index=source, id="5", document={"more": "late"})
    client.index(index=source, id="3", document={"more": "still"})
    if most == 2:
        with pytest.raises(OperationFailed, match="3 failures") as caught:
            hand.finish(operation, taken)
        assert all(f'document "{n}"' in str(caught.value) for n in (3, 5, 11))
        return
    hand.finish(operation, taken)
    assert content(dest).keys() == content(source).keys() - {"3", "5", "11"}
    (told,) = hand.warnings
    assert all(f'document "{n}": mapper_parsing_exception' in told for n in (3, 5, 11))
