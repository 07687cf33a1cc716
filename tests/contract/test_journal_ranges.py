"""What the journals promise of operations that are cut into ranges: see `journal.py`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from journal_hand import Worker, back, record

from dharma_tasks.errors import FenceLost, Outdated
from dharma_tasks.journal import Amendment, Declaration, Ranges
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.work import Assignment, Prepared, Range, Step, Taken

pytestmark = pytest.mark.parametrize("name", ["mongodb", "postgresql"])

RANGES = (Range(None, {"last": 10}), Range(10, {"last": 20}), Range(20, {"last": 30}))


def ranges(worker: Worker) -> Ranges[Any]:
    """The part of the journal that is tested here."""
    found = worker.journal.ranges
    assert found is not None
    return found


def cut(worker: Worker, assignment: Assignment, *, count: int = 3) -> Taken:
    """Take an operation and cut it into its ranges."""
    taken = worker.take(assignment)
    prepared = Prepared({"last": 30, "table": "t"}, total=30, ranges=RANGES[:count])
    return worker.journal.prepare(taken, prepared)


def take(worker: Worker, assignment: Assignment, number: int, *, counted: bool = True) -> Taken:
    """Take one of its ranges."""
    return ranges(worker).take(assignment.of_range(number), worker.owner(), counted=counted)


def step(worker: Worker, taken: Taken, cursor: Any, *, finished: bool = False) -> Taken:
    """Do a batch of a range."""
    batch = Step(cursor=cursor, done=5, finished=finished)
    return ranges(worker).step(taken, lambda _handle: batch, transactional=True)


def refused(worker: Worker, taken: Taken) -> None:
    """Nothing that `taken` writes is kept."""
    before = ranges(worker).of(taken.assignment.key)
    for write in (
        lambda: step(worker, taken, "late"),
        lambda: step(worker, taken, "late", finished=True),
        lambda: ranges(worker).note(taken, "late"),
        lambda: ranges(worker).fail(taken, "late", MigrationState.FAILED),
    ):
        with pytest.raises(FenceLost):
            write()
    assert ranges(worker).of(taken.assignment.key) == before


def states(worker: Worker, assignment: Assignment) -> list[str]:
    """How the ranges stand."""
    return [each.state.value for each in ranges(worker).of(assignment.key)]


def test_an_operation_is_cut(worker: Worker) -> None:
    """In the write that records what it found; each range begins with its part of that."""
    assignment = worker.assignment(worker.begin())
    whole = cut(worker, assignment)
    assert (whole.ranges, whole.cursor) == (3, {})
    again = worker.take(assignment)
    assert (again.ranges, again.cursor, again.undo) == (3, {}, whole.undo)
    assert states(worker, assignment) == ["pending"] * 3
    taken = take(worker, assignment, 2)
    assert (taken.cursor, taken.done, taken.attempts, taken.fence) == (10, 0, 1, 2)
    assert taken.undo == {"last": 20, "table": "t", "ranges": 3}
    assert (taken.state, taken.ranges, taken.former) == (OperationState.RUNNING, 0, None)


def test_each_has_a_cursor_of_its_own(new: Callable[[], Worker]) -> None:
    """Three workers go on at the same time, and the operation's record is a fourth one's."""
    whole, *others = (new() for _ in range(4))
    assignment = whole.assignment(whole.begin())
    taken = cut(whole, assignment)

    def work(number: int) -> None:
        worker = others[number - 1]
        found = take(worker, assignment, number)
        for cursor in range(5):
            found = step(worker, found, cursor, finished=cursor == 4)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, (1, 2, 3)))
    found = ranges(whole).of(assignment.key)
    assert [(each.number, each.cursor, each.done) for each in found] == [
        (1, 4, 25),
        (2, 4, 25),
        (3, 4, 25),
    ]
    assert states(whole, assignment) == ["done"] * 3
    assert ranges(whole).owners(assignment.key) == []
    done = Step(cursor={"kept": 3}, done=75, finished=True, total=75)
    whole.journal.step(taken, lambda _handle: done, transactional=True)
    assert record(whole).state is MigrationState.APPLIED
    assert record(whole).operations[0].done == 75


def test_the_second_taker_fences_out_the_first(new: Callable[[], Worker]) -> None:
    """With fence, cursor and count in one write, and who had it before."""
    one, other = new(), new()
    assignment = one.assignment(one.begin())
    whole = cut(one, assignment)
    late = step(one, take(one, assignment, 1), 5)
    assert ranges(one).owner(assignment.key.of_range(1)) is not None
    found = take(other, assignment, 1)
    assert (found.cursor, found.done, found.fence, found.attempts) == (5, 5, late.fence + 1, 1)
    assert found.former is not None
    refused(one, late)
    assert take(one, assignment, 2).fence == 2, "the others are as they were"
    assert one.step(whole, {}, done=0).done == 0, "and so is the operation"


def test_attempts(worker: Worker) -> None:
    """They count what ended without a word; an orderly stop, or moving, does not."""
    assignment = worker.assignment(worker.begin())
    cut(worker, assignment)
    assert [take(worker, assignment, 1).attempts for _ in range(3)] == [1, 2, 3]
    ranges(worker).note(take(worker, assignment, 1, counted=False), None)
    assert ranges(worker).owner(assignment.key.of_range(1)) is None
    assert take(worker, assignment, 1).attempts == 3
    step(worker, take(worker, assignment, 1), 5)
    assert take(worker, assignment, 1).attempts == 1


def test_another_run_fences_out_all(new: Callable[[], Worker]) -> None:
    """And goes on from where they are."""
    one, other = new(), new()
    generation = one.begin()
    assignment = one.assignment(generation)
    cut(one, assignment)
    late = step(one, take(one, assignment, 2), 15)
    other.begin("run-2", generation)
    refused(one, late)
    with pytest.raises(Outdated):
        take(one, assignment, 3)
    again = other.assignment(generation + 1)
    assert other.take(again).ranges == 3
    assert take(other, again, 2).cursor == 15


def test_the_way_back_fences_out_all(new: Callable[[], Worker]) -> None:
    """Before anything is undone nobody commits in any range any more (FAULTS 22)."""
    one, other = new(), new()
    assignment = one.assignment(one.begin())
    cut(one, assignment)
    late = [step(one, take(one, assignment, number), 5) for number in (1, 2)]
    assert len(ranges(other).owners(assignment.key)) == 2
    undoing = other.take(back(assignment))
    assert undoing.ranges == 0
    assert undoing.walked is not None
    assert undoing.walked.cursor == {}
    for each in late:
        refused(one, each)
    for number in (1, 2, 3):
        with pytest.raises(Outdated):
            take(one, assignment, number)
    other.step(undoing, None, finished=True)
    assert record(other).operations == []


def test_what_begins_again_has_new_fences(new: Callable[[], Worker]) -> None:
    """Who was frozen since the first time finds its number nowhere, also with fewer ranges."""
    one, other = new(), new()
    generation = one.begin()
    assignment = one.assignment(generation)
    cut(one, assignment)
    late = [take(one, assignment, number) for number in (1, 3)]
    other.step(other.take(back(assignment)), None, finished=True)
    other.begin("run-2", generation)
    again = other.assignment(generation + 1)
    cut(other, again, count=2)
    assert states(other, again) == ["pending"] * 2
    first = take(other, again, 1)
    assert (first.cursor, first.done) == (None, 0)
    assert first.fence > late[0].fence
    for each in late:
        refused(one, each)
    with pytest.raises(Outdated):
        take(other, again, 3)


def test_one_that_fails_waits_for_its_operation(worker: Worker) -> None:
    """The migration goes on until its operation is told; that fences out the other ranges."""
    assignment = worker.assignment(worker.begin())
    whole = cut(worker, assignment)
    other = step(worker, take(worker, assignment, 1), 5)
    bad = step(worker, take(worker, assignment, 2), 15)
    ranges(worker).fail(bad, "row 16 is bad\x00", MigrationState.FAILED)
    assert record(worker).state is MigrationState.RUNNING
    found = ranges(worker).of(assignment.key)[1]
    assert (found.state, found.cursor) == (OperationState.FAILED, 15)
    assert found.error is not None
    assert found.error.startswith("row 16 is bad")
    refused(worker, bad)
    worker.journal.fail(whole, "range 2 of 3: row 16 is bad", MigrationState.FAILED)
    assert record(worker).error == "range 2 of 3: row 16 is bad"
    refused(worker, other)
    with pytest.raises(Outdated):
        take(worker, assignment, 3)
    worker.take(assignment)
    assert states(worker, assignment) == ["running", "running", "pending"]
    again = take(worker, assignment, 2)
    assert (again.cursor, again.attempts) == (15, 1)


def test_a_person_lets_it_be_tried_again(worker: Worker) -> None:
    """Whatever its ranges have failed with, and however often they were begun."""
    generation = worker.begin()
    assignment = worker.assignment(generation)
    whole = cut(worker, assignment)
    for _ in range(3):
        late = take(worker, assignment, 1)
    ranges(worker).fail(take(worker, assignment, 2), "bad", MigrationState.FAILED)
    worker.journal.fail(whole, "range 2 of 3: bad", MigrationState.FAILED)
    retry = Amendment("1.0.0", "first", "sum-1", ("kind",), MigrationState.RUNNING)
    declaration = Declaration("declared", "me", "retry", "why", (retry,))
    worker.journal.declare(declaration, generation)
    refused(worker, late)
    worker.begin("run-3", generation + 1)
    again = worker.assignment(generation + 2)
    assert worker.take(again).attempts == 1
    assert [take(worker, again, number).attempts for number in (1, 2, 3)] == [1, 1, 1]


def test_an_operation_that_is_done_has_no_ranges_to_take(worker: Worker) -> None:
    """A late message finds nothing to do."""
    assignment = worker.assignment(worker.begin())
    whole = cut(worker, assignment)
    for number in (1, 2, 3):
        done = step(worker, take(worker, assignment, number), "end", finished=True)
        assert done.over
        assert take(worker, assignment, number).over, "it is returned as it is"
    worker.step(whole, {}, finished=True)
    with pytest.raises(Outdated):
        take(worker, assignment, 1)
