"""How a declaration is whole in Elasticsearch, which has no transactions: the head keeps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from elasticsearch import ConnectionTimeout
from elasticsearch_hand import Hand

from dharma_tasks.databases.elasticsearch.declaring import Declaring
from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.journal import Amendment, Declaration
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.work import Prepared, Step


@pytest.fixture
def namespace(unique: str) -> str:
    """Each test has a journal of its own."""
    return unique


def _declaration(*versions: str, run: str = "declared") -> Declaration:
    state, types = MigrationState.APPLIED, ("a", "b")
    amendments = tuple(Amendment(each, "name", "sum", types, state) for each in versions)
    return Declaration(run, "me", "baseline", "why", amendments)


def _cut_off(hand: Hand, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    """Let the worker die in the middle of a declaration of two versions."""
    client, left = hand.database.journal._client, [writes]
    real = client.index

    def index(**kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise ConnectionTimeout("killed")
        return real(**kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(client, "index", index)
        with pytest.raises(ConnectionTimeout):
            hand.database.journal.declare(_declaration("2.0.0", "2.1.0"), hand.generation)


def _whole(hand: Hand) -> bool:
    """Whether all of that declaration is there, once."""
    journal = hand.database.journal
    found = [each for each in journal.survey().migrations if each.version.startswith("2.")]
    told = [each.version for each in journal.history(100) if each.event == "baseline"]
    done = [operation.state for each in found for operation in each.operations]
    return (
        [each.state for each in found] == [MigrationState.APPLIED] * 2
        and done == [OperationState.DONE] * 4
        and sorted(told, key=str) == ["2.0.0", "2.1.0"]
    )


# The head, then two operations and the migration, twice, then two entries of the history.
@pytest.mark.parametrize("writes", [1, 3, 5, 8])
@pytest.mark.parametrize("who", ["repeated", "the next run"])
def test_whoever_comes_next_completes_it(
    hands: Callable[[str], Hand], monkeypatch: pytest.MonkeyPatch, who: str, writes: int
) -> None:
    """Its own repetition, or a run that was planned before: that one is refused all the same."""
    dead, other = hands("dead"), hands("other")
    _cut_off(dead, monkeypatch, writes)
    journal, planned = other.database.journal, dead.generation + 1
    head = journal.survey().head
    assert head is not None
    assert head.generation == planned
    assert not _whole(other)
    if who == "repeated":
        journal.declare(_declaration("2.0.0", "2.1.0"), dead.generation)
    else:
        other.run, other.generation = "planned on the half", planned + 1
        with pytest.raises(FenceLost):
            other.begin()
    assert _whole(other)
    other.run, other.generation = "planned on the whole", planned + 2
    other.begin()


def test_who_was_frozen_in_it_changes_nothing_when_it_wakes(
    hands: Callable[[str], Hand], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one has completed it, and a later run has gone on from there."""
    late, other = hands("late"), hands("other")
    journal, generation = other.database.journal, late.generation
    write, after = Declaring.write, []

    def frozen(self: Declaring) -> None:
        monkeypatch.setattr(Declaring, "write", write)
        journal.declare(_declaration("2.0.0"), generation)
        other.run, other.generation = "later", generation + 3
        other.begin()
        taken = other.take(other.assignment("a", version="2.1.0"))
        journal.step(taken, lambda _: Step("on", done=1), transactional=False)
        after.append(journal.survey())
        write(self)

    monkeypatch.setattr(Declaring, "write", frozen)
    late.database.journal.declare(_declaration("2.0.0"), generation)
    assert after == [journal.survey()]


def test_who_is_about_to_take_takes_nothing(
    hands: Callable[[str], Hand], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has looked at the head before, and writes after: what was declared stays."""
    late, other = hands("late"), hands("other")
    done = late.take(late.assignment("a", version="2.0.0", count=2))
    late.database.journal.step(done, lambda _: Step("end", finished=True), transactional=False)
    second = late.take(late.assignment("b", version="2.0.0", number=2, count=2))
    late.database.journal.fail(second, "no", MigrationState.FAILED)
    amendment = Amendment("2.0.0", "name", "sum", ("a", "b"), MigrationState.RUNNING)
    declaration = Declaration("declared", "me", "retry", "why", (amendment,))
    journal, seize, after = late.database.journal, late.database.journal._seize, []

    def declare_in_between(*args: Any, **kwargs: Any) -> Any:
        other.database.journal.declare(declaration, late.generation)
        after.append(other.database.journal.survey())
        return seize(*args, **kwargs)

    monkeypatch.setattr(journal, "_seize", declare_in_between)
    with pytest.raises(Outdated, match="newer run"):
        late.take(late.assignment("b", version="2.0.0", number=2, count=2))
    assert after == [other.database.journal.survey()]
    with pytest.raises(FenceLost):
        journal.prepare(second, Prepared({}))
