"""`reindex`, undone: what it wrote is gone, what the application wrote is not."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue, copied, ranges, server_tasks
from dharma_tasks.work import Prepared, Taken

Content = Callable[[str], dict[str, JSON]]


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges, and several pages on the way back, with few documents."""
    monkeypatch.setattr(ranges, "MOST", 1000)
    monkeypatch.setattr(ranges, "FEWEST", 400)
    monkeypatch.setattr(copied, "_PAGE", 300)


@pytest.fixture
def source(fill: Callable[..., None], unique: str) -> str:
    """2,000 documents."""
    fill(f"{unique}-v1", 2000)
    return f"{unique}-v1"


@pytest.fixture
def dest(client: Elasticsearch, unique: str) -> str:
    """An empty index with two shards and settings of its own."""
    client.indices.create(
        index=f"{unique}-v2",
        mappings={"properties": {"n": {"type": "long"}, "name": {"type": "text"}}},
        settings={"refresh_interval": "7s", "number_of_shards": 2, "number_of_replicas": 0},
    )
    return f"{unique}-v2"


@pytest.fixture
def operation(source: str, dest: str) -> JSON:
    """The usual one."""
    return {"type": "reindex", "source": source, "dest": dest}


def _settings(client: Elasticsearch, index: str) -> JSON:
    found: JSON = client.indices.get_settings(index=index, flat_settings=True)[index]["settings"]
    return found


def _running(hand: Hand, operation: JSON, speed: float) -> Taken:
    """Go on until tasks run, and slow them down."""
    until = time.monotonic() + 30
    taken = hand.prepared(operation)
    while not (taken.cursor and taken.cursor["running"]):
        assert time.monotonic() < until, taken
        taken = hand.step(operation, taken)
    for each in taken.cursor["running"]:
        hand.database.handle.options(ignore_status=404).reindex_rethrottle(
            task_id=each["task"], requests_per_second=speed
        )
    return taken


def test_there_and_back_twice(
    hand: Hand, client: Elasticsearch, source: str, dest: str, operation: JSON, content: Content
) -> None:
    """Empty again with its settings, the source as it was; numbers of versions do not matter."""
    before, settings = content(source), _settings(client, dest)
    for _ in range(2):
        hand.do(operation)
        assert content(dest) == before
        taken = hand.undo(operation)
        assert (taken.done, taken.total) == (2000, 2000)
        assert content(dest) == {}
        assert content(source) == before
        assert _settings(client, dest) == settings
        hand.again()
    assert hand.warnings == []


@pytest.mark.parametrize("lost", range(5))
def test_a_step_back_whose_checkpoint_was_lost(
    hands: Callable[[str], Hand], operation: JSON, dest: str, content: Content, lost: int
) -> None:
    """Whatever the step had deleted, the successor comes to the same end."""
    hand = hands("first")
    hand.do(operation)
    taken = hand.undoing(operation)
    for _ in range(lost):
        taken = hand.step(operation, taken)
    hand.look(operation, taken)  # and dies
    second = hands("second")
    assert second.undo(operation).over
    assert content(dest) == {}
    assert second.warnings == []


def test_what_the_application_wrote_survives(
    hand: Hand, client: Elasticsearch, source: str, dest: str, operation: JSON, content: Content
) -> None:
    """New documents silently; changed copies are counted and named; deleted ones stay so."""
    hand.do(operation)
    client.index(index=dest, id="new", document={"n": 1})
    client.update(index=dest, id="7", doc={"name": "changed here"})
    client.update(index=dest, id="9", doc={"name": "and back"})
    client.index(index=dest, id="9", document={"n": 9, "name": "name 9"})
    client.delete(index=dest, id="8")
    client.update(index=source, id="10", doc={"name": "changed there"})
    client.delete(index=source, id="11")
    hand.undo(operation)
    assert content(dest) == {
        "new": {"n": 1},
        "7": {"n": 7, "name": "changed here"},
        "9": {"n": 9, "name": "name 9"},
        "10": {"n": 10, "name": "name 10"},
        "11": {"n": 11, "name": "name 11"},
    }
    (told,) = hand.warnings
    assert told.startswith("4 documents")
    assert sorted(told.rsplit(": ", 1)[1].split(", ")) == ["10", "11", "7", "9"]


def test_a_document_that_changes_at_this_moment_is_left(
    hand: Hand,
    client: Elasticsearch,
    dest: str,
    operation: JSON,
    content: Content,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between reading a page and deleting it: the delete aims at what was read."""
    hand.do(operation)
    in_source = copied._in_source

    def change_in_between(*arguments: object) -> object:
        monkeypatch.setattr(copied, "_in_source", in_source)
        client.update(index=dest, id=str(arguments[2][0]), doc={"name": "late"})  # type: ignore[index]
        return in_source(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(copied, "_in_source", change_in_between)
    hand.undo(operation)
    assert [each["name"] for each in content(dest).values()] == ["late"]
    assert hand.warnings[0].startswith("1 documents")


def test_in_the_middle_of_the_way_forward(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    source: str,
    dest: str,
    operation: JSON,
    content: Content,
) -> None:
    """Tasks that still run are ended first, and the settings are put back."""
    hand, settings = hands("first"), _settings(client, dest)
    taken = _running(hand, operation, speed=20)
    hand.look(operation, taken)  # more tasks, that no cursor knows
    second = hands("second")
    second.undo(operation)
    assert taken.undo is not None
    assert server_tasks.running(client, taken.undo["tag"]) == {}
    assert content(dest) == {}
    assert _settings(client, dest) == settings
    assert second.warnings == []
    second.again()
    second.do(operation)
    assert content(dest) == content(source)


def test_what_cannot_be_undone_leaves_nothing_running(
    hand: Hand, client: Elasticsearch, dest: str, operation: JSON
) -> None:
    """Whoever accepts the loss in the middle of it: no task goes on, the settings are back."""
    client.indices.put_settings(index=dest, settings={"default_pipeline": "p"})
    client.ingest.put_pipeline(id="p", processors=[])
    settings = _settings(client, dest)
    taken = _running(hand, operation, speed=20)
    assert taken.undo is not None
    assert "pipeline" in taken.undo["irreversible"]
    assert _settings(client, dest) != settings
    catalogue.parse(operation).halt(hand.work(taken))
    assert server_tasks.running(client, taken.undo["tag"]) == {}
    assert _settings(client, dest) == settings


def test_a_task_that_comes_late_is_ended_and_undone(
    hand: Hand, client: Elasticsearch, source: str, dest: str, operation: JSON, content: Content
) -> None:
    """FAULTS 22: sent by an owner that was frozen, in the middle of the way back."""
    done = hand.do(operation)
    assert done.undo is not None
    taken = hand.undoing(operation)
    for _ in range(3):
        taken = hand.step(operation, taken)
    assert taken.done > 0
    client.options(opaque_id=f"{done.undo['tag']}/0-999/late").reindex(
        source={"index": source, "size": 100},
        dest={"index": dest, "op_type": "create"},
        conflicts="proceed",
        requests_per_second=50,
        wait_for_completion=False,
    )
    hand.finish(operation, taken)
    assert server_tasks.running(client, done.undo["tag"]) == {}
    assert content(dest) == {}
    assert hand.warnings == []


def test_routing_a_query_and_deleted_numbers(
    hand: Hand, client: Elasticsearch, dest: str, content: Content, unique: str
) -> None:
    """A document is found where its routing has put it; others of the source are not ours."""
    source = f"{unique}-routed"
    client.indices.create(index=source, settings={"number_of_shards": 3})
    for n in range(60):
        client.index(index=source, id=str(n), routing=f"r{n % 5}", document={"n": n})
    client.index(index=dest, id="before", document={"n": -1}, refresh=True)
    client.delete(index=dest, id="before", refresh=True)
    query = {"range": {"n": {"lt": 50}}}
    operation = {"type": "reindex", "source": {"index": source, "query": query}, "dest": dest}
    hand.do(operation)
    client.index(index=dest, id="55", routing="r0", document={"n": 55})
    assert len(content(dest)) == 51
    hand.undo(operation)
    assert content(dest) == {"55": {"n": 55}}
    assert hand.warnings == []


def test_settings_that_were_changed_since_stay(
    hand: Hand, client: Elasticsearch, dest: str, operation: JSON
) -> None:
    """The recorded ones are put back only over those of the load."""
    hand.do(operation)
    client.indices.put_settings(index=dest, settings={"refresh_interval": "3s"})
    hand.undo(operation)
    assert _settings(client, dest)["index.refresh_interval"] == "3s"


def test_without_its_source_nothing_is_deleted(
    hand: Hand, client: Elasticsearch, source: str, dest: str, operation: JSON
) -> None:
    """The copies may be the only ones; with the source there again the way back goes on."""
    hand.do(operation)
    client.indices.delete(index=source)
    with pytest.raises(OperationFailed, match="the only copy"):
        hand.undo(operation)
    assert client.count(index=dest)["count"] == 2000
    client.reindex(source={"index": dest}, dest={"index": source}, refresh=True)
    hand.undo(operation)
    client.indices.refresh(index=dest)
    assert client.count(index=dest)["count"] == 0


def test_a_destination_that_is_gone_or_another_one(
    hand: Hand, client: Elasticsearch, dest: str, operation: JSON
) -> None:
    """Nothing is deleted from an index that was made anew."""
    hand.do(operation)
    client.indices.delete(index=dest)
    client.index(index=dest, id="7", document={"n": 7, "name": "name 7"}, refresh=True)
    hand.undo(operation)
    assert client.count(index=dest)["count"] == 1
    assert "another index by now" in hand.warnings[0]


def test_a_reindex_that_was_never_begun(
    hand: Hand, client: Elasticsearch, dest: str, operation: JSON
) -> None:
    """Taken, or prepared, and no more."""
    hand.take(hand.assignment("reindex"))
    assert hand.undo(operation).over
    hand.again()
    hand.prepared(operation)
    client.index(index=dest, id="app", document={"n": 1}, refresh=True)
    hand.undo(operation)
    assert client.count(index=dest)["count"] == 1


@pytest.mark.parametrize(
    ("extra", "mappings", "held", "reason"),
    [
        ({}, {}, 0, None),
        ({}, {}, 3, "held 3 documents before"),
        ({"index.default_pipeline": "p"}, {}, 0, "ingest pipeline"),
        ({}, {"_source": {"enabled": False}}, 0, "_source"),
    ],
)
def test_it_is_known_beforehand_where_it_cannot_be_undone(
    hand: Hand,
    client: Elasticsearch,
    source: str,
    unique: str,
    extra: JSON,
    mappings: JSON,
    held: int,
    reason: str | None,
) -> None:
    """It depends on the destination, and is in the journal with the first look at it."""
    dest = f"{unique}-v3"
    client.indices.create(index=dest, mappings=mappings)
    for n in range(held):
        client.index(index=dest, id=str(n), document={"n": n, "name": f"name {n}"})
    client.indices.put_settings(index=dest, settings={"refresh_interval": "1s", **extra})
    hand.prepared({"type": "reindex", "source": source, "dest": dest})
    (operation,) = hand.database.journal.survey().by_version()[hand.version].operations
    if reason is None:
        assert operation.irreversible is None
    else:
        assert reason in (operation.irreversible or "")


@pytest.mark.parametrize("made", [True, False])
def test_two_into_one_that_was_made_here_or_empty(
    hand: Hand,
    client: Elasticsearch,
    fill: Callable[..., None],
    source: str,
    dest: str,
    content: Content,
    *,
    made: bool,
) -> None:
    """What the second one finds there is the migration's own: both can be undone, and are."""
    fill(f"{source}b", 500, start=1800)
    operations: list[JSON] = [
        {"type": "reindex", "source": each, "dest": dest} for each in (source, f"{source}b")
    ]
    if made:
        client.indices.delete(index=dest)
        operations.insert(0, {"type": "create_index", "index": dest})
    for _ in range(2):
        hand.do_all(operations)
        assert len(content(dest)) == 2300
        record = hand.database.journal.survey().by_version()[hand.version]
        assert {each.irreversible for each in record.operations} == {None}
        hand.undo_all(operations)
        assert client.indices.exists(index=dest) != made
        assert made or content(dest) == {}
        hand.again()


def test_what_was_there_before_stays_even_so(
    hand: Hand, client: Elasticsearch, dest: str, operation: JSON, content: Content
) -> None:
    """For whoever accepts a loss: equal to the source, but older than the reindex."""
    for n in range(10):
        client.index(index=dest, id=str(n), document={"n": n, "name": f"name {n}"})
    hand.do(operation)
    hand.undo(operation)
    assert set(content(dest)) == {str(n) for n in range(10)}


def test_a_journal_of_an_earlier_version(
    hand: Hand, client: Elasticsearch, dest: str, operation: JSON, content: Content
) -> None:
    """Without marks an empty destination is undone; one that held documents is left whole."""
    for held in (0, 5):
        for n in range(held):
            client.index(index=dest, id=f"old {n}", document={"n": n})
        taken = hand.prepared(operation)
        assert taken.undo is not None
        old = {k: v for k, v in taken.undo.items() if k not in ("marks", "irreversible")}
        taken = hand.database.journal.prepare(taken, Prepared(old))
        taken = hand.finish(operation, taken)
        if held:
            with pytest.raises(OperationFailed, match="held 5 documents"):
                hand.undo(operation)
            assert len(content(dest)) == 2005
        else:
            hand.undo(operation)
            assert content(dest) == {}
            hand.again()


def test_nested_documents(hand: Hand, client: Elasticsearch, unique: str) -> None:
    """The parts of a nested field share the number of their document, and go with it."""
    mapping = {"properties": {"parts": {"type": "nested"}}}
    for name in ("a", "b"):
        client.indices.create(index=f"{unique}-{name}", mappings=mapping)
    body = [{"index": {}}, {"parts": [{"x": 1}, {"x": 2}]}] * 50
    client.bulk(index=f"{unique}-a", operations=body)
    operation = {"type": "reindex", "source": f"{unique}-a", "dest": f"{unique}-b"}
    hand.do(operation)
    assert hand.undo(operation).done == 50
    assert client.count(index=f"{unique}-b")["count"] == 0
