"""What the journal in Elasticsearch does in place of transactions.

What every journal promises is in tests/contract/test_journal.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from elasticsearch import ConnectionTimeout, Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.elasticsearch.journal import ElasticsearchJournal
from dharma_tasks.errors import FenceLost
from dharma_tasks.journal import MigrationState, OperationState, Prepared, Step, Taken
from dharma_tasks.settings import Settings


@pytest.fixture
def namespace(unique: str) -> str:
    """Each test has a journal of its own."""
    return unique


def _history(client: Elasticsearch, namespace: str) -> list[str]:
    client.indices.refresh(index=f"{namespace}_history")
    hits = client.search(index=f"{namespace}_history", size=1000)["hits"]["hits"]
    return sorted(hit["_source"]["event"] for hit in hits)


def test_the_indices_are_made_once_however_many_begin_at_once(
    hands: Callable[[str], Hand], client: Elasticsearch, unique: str
) -> None:
    """Two submitters at the same moment: one opens the run, the other is told."""
    ready = threading.Barrier(4)

    def begin(number: int) -> bool:
        ready.wait()
        try:
            hands(f"worker {number}")
        except FenceLost:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(begin, range(4)))  # all of the same run: each of them joins it
    assert len(client.indices.get(index=f"{unique}_*")) == 4
    assert _history(client, unique) == ["begin"]


def test_two_that_take_at_once_get_different_fences_and_one_of_them_writes(
    hands: Callable[[str], Hand],
) -> None:
    """The fence comes from the write itself."""
    both = [hands("first"), hands("second")]
    ready = threading.Barrier(2)

    def take(hand: Hand) -> Taken:
        ready.wait()
        return hand.take(hand.assignment("create_index"))

    with ThreadPoolExecutor(2) as pool:
        taken = list(pool.map(take, both))
    assert sorted(each.fence for each in taken) == [1, 2]
    won = [each.fence for each in taken if _writes(both[0].database.journal, each)]
    assert won == [2]


def _writes(journal: ElasticsearchJournal, taken: Taken) -> bool:
    try:
        journal.prepare(taken, Prepared({}))
    except FenceLost:
        return False
    return True


def test_the_former_owner_writes_nothing_any_more(hands: Callable[[str], Hand]) -> None:
    """Whatever it tries, it learns that its fence is lost."""
    first, second = hands("first"), hands("second")
    assignment = first.assignment("reindex")
    taken = first.take(assignment)
    assert second.take(assignment).former.worker == "first"
    journal = first.database.journal
    for write in (
        lambda: journal.prepare(taken, Prepared({})),
        lambda: journal.step(taken, lambda _: Step({"a.b": 1}, done=1), transactional=False),
        lambda: journal.fail(taken, "error", MigrationState.FAILED),
        lambda: journal.note(taken, None),
    ):
        with pytest.raises(FenceLost):
            write()
    (migration,) = second.database.journal.survey().migrations
    assert migration.state is MigrationState.RUNNING


def test_a_new_run_shuts_out_who_has_taken_and_who_is_about_to(
    hands: Callable[[str], Hand],
) -> None:
    """FAULTS 21: the taker is found by the search, or finds the new head."""
    old, late, new = hands("old"), hands("late"), hands("new")
    taken = old.take(old.assignment("reindex"))
    new.run, new.generation = "run2", 2
    new.begin()
    assert new.generation == 2
    with pytest.raises(FenceLost):
        old.database.journal.step(taken, lambda _: Step(1, done=1), transactional=False)
    with pytest.raises(FenceLost, match="generation 2, not 1"):
        late.take(late.assignment("reindex"))
    new.begin()  # harmless when repeated: it does not shut out its own workers
    mine = new.take(new.assignment("reindex"))
    new.begin()
    new.database.journal.step(mine, lambda _: Step(1, done=1), transactional=False)


def test_the_taker_checks_the_head_after_its_write(
    hands: Callable[[str], Hand], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run changes between the first look at the head and the write: it still learns of it."""
    old, new = hands("old"), hands("new")
    journal = old.database.journal
    seize = journal._seize

    def begin_in_between(*args: Any, **kwargs: Any) -> Any:
        new.run, new.generation = "run2", 2
        new.begin()
        return seize(*args, **kwargs)

    monkeypatch.setattr(journal, "_seize", begin_in_between)
    with pytest.raises(FenceLost, match="generation 2"):
        old.take(old.assignment("reindex"))
    assert new.database.journal.survey().migrations == []


def test_a_step_that_changed_nothing_writes_nothing(hand: Hand) -> None:
    """Asking every second how a task is does not fill the journal."""
    taken = hand.take(hand.assignment("reindex"))
    journal = hand.database.journal
    taken = journal.step(taken, lambda _: Step({"at": 1}, done=5), transactional=False)
    before = taken.mark.seq_no
    assert journal.step(taken, lambda _: Step({"at": 1}), transactional=False) is taken
    assert taken.mark.seq_no == before
    after = journal.step(taken, lambda _: Step({"at": 1}, done=1), transactional=False)
    assert after.mark.seq_no > before
    assert after.done == 6


def test_keys_with_dots_and_long_texts_come_back_as_they_were(hand: Hand) -> None:
    """Cursor and undo are kept as text: no key becomes a field, no length is too much."""
    blob = {"a.b": {"": 1, "a": None}, "a": "x" * 100_000, "é\u0000": [1.5]}
    taken = hand.take(hand.assignment("reindex"))
    taken = hand.database.journal.prepare(taken, Prepared(blob))
    hand.database.journal.step(taken, lambda _: Step(blob, done=1), transactional=False)
    again = hand.take(hand.assignment("reindex"))
    assert again.undo == blob
    assert again.cursor == blob


def _die_after(
    journal: ElasticsearchJournal, monkeypatch: pytest.MonkeyPatch, writes: int
) -> Callable[[], None]:
    """Let the journal's client fail from its n-th write on, as a worker that is killed."""
    real, left = journal._client.index, [writes]

    def index(**kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise ConnectionTimeout("killed")
        return real(**kwargs)

    monkeypatch.setattr(journal._client, "index", index)
    return monkeypatch.undo


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_the_next_take_completes_an_end_that_was_cut_short(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    """Killed after the operation is done, after the migration is applied, or in the history."""
    hand = hands("first")
    taken = hand.take(hand.assignment("delete_index"))
    revive = _die_after(hand.database.journal, monkeypatch, writes)
    with pytest.raises(ConnectionTimeout) as caught:
        hand.database.journal.step(
            taken, lambda _: Step(None, done=1, finished=True), transactional=False
        )
    assert hand.database.classify(caught.value) is Fault.PASSING
    revive()
    again = hands("second").take(hand.assignment("delete_index"))
    assert again.state is OperationState.DONE
    (migration,) = hand.database.journal.survey().migrations
    assert migration.state is MigrationState.APPLIED
    assert _history(client, unique) == ["applied", "begin", "done", "take"]


def test_the_history_of_an_operation_is_completed_by_the_one_after(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody takes an operation again that is done, but the next one is always taken."""
    hand = hands("first")
    taken = hand.take(hand.assignment("delete_index", count=2))
    revive = _die_after(hand.database.journal, monkeypatch, 1)
    with pytest.raises(ConnectionTimeout):
        hand.database.journal.step(
            taken, lambda _: Step(None, done=1, finished=True), transactional=False
        )
    revive()
    hand.take(hand.assignment("create_index", number=2, count=2))
    assert _history(client, unique) == ["begin", "done", "take", "take"]


def test_a_migration_that_was_rolled_back_begins_anew_with_every_operation(hand: Hand) -> None:
    """One write of the migration makes all of its operations new; their fences go on."""
    journal = hand.database.journal
    first = hand.take(hand.assignment("create_index", count=2))
    journal.step(first, lambda _: Step("end", done=7, finished=True), transactional=False)
    second = hand.take(hand.assignment("reindex", number=2, count=2))
    journal.fail(second, "no", MigrationState.ROLLED_BACK)
    with pytest.raises(FenceLost, match="operation 1"):
        hand.take(hand.assignment("reindex", number=2, count=2))
    again = hand.take(hand.assignment("create_index", count=2))
    assert (again.cursor, again.done, again.undo, again.attempts) == (None, 0, None, 1)
    assert again.fence == 2
    (migration,) = journal.survey().migrations
    assert migration.state is MigrationState.RUNNING
    assert [each.number for each in migration.operations] == [1]


def test_a_survey_reads_more_than_a_page(
    hand: Hand, client: Elasticsearch, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Searches of Elasticsearch return pages; all of them are read."""
    monkeypatch.setattr("dharma_tasks.databases.elasticsearch.journal._PAGE", 2)
    for minor in range(5):
        hand.take(hand.assignment("create_index", version=f"1.{minor}.0"))
    survey = hand.database.journal.survey()
    assert sorted(survey.by_version()) == [f"1.{minor}.0" for minor in range(5)]
    assert all(len(each.operations) == 1 for each in survey.migrations)


def test_there_is_nothing_before_the_first_run(settings: Settings, client: Elasticsearch) -> None:
    """Planning and status work, and write nothing."""
    from dharma_tasks.databases.elasticsearch import database

    there = database(settings)
    assert there.journal.survey().head is None
    assert not client.indices.exists(index=f"{settings.namespace}_head")
