"""What the journal in Elasticsearch does in place of transactions.

What every journal promises is in tests/contract/test_journal.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from elasticsearch import ConnectionTimeout, Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.elasticsearch import indices
from dharma_tasks.databases.elasticsearch.journal import ElasticsearchJournal
from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.records import Direction, MigrationState, OperationState
from dharma_tasks.settings import Settings
from dharma_tasks.work import Assignment, Prepared, Step, Taken, Walked


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
    with pytest.raises(FenceLost, match="generation 2 of run run2, not 1"):
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
    last = hand.database.journal.history(1)[0]
    assert (last.event, last.checksum, last.seconds) == (
        "applied",
        migration.checksum,
        migration.seconds,
    )
    assert last.seconds is not None


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
    hand.again()
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


# --- the way back ---


def _back(hand: Hand, number: int = 1, count: int = 1) -> Assignment:
    forward = hand.assignment("create_index", number=number, count=count)
    return replace(forward, direction=Direction.BACK, outcome=MigrationState.ROLLED_BACK)


def _done(hand: Hand, count: int = 1) -> None:
    for number in range(1, count + 1):
        taken = hand.take(hand.assignment("create_index", number=number, count=count))
        taken = hand.database.journal.prepare(taken, Prepared({"n": number}))
        _end(hand, taken)


def _end(hand: Hand, taken: Taken) -> Taken:
    last = Step("end", done=1, finished=True)
    return hand.database.journal.step(taken, lambda _: last, transactional=False)


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_the_next_take_completes_an_undoing_that_was_cut_short(
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    """Killed after the operation is undone, after the migration is rolled back, or in between."""
    hand = hands("first")
    _done(hand)
    taken = hand.take(_back(hand))
    revive = _die_after(hand.database.journal, monkeypatch, writes)
    with pytest.raises(ConnectionTimeout):
        _end(hand, taken)
    revive()
    again = hands("second").take(_back(hand))
    assert again.state is OperationState.PENDING
    (migration,) = hand.database.journal.survey().migrations
    assert (migration.state, migration.operations) == (MigrationState.ROLLED_BACK, [])
    events = ["applied", "begin", "done", "rolled_back", "take", "take", "undone"]
    assert _history(client, unique) == events


def test_an_undoing_that_was_not_told_is_told_by_the_one_before(
    hand: Hand, client: Elasticsearch, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody takes an operation again that is undone, but the one before is always taken."""
    _done(hand, 2)
    taken = hand.take(_back(hand, 2, 2))
    revive = _die_after(hand.database.journal, monkeypatch, 1)
    with pytest.raises(ConnectionTimeout):
        _end(hand, taken)
    revive()
    hand.take(_back(hand, 1, 2))
    assert _history(client, unique).count("undone") == 1


def test_the_first_take_back_may_be_cut_short_too(
    hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operation is being undone, and the migration does not know: the next one tells it."""
    _done(hand)
    revive = _die_after(hand.database.journal, monkeypatch, 1)
    with pytest.raises(ConnectionTimeout):
        hand.take(_back(hand))
    revive()
    (migration,) = hand.database.journal.survey().migrations
    assert migration.state is MigrationState.APPLIED
    taken = hand.take(_back(hand))
    assert (taken.undo, taken.walked, taken.cursor) == ({"n": 1}, Walked("end", 1), None)
    (migration,) = hand.database.journal.survey().migrations
    assert migration.state is MigrationState.ROLLING_BACK


def test_of_two_that_go_in_opposite_directions_one_is_refused(
    hands: Callable[[str], Hand], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late delivery begins the next operation just while the one before begins to be undone."""
    forward, back = hands("forward"), hands("back")
    _done(forward)
    journal = back.database.journal
    seize = journal._seize

    def begin_in_between(*args: Any, **kwargs: Any) -> Any:
        forward.take(forward.assignment("create_index", number=2, count=2))
        return seize(*args, **kwargs)

    monkeypatch.setattr(journal, "_seize", begin_in_between)
    with pytest.raises(Outdated, match=r"operation 2 of .* is not undone"):
        back.take(_back(back, 1, 2))
    monkeypatch.undo()
    _end(back, back.take(_back(back, 2, 2)))  # asked for again, it begins with the last one
    _end(back, back.take(_back(back, 1, 2)))
    (migration,) = journal.survey().migrations
    assert migration.state is MigrationState.ROLLED_BACK


def test_a_late_delivery_does_not_begin_anew_what_its_run_has_undone(hand: Hand) -> None:
    """Forward, back, and not forward again; another run may."""
    _done(hand, 2)
    _end(hand, hand.take(_back(hand, 2, 2)))
    with pytest.raises(Outdated, match="is undone"):
        hand.take(hand.assignment("create_index", number=2, count=2))
    done = hand.take(hand.assignment("create_index", number=1, count=2))
    assert done.state is OperationState.DONE
    (migration,) = hand.database.journal.survey().migrations
    assert migration.state is MigrationState.ROLLING_BACK
    _end(hand, hand.take(_back(hand, 1, 2)))
    with pytest.raises(Outdated, match="this run has rolled"):
        hand.take(hand.assignment("create_index", number=1, count=2))
    hand.again()
    _done(hand, 2)
    (migration,) = hand.database.journal.survey().migrations
    assert migration.state is MigrationState.APPLIED


@pytest.mark.parametrize("opened", [False, True])
def test_a_journal_of_an_earlier_version_gets_its_new_fields(
    hand: Hand,
    hands: Callable[[str], Hand],
    client: Elasticsearch,
    unique: str,
    monkeypatch: pytest.MonkeyPatch,
    opened: bool,  # noqa: FBT001
) -> None:
    """By the next run, and by a worker that goes on with a run that was opened before it."""
    new = {"operations": "walked", "migrations": "generation", "history": "seconds"}
    client.indices.delete(index=[f"{unique}_{kind}" for kind in new])
    before = {
        kind: {name: field for name, field in fields.items() if name != new.get(kind)}
        for kind, fields in indices._FIELDS.items()
    }
    with monkeypatch.context() as earlier:
        earlier.setattr(indices, "_FIELDS", before)
        indices.make(client, indices.Names(unique))
    # What an earlier version has written: an operation that is done.
    client.index(
        index=f"{unique}_migrations",
        id=hand.version,
        document={
            "version": hand.version,
            "name": "a migration",
            "state": "running",
            "era": 1,
            "checksum": "sum",
            "run": hand.run,
            "by": "x",
            "started": "2026-01-01T00:00:00Z",
        },
    )
    client.index(
        index=f"{unique}_operations",
        id=f"{hand.version}#1",
        document={
            "version": hand.version,
            "number": 1,
            "type": "create_index",
            "state": "done",
            "era": 1,
            "fence": 3,
            "generation": 1,
            "run": hand.run,
            "by": "x",
            "done": 1,
            "total": 1,
            "attempts": 0,
            "cursor": "null",
            "undo": '{"existed": false}',
        },
    )
    second = hands("second") if opened else hand
    assert second.database.journal.survey().by_version()[hand.version].operations[0].done == 1
    if not opened:
        second.again()
    else:
        second.database.journal._is_made = False  # as in a worker that begins with this take
    taken = second.take(_back(second))
    assert (taken.undo, taken.walked) == ({"existed": False}, Walked(None, 1))
    _end(second, taken)
    (migration,) = second.database.journal.survey().migrations
    assert migration.state is MigrationState.ROLLED_BACK
    for kind, field in new.items():
        found = client.indices.get_mapping(index=f"{unique}_{kind}")[f"{unique}_{kind}"]
        assert field in found["mappings"]["properties"]
