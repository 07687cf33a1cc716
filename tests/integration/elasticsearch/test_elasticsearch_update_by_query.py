"""`update_by_query`: each document once, after each way to be interrupted, beside other writers."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from elasticsearch import Elasticsearch, helpers
from elasticsearch_hand import Hand

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue, ranges, server_tasks
from dharma_tasks.operations.elasticsearch.update_by_query import UpdateByQuery
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.work import Taken

ROUTES = ["a"] * 16 + ["b"] * 3 + ["e"]
SIZE = 2000

Versions = Callable[[], dict[str, int]]


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges with few documents."""
    monkeypatch.setattr(ranges, "MOST", 900)
    monkeypatch.setattr(ranges, "FEWEST", 400)


@pytest.fixture
def users(client: Elasticsearch, unique: str) -> str:
    """Documents on three skewed shards; their names were written before the mapping had them."""
    index = f"{unique}-users"
    client.indices.create(
        index=index,
        mappings={"dynamic": False, "properties": {"n": {"type": "long"}}},
        settings={"number_of_shards": 3, "number_of_replicas": 0},
    )
    documents = (
        {"_index": index, "_id": str(n), "routing": ROUTES[n % 20], "n": n, "name": f"name {n}"}
        for n in range(SIZE)
    )
    helpers.bulk(client, documents, refresh=True)
    client.indices.put_mapping(index=index, properties={"name": {"type": "keyword"}})
    return index


@pytest.fixture
def operation(users: str) -> JSON:
    """All of them."""
    return {"type": "update_by_query", "index": users}


@pytest.fixture
def named(client: Elasticsearch, users: str) -> Callable[[], int]:
    """How many are found by a name."""

    def count() -> int:
        client.indices.refresh(index=users)
        found: int = client.count(index=users, query={"exists": {"field": "name"}})["count"]
        return found

    return count


@pytest.fixture
def versions(client: Elasticsearch, users: str) -> Versions:
    """Reads how often each document was written."""

    def read() -> dict[str, int]:
        client.indices.refresh(index=users)
        hits = helpers.scan(client, index=users, size=5000, query={"version": True})
        return {hit["_id"]: hit["_version"] for hit in hits}

    return read


@pytest.fixture
def slowly(hand: Hand, operation: JSON, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Taken]:
    """Goes on until tasks run that take a second for each 50 documents."""
    usual = Elasticsearch.update_by_query

    def slow(client: Elasticsearch, **asked: Any) -> Any:
        return usual(client, **{**asked, "scroll_size": 50, "requests_per_second": 50})

    def run() -> Taken:
        with monkeypatch.context() as patch:
            patch.setattr(Elasticsearch, "update_by_query", slow)
            taken = hand.prepared(operation)
            return hand.until(operation, taken, lambda cursor: cursor["running"])

    return run


def _hasten(client: Elasticsearch, taken: Taken) -> None:
    for each in taken.cursor["running"]:
        client.update_by_query_rethrottle(task_id=each["task"], requests_per_second=-1)


def _gone(client: Elasticsearch, taken: Taken) -> None:
    assert taken.undo is not None
    until = time.monotonic() + 20
    while server_tasks.running(client, taken.undo["tag"]):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_documents_follow_the_mapping_of_now(
    hand: Hand,
    operation: JSON,
    named: Callable[[], int],
    versions: Versions,
    state: Callable[[], JSON],
) -> None:
    """Each is written once, though the numbers of the small shards rise past their marks."""
    before = state()
    assert named() == 0
    taken = hand.do(operation)
    assert named() == SIZE
    assert set(versions().values()) == {2}
    assert state() == before
    assert taken.done == taken.total == SIZE
    assert hand.warnings == []


@pytest.mark.parametrize("lost", [0, 1, 3])
def test_a_step_whose_checkpoint_was_lost(
    hands: Callable[[str], Hand], operation: JSON, versions: Versions, lost: int
) -> None:
    """FAULTS 3: nothing is written twice, and nobody is taken for another writer."""
    hand = hands("first")
    taken = hand.prepared(operation)
    for _ in range(lost):
        taken = hand.step(operation, taken)
    assert taken.state is OperationState.RUNNING
    hand.look(operation, taken)  # and dies
    second = hands("second")
    taken = second.do(operation)
    assert set(versions().values()) == {2}
    assert taken.done == SIZE
    assert second.warnings == []


def test_an_orphan_is_ended_and_what_it_wrote_is_not_written_again(
    hands: Callable[[str], Hand], client: Elasticsearch, operation: JSON, versions: Versions
) -> None:
    """FAULTS 3, with a task that no cursor knows, in the middle of its range."""
    taken = hands("first").step(operation, hands("first").prepared(operation))
    assert taken.undo is not None
    header = f"{taken.undo['tag']}/0-9999/orphan"
    task = client.options(opaque_id=header).update_by_query(
        index=operation["index"],
        scroll_size=100,
        requests_per_second=400,
        wait_for_completion=False,
    )["task"]
    until = time.monotonic() + 20
    while client.tasks.get(task_id=task)["task"]["status"]["updated"] < 100:
        assert time.monotonic() < until
    second = hands("second")
    second.do(operation)
    assert server_tasks.running(client, taken.undo["tag"]) == {}
    ended = client.tasks.get(task_id=task)  # with a response, or an error where it was searching
    assert ended["completed"]
    assert ended["task"]["status"]["updated"] < SIZE
    assert set(versions().values()) == {2}
    assert second.warnings == []


def test_a_successor_adopts_running_tasks(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    operation: JSON,
    slowly: Callable[[], Taken],
    versions: Versions,
) -> None:
    """A worker dies while its tasks run: they go on, and the successor counts on from there."""
    taken = slowly()
    second = hands("second")
    adopted = second.prepared(operation)
    adopted = second.until(operation, adopted, lambda cursor: cursor["shown"] > 0)
    assert 0 < adopted.done < SIZE
    assert [each["task"] for each in adopted.cursor["running"]] == [
        each["task"] for each in taken.cursor["running"]
    ]
    _hasten(client, adopted)
    adopted = second.finish(operation, adopted)
    assert set(versions().values()) == {2}
    assert adopted.done == SIZE
    assert second.warnings == []


def test_a_task_that_was_cut_short_runs_again_for_the_rest(
    hand: Hand,
    client: Elasticsearch,
    operation: JSON,
    slowly: Callable[[], Taken],
    versions: Versions,
) -> None:
    """Cancelled by somebody, with and without a result: a part of a range is no range."""
    taken = slowly()
    for each in taken.cursor["running"]:
        client.tasks.cancel(task_id=each["task"])
    _gone(client, taken)
    client.delete(index=".tasks", id=taken.cursor["running"][0]["task"])
    taken = hand.finish(operation, taken)
    assert set(versions().values()) == {2}
    assert taken.done == SIZE
    assert hand.warnings == []


def test_what_the_application_writes_meanwhile_is_left(
    hand: Hand,
    client: Elasticsearch,
    operation: JSON,
    slowly: Callable[[], Taken],
    named: Callable[[], int],
    versions: Versions,
) -> None:
    """Changed, deleted and new documents, after a task has read them and before it writes them."""
    index, taken = operation["index"], slowly()
    one = taken.cursor["running"][0]
    changed, deleted = client.search(
        index=index,
        preference=f"_shards:{one['shard']}",
        query={"range": {"_seq_no": {"lte": one["high"]}}},
        sort=[{"_seq_no": "desc"}],
        size=2,
    )["hits"]["hits"]
    client.update(index=index, id=changed["_id"], routing=changed["_routing"], doc={"name": "x"})
    client.delete(index=index, id=deleted["_id"], routing=deleted["_routing"])
    client.index(index=index, id="new", document={"name": "new"})
    _hasten(client, taken)
    taken = hand.finish(operation, taken)
    found = versions()
    assert named() == SIZE
    assert deleted["_id"] not in found
    assert found.pop("new") == 1
    assert set(found.values()) == {2}
    assert client.count(index=index, query={"term": {"name": "x"}})["count"] == 1
    assert taken.done == SIZE
    (told,) = hand.warnings
    assert told.startswith("2 documents")


def test_those_that_match_a_query(hand: Hand, operation: JSON, versions: Versions) -> None:
    """The others are not touched."""
    taken = hand.do({**operation, "query": {"range": {"n": {"lt": 700}}}})
    assert {int(each) for each, version in versions().items() if version == 2} == set(range(700))
    assert taken.done == taken.total == 700


def test_one_that_no_range_has_found_is_found_at_the_end(
    hand: Hand, operation: JSON, versions: Versions
) -> None:
    """As one that was on its way at the start: below the marks, and there only later."""
    taken = hand.until(operation, hand.prepared(operation), lambda cursor: cursor["running"])
    taken.cursor.update(shards=[], next=taken.cursor["end"] + 1)
    taken = hand.finish(operation, taken)
    assert taken.cursor["extended"]
    assert set(versions().values()) == {2}


def test_one_that_is_never_updated_is_an_error(
    hand: Hand, operation: JSON, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not go round for ever."""
    monkeypatch.setattr(UpdateByQuery, "_below", lambda *_: 1)
    with pytest.raises(OperationFailed, match=r"3 documents of .* after two passes"):
        hand.do(operation)


def test_nested_documents_and_an_empty_index(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """The parts of a nested field are documents inside, but not for users."""
    index = f"{unique}-nested"
    client.indices.create(index=index, mappings={"properties": {"parts": {"type": "nested"}}})
    operation = {"type": "update_by_query", "index": index}
    assert hand.do(operation).done == 0
    client.bulk(index=index, operations=[{"index": {}}, {"parts": [{"x": 1}, {"x": 2}]}] * 50)
    hand.again()
    hand.version += "0"
    assert hand.do(operation).done == 50


def test_documents_that_do_not_fit_are_named(
    hand: Hand,
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    operation: JSON,
    users: str,
    versions: Versions,
) -> None:
    """Nothing is left running, and a new submit goes on with the rest."""
    client.update(index=users, id="7", routing=ROUTES[7], doc={"more": "many"})
    client.indices.put_mapping(index=users, properties={"more": {"type": "long"}})
    taken = hand.prepared(operation)
    with pytest.raises(OperationFailed) as caught:
        hand.finish(operation, taken)
    assert f'while updating {users}: document "7"' in str(caught.value)
    assert "failed to parse field [more] of type [long]" in str(caught.value)
    _gone(client, taken)
    again = hands("second")
    again.database.journal.fail(
        again.take(again.assignment("update_by_query")), "failed", MigrationState.FAILED
    )
    client.update(index=users, id="7", routing=ROUTES[7], doc={"more": None})
    again.do(operation)
    found = versions()
    assert found.pop("7") == 3
    assert set(found.values()) == {2}


def test_results_are_deleted(hand: Hand, client: Elasticsearch, operation: JSON) -> None:
    """The server keeps them for ever otherwise."""
    taken = hand.until(operation, hand.prepared(operation), lambda cursor: cursor["running"])
    tasks = {each["task"] for each in taken.cursor["running"]}
    while not taken.over:
        taken = hand.step(operation, taken)
        tasks |= {each["task"] for each in taken.cursor["running"]}
    assert len(tasks) > 2
    assert not any(client.exists(index=".tasks", id=task) for task in tasks)


def test_pipelines(
    hand: Hand, client: Elasticsearch, operation: JSON, users: str, versions: Versions
) -> None:
    """The default one does not see what is no new document; the final one cannot be left out."""
    client.indices.put_settings(index=users, settings={"default_pipeline": "none-such"})
    hand.do(operation)
    assert set(versions().values()) == {2}
    client.indices.put_settings(index=users, settings={"final_pipeline": "none-such"})
    hand.version += "0"
    hand.prepared(operation)
    (noted,) = hand.database.journal.survey().by_version()[hand.version].operations
    assert "final ingest pipeline" in (noted.irreversible or "")


@pytest.mark.parametrize("source", [{"enabled": False}, {"excludes": ["name"]}])
def test_an_index_that_does_not_keep_its_documents_whole(
    hand: Hand, client: Elasticsearch, unique: str, source: JSON
) -> None:
    """What is not in `_source` would not be found any more."""
    client.indices.create(index=f"{unique}-v1", mappings={"_source": source})
    with pytest.raises(OperationFailed, match="does not keep its documents whole"):
        hand.prepared({"type": "update_by_query", "index": f"{unique}-v1"})


def test_mistakes_change_nothing(
    hand: Hand, operation: JSON, users: str, versions: Versions
) -> None:
    """A missing index, a query that is none, a name that is a pattern, a script."""
    with pytest.raises(OperationFailed, match=f"Did you mean {users}"):
        hand.prepared({**operation, "index": f"{users}x"})
    with pytest.raises(Exception, match="parsing_exception") as caught:
        hand.do({**operation, "query": {"trem": {"n": 1}}})
    assert "unknown query [trem]" in hand.database.describe(caught.value)
    assert [each.place for each in catalogue.parse({**operation, "index": "a*"}).problems()] == [
        "index"
    ]
    with pytest.raises(ValueError, match="script"):
        catalogue.parse({**operation, "script": {"source": "ctx._source.n++"}})
    assert set(versions().values()) == {1}


def test_an_index_that_was_made_anew(
    hand: Hand, client: Elasticsearch, operation: JSON, users: str, versions: Versions
) -> None:
    """It is not the one that was meant."""
    taken = hand.step(operation, hand.prepared(operation))
    client.indices.delete(index=users)
    client.index(index=users, id="1", document={"n": 1}, refresh=True)
    with pytest.raises(OperationFailed, match="deleted and created again"):
        hand.finish(operation, taken)
    assert versions() == {"1": 1}


@pytest.mark.parametrize("how", ["halt", "undo"])
def test_what_runs_is_ended(
    hand: Hand,
    client: Elasticsearch,
    operation: JSON,
    slowly: Callable[[], Taken],
    how: str,
    versions: Versions,
    state: Callable[[], JSON],
) -> None:
    """Paused, it goes on later; undone, the documents are as they were, and it can begin anew."""
    before = state()
    taken = slowly()
    assert taken.undo is not None
    if how == "halt":
        catalogue.parse(operation).halt(hand.work(taken))
    else:
        hand.undo(operation)
    assert server_tasks.running(client, taken.undo["tag"]) == {}
    assert state() == before
    written = versions()
    if how == "undo":
        hand.again()
    hand.do(operation)
    assert hand.warnings == []
    expected = {2} if how == "halt" else {version + 1 for version in written.values()}
    assert set(versions().values()) == expected
    hand.undo(operation)
    assert state() == before
    assert hand.warnings == []
