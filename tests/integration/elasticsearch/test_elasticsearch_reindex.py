"""`reindex`: whole, and after each way to be interrupted, document by document the same."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import ranges, server_tasks
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.work import Taken


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges with few documents."""
    monkeypatch.setattr(ranges, "MOST", 1000)
    monkeypatch.setattr(ranges, "FEWEST", 400)


@pytest.fixture
def source(fill: Callable[..., None], unique: str) -> str:
    """4,000 documents."""
    fill(f"{unique}-v1", 4000)
    return f"{unique}-v1"


@pytest.fixture
def dest(client: Elasticsearch, unique: str) -> str:
    """An empty index with settings of its own."""
    client.indices.create(
        index=f"{unique}-v2",
        mappings={"properties": {"n": {"type": "long"}, "name": {"type": "text"}}},
        settings={"refresh_interval": "7s", "number_of_replicas": 1},
    )
    return f"{unique}-v2"


@pytest.fixture
def operation(source: str, dest: str) -> JSON:
    """The usual one."""
    return {"type": "reindex", "source": source, "dest": {"index": dest}}


def _settings(client: Elasticsearch, index: str) -> tuple[str | None, str]:
    found = client.indices.get_settings(index=index, flat_settings=True)[index]["settings"]
    return found.get("index.refresh_interval"), found["index.number_of_replicas"]


def _gone(client: Elasticsearch, tag: str) -> None:
    until = time.monotonic() + 20
    while server_tasks.running(client, tag):
        assert time.monotonic() < until
        time.sleep(0.02)


def _slow_down(client: Elasticsearch, taken: Taken, speed: float) -> None:
    for each in taken.cursor["running"]:
        client.reindex_rethrottle(task_id=each["task"], requests_per_second=speed)


def test_every_document_is_copied_and_the_settings_are_as_before(
    hand: Hand,
    client: Elasticsearch,
    source: str,
    dest: str,
    operation: JSON,
    content: Callable[[str], dict[str, JSON]],
) -> None:
    """Content is equal, `done` is exact, refreshing and replicas are on again."""
    taken = hand.prepared(operation)
    taken = hand.until(operation, taken, lambda cursor: cursor["running"])
    assert _settings(client, dest) == ("-1", "0")
    assert taken.total == 4000
    taken = hand.finish(operation, taken)
    assert content(dest) == content(source)
    assert taken.done == 4000
    assert _settings(client, dest) == ("7s", "1")
    assert hand.warnings == []


def test_several_shards_updates_and_a_query(
    hand: Hand,
    fill: Callable[..., None],
    dest: str,
    content: Callable[[str], dict[str, JSON]],
    unique: str,
) -> None:
    """`_seq_no` counts in each shard, and updates leave holes in it."""
    source = f"{unique}-sharded"
    fill(source, 3000, shards=3)
    fill(source, 1500)
    fill(source, 1500)
    query = {"range": {"n": {"gte": 500}}}
    taken = hand.do({"type": "reindex", "source": {"index": source, "query": query}, "dest": dest})
    assert content(dest) == {k: v for k, v in content(source).items() if v["n"] >= 500}
    assert taken.done == taken.total == 2500


def test_nested_documents_count_once(
    hand: Hand, client: Elasticsearch, content: Callable[[str], dict[str, JSON]], unique: str
) -> None:
    """The parts of a nested field are documents inside, but not for users: there and back.

    They have the numbers of the whole, by which what is written meanwhile is followed.
    """
    mapping = {"properties": {"parts": {"type": "nested"}}}
    for name in ("a", "b"):
        client.indices.create(index=f"{unique}-{name}", mappings=mapping)
    source, dest = f"{unique}-a", f"{unique}-b"
    for n in range(50):
        client.index(index=source, id=str(n), document={"parts": [{"x": 1}, {"x": 2}]})
    operation: JSON = {"type": "reindex", "source": source, "dest": dest}
    taken = hand.until(operation, hand.prepared(operation), lambda cursor: cursor["copied"])
    assert taken.total == 50
    client.index(index=source, id="7", document={"parts": [{"x": 3}, {"x": 4}, {"x": 5}]})
    client.index(index=source, id="late", document={"parts": [{"x": 6}]})
    client.delete(index=source, id="8")
    taken = hand.finish(operation, taken)
    assert taken.done == taken.total == 52
    assert content(dest) == content(source)
    inside = {"nested": {"path": "parts", "query": {"term": {"parts.x": 5}}}}
    assert [hit["_id"] for hit in client.search(index=dest, query=inside)["hits"]["hits"]] == ["7"]
    hand.undo(operation)
    assert content(dest) == {}
    assert hand.warnings == []


def test_an_empty_source(hand: Hand, fill: Callable[..., None], dest: str, unique: str) -> None:
    """Nothing to do is done at once."""
    fill(f"{unique}-empty", 0)
    taken = hand.do({"type": "reindex", "source": f"{unique}-empty", "dest": dest})
    assert taken.done == 0


@pytest.mark.parametrize("lost", range(4))
def test_a_step_whose_checkpoint_was_lost(
    hands: Callable[[str], Hand],
    operation: JSON,
    source: str,
    dest: str,
    content: Callable[[str], dict[str, JSON]],
    lost: int,
) -> None:
    """FAULTS 3: tasks that no cursor knows are ended before their ranges start again."""
    hand = hands("first")
    taken = hand.prepared(operation)
    for _ in range(lost):
        taken = hand.step(operation, taken)
    assert taken.state is OperationState.RUNNING
    hand.look(operation, taken)  # and dies
    second = hands("second")
    taken = second.do(operation)
    assert content(dest) == content(source)
    assert taken.done == 4000
    assert server_tasks.running(second.database.handle, taken.undo["tag"]) == {}


def test_an_orphan_that_would_go_on_is_ended(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    fill: Callable[..., None],
    dest: str,
    content: Callable[[str], dict[str, JSON]],
    unique: str,
) -> None:
    """FAULTS 3, with a task that would outlast everything."""
    source = f"{unique}-v1"
    fill(source, 4000)
    operation = {"type": "reindex", "source": source, "dest": dest}
    hand = hands("first")
    taken = hand.step(operation, hand.prepared(operation))
    header = f"{taken.undo['tag']}/0-3999/orphan"
    client.options(opaque_id=header).reindex(
        source={"index": source, "size": 100},
        dest={"index": dest, "op_type": "create"},
        conflicts="proceed",
        requests_per_second=10,
        wait_for_completion=False,
    )
    taken = hands("second").do(operation)
    assert server_tasks.running(client, taken.undo["tag"]) == {}
    assert content(dest) == content(source)
    assert taken.done == 4000


def test_a_successor_adopts_running_tasks(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    fill: Callable[..., None],
    dest: str,
    content: Callable[[str], dict[str, JSON]],
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker dies while its tasks run: they go on, and the successor counts on from there."""
    monkeypatch.setattr(ranges, "MOST", 50_000)
    source = f"{unique}-v1"
    fill(source, 12_000)
    operation = {"type": "reindex", "source": source, "dest": dest}
    first, second = hands("first"), hands("second")
    taken = first.until(operation, first.prepared(operation), lambda c: c["running"])
    _slow_down(client, taken, 500)
    adopted = second.prepared(operation)
    assert [each["task"] for each in adopted.cursor["running"]] == [
        each["task"] for each in taken.cursor["running"]
    ]
    adopted = second.step(operation, adopted)
    assert server_tasks.running(client, taken.undo["tag"])  # nothing was cancelled
    _slow_down(client, taken, -1)
    adopted = second.finish(operation, adopted)
    assert content(dest) == content(source)
    assert adopted.done == 12_000


def test_progress_moves_while_a_task_runs_and_never_counts_twice(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    fill: Callable[..., None],
    dest: str,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents of running tasks show; when a task is lost, they do not show again."""
    monkeypatch.setattr(ranges, "MOST", 50_000)
    source = f"{unique}-v1"
    fill(source, 12_000)
    operation = {"type": "reindex", "source": source, "dest": dest}
    hand = hands("first")
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["running"])
    _slow_down(client, taken, 2000)
    taken = hand.until(operation, taken, lambda c: c["shown"] > 0)
    assert 0 < taken.done < 12_000
    for each in taken.cursor["running"]:
        client.tasks.cancel(task_id=each["task"])
    _gone(client, taken.undo["tag"])
    taken = hand.finish(operation, taken)
    assert taken.done == 12_000


def test_a_task_that_was_cancelled_runs_again(
    hand: Hand,
    client: Elasticsearch,
    operation: JSON,
    source: str,
    dest: str,
    content: Callable[[str], dict[str, JSON]],
) -> None:
    """A part of a range is no range, whether its task ends with its part or with an error."""
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["running"])
    for each in taken.cursor["running"]:
        client.tasks.cancel(task_id=each["task"])
    taken, _ = hand.persist(operation, taken)
    assert content(dest) == content(source)
    assert taken.done == 4000


def test_a_result_that_is_gone_means_run_again(
    hand: Hand,
    client: Elasticsearch,
    operation: JSON,
    source: str,
    dest: str,
    content: Callable[[str], dict[str, JSON]],
) -> None:
    """Without a result a task may have stopped anywhere."""
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["running"])
    _gone(client, taken.undo["tag"])
    for each in taken.cursor["running"]:
        client.delete(index=".tasks", id=each["task"])
    taken = hand.finish(operation, taken)
    assert content(dest) == content(source)
    assert taken.done == 4000


def test_the_result_of_another_task_does_not_count(
    hand: Hand,
    client: Elasticsearch,
    operation: JSON,
    source: str,
    dest: str,
    content: Callable[[str], dict[str, JSON]],
) -> None:
    """FAULTS 5: after a restart of the node the number belongs to somebody else."""
    other = client.options(opaque_id="somebody").reindex(
        source={"index": source, "query": {"match_none": {}}},
        dest={"index": dest},
        wait_for_completion=False,
    )["task"]
    until = time.monotonic() + 10
    while not client.tasks.get(task_id=other)["completed"]:
        assert time.monotonic() < until
    taken = hand.step(operation, hand.prepared(operation))
    taken.cursor["next"] = taken.cursor["end"] + 1
    taken.cursor["running"] = [
        {"low": 0, "high": taken.cursor["end"], "header": f"{taken.undo['tag']}/x", "task": other}
    ]
    taken = hand.finish(operation, taken)
    assert content(dest) == content(source)
    assert client.tasks.get(task_id=other)["completed"]  # it is not ours to delete


def test_results_that_are_used_are_deleted(
    hand: Hand, client: Elasticsearch, operation: JSON
) -> None:
    """The server keeps them for ever otherwise."""
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["running"])
    tasks = [each["task"] for each in taken.cursor["running"]]
    hand.finish(operation, taken)
    assert not any(client.exists(index=".tasks", id=task) for task in tasks)


def test_documents_that_do_not_fit_are_named(
    hand: Hand,
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    source: str,
    dest: str,
    operation: JSON,
    content: Callable[[str], dict[str, JSON]],
) -> None:
    """The failure names them, leaves nothing turned off, and a new submit goes on."""
    for n in (7, 2500):
        client.update(index=source, id=str(n), doc={"more": {"deep": n}})
    client.indices.put_mapping(index=dest, properties={"more": {"type": "long"}})
    taken = hand.prepared(operation)
    with pytest.raises(OperationFailed) as caught:
        hand.finish(operation, taken)
    assert 'document "' in str(caught.value)
    assert "failed to parse field [more] of type [long]" in str(caught.value)
    assert _settings(client, dest) == ("7s", "1")
    _gone(client, taken.undo["tag"])
    again = hands("second")
    again.database.journal.fail(
        again.take(again.assignment("reindex")), "failed", MigrationState.FAILED
    )
    for n in (7, 2500):
        client.update(index=source, id=str(n), doc={"more": None})
    taken = again.do(operation)
    assert content(dest) == content(source)  # the corrected ones have newer numbers
    assert _settings(client, dest) == ("7s", "1")


def test_the_original_settings_are_recorded_once(
    hands: Callable[[str], Hand], client: Elasticsearch, source: str, dest: str, operation: JSON
) -> None:
    """FAULTS 20: a successor does not take the changed settings for the original ones."""
    first, second = hands("first"), hands("second")
    first.until(operation, first.prepared(operation), lambda c: c["running"])
    assert _settings(client, dest) == ("-1", "0")
    second.do(operation)
    assert _settings(client, dest) == ("7s", "1")


def test_default_settings_are_defaults_again(
    hand: Hand, client: Elasticsearch, source: str, unique: str
) -> None:
    """A default that was changed for the load is unset after, and replicas expand again."""
    dest = f"{unique}-v2"
    client.indices.create(index=dest, settings={"auto_expand_replicas": "0-1"})
    hand.do({"type": "reindex", "source": source, "dest": dest})
    found = client.indices.get_settings(index=dest, flat_settings=True)[dest]["settings"]
    assert "index.refresh_interval" not in found
    assert found["index.auto_expand_replicas"] == "0-1"


def test_documents_that_were_there_before_are_never_touched(
    hand: Hand,
    client: Elasticsearch,
    source: str,
    dest: str,
    operation: JSON,
    content: Callable[[str], dict[str, JSON]],
) -> None:
    """They win, and the user is told how many."""
    for n in range(10):
        client.index(index=dest, id=str(n), document={"n": -1})
    taken = hand.do(operation)
    found = content(dest)
    assert [found[str(n)] for n in range(10)] == [{"n": -1}] * 10
    assert len(found) == 4000
    assert taken.done == 4000
    assert "10 of" in hand.warnings[0]


def test_missing_documents_fail_with_both_numbers(
    hand: Hand, client: Elasticsearch, source: str, dest: str, operation: JSON
) -> None:
    """Somebody deletes from the destination while it is filled."""
    taken = hand.until(operation, hand.prepared(operation), lambda c: c["copied"] >= 1000)
    client.indices.refresh(index=dest)
    client.delete_by_query(index=dest, query={"range": {"n": {"lt": 10}}})
    with pytest.raises(
        OperationFailed, match=r"has 4000 documents to copy, .* has got 3990.*deletes from"
    ):
        hand.finish(operation, taken)


def test_a_destination_must_be_there(hand: Hand, source: str, unique: str) -> None:
    """The server would make one, and guess the types."""
    with pytest.raises(OperationFailed, match="create_index"):
        hand.prepared({"type": "reindex", "source": source, "dest": f"{unique}-none"})


def test_a_destination_that_was_replaced_is_refused(
    hand: Hand, client: Elasticsearch, source: str, dest: str, operation: JSON
) -> None:
    """And nothing of ours is written into the other one."""
    taken = hand.step(operation, hand.prepared(operation))
    client.indices.delete(index=dest)
    client.indices.create(index=dest, settings={"refresh_interval": "3s"})
    with pytest.raises(OperationFailed, match="deleted and created again"):
        hand.finish(operation, taken)
    assert client.count(index=dest)["count"] == 0
    assert _settings(client, dest)[0] == "3s"
