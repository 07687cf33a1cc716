"""What every database's journal promises of the way back: see `dharma_tasks/journal.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from journal_hand import Worker, back, record, refused, rollback_file

from dharma_tasks.databases import NAMES
from dharma_tasks.errors import FenceLost
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.work import Assignment, Prepared, Walked

pytestmark = pytest.mark.parametrize("name", NAMES)


def applied(worker: Worker, count: int = 1) -> list[Assignment]:
    """Apply a migration of so many operations."""
    generation = worker.begin()
    assignments = [worker.assignment(generation, n, count) for n in range(1, count + 1)]
    for assignment in assignments:
        taken = worker.take(assignment)
        taken = worker.journal.prepare(taken, Prepared({"was": assignment.key.number}, total=20))
        worker.step(worker.step(taken, "half"), "end", finished=True)
    assert record(worker).state is MigrationState.APPLIED
    return assignments


def test_an_operation_is_undone(worker: Worker) -> None:
    """From a cursor of its own, with what was recorded and how far the way forward had come."""
    (assignment,) = applied(worker)
    taken = worker.take(back(assignment))
    assert (taken.state, taken.cursor, taken.done) == (OperationState.UNDOING, None, 0)
    assert (taken.undo, taken.walked) == ({"was": 1}, Walked("end", 20))
    assert (taken.attempts, taken.over) == (1, False)
    assert record(worker).state is MigrationState.ROLLING_BACK
    assert record(worker).operations[0].state is OperationState.UNDOING
    worker.step(taken, {"back": 1})
    again = worker.take(back(assignment))
    assert (again.cursor, again.done, again.fence) == ({"back": 1}, 10, taken.fence + 1)
    assert (again.undo, again.walked) == ({"was": 1}, Walked("end", 20))
    undone = worker.step(again, None, finished=True)
    assert (undone.state, undone.over) == (OperationState.PENDING, True)
    found = record(worker)
    assert (found.state, found.operations, found.error) == (MigrationState.ROLLED_BACK, [], None)
    assert found.finished is not None
    assert worker.journal.owner(assignment.key) is None


def test_the_way_back_fences_out_the_way_forward(new: Callable[[], Worker]) -> None:
    """Who was frozen on the way forward commits nothing once the way back has begun (FAULTS 22)."""
    one, other = new(), new()
    assignment = one.assignment(one.begin())
    late = one.step(one.take(assignment), "kept")
    taken = other.take(back(assignment))
    assert taken.walked == Walked("kept", 10)
    refused(one, late)
    with pytest.raises(FenceLost):
        one.take(assignment)
    late = taken
    taken = one.take(back(assignment))
    refused(other, late)
    one.step(taken, None, finished=True)
    refused(one, taken)


def test_operations_are_undone_from_the_last(worker: Worker) -> None:
    """The first one can't be undone before the second, and the migration ends with the first."""
    first, second = applied(worker, 2)
    with pytest.raises(FenceLost):
        worker.take(back(first))
    worker.step(worker.take(back(second)), None, finished=True)
    found = record(worker)
    assert (found.state, found.finished) == (MigrationState.ROLLING_BACK, None)
    assert [each.state for each in found.operations] == [OperationState.DONE]
    worker.step(worker.take(back(first)), None, finished=True)
    assert record(worker).state is MigrationState.ROLLED_BACK


def test_what_is_undone_stays_undone(worker: Worker) -> None:
    """A duplicate delivery sees that there is nothing to undo, and changes nothing."""
    first, second = applied(worker, 2)
    for assignment in (second, first):
        worker.step(worker.take(back(assignment)), None, finished=True)
        again = worker.take(back(assignment))
        assert (again.state, again.over) == (OperationState.PENDING, True)
    before = record(worker)
    assert worker.take(back(second)).over
    assert record(worker) == before
    assert before.state is MigrationState.ROLLED_BACK


def test_after_a_failure_what_was_done_is_undone(worker: Worker) -> None:
    """By the same run; a last operation that was never begun is skipped, the first error stays."""
    generation = worker.begin()
    first, second, third = (worker.assignment(generation, n, 3) for n in (1, 2, 3))
    worker.step(worker.take(first), "end", finished=True)
    worker.journal.fail(worker.step(worker.take(second), "some"), "no", MigrationState.FAILED)
    assert worker.take(back(third)).over
    taken = worker.take(back(second))
    assert taken.walked == Walked("some", 10)
    assert record(worker).error == "no"
    worker.step(taken, None, finished=True)
    worker.step(worker.take(back(first)), None, finished=True)
    found = record(worker)
    assert (found.state, found.error) == (MigrationState.ROLLED_BACK, "no")


def test_the_way_back_may_fail_and_go_on(worker: Worker) -> None:
    """What was being undone is still to be undone, from where it was; forward it cannot go."""
    (assignment,) = applied(worker)
    taken = worker.step(worker.take(back(assignment)), "some")
    worker.journal.fail(taken, "no way", MigrationState.FAILED)
    found = record(worker)
    assert (found.state, found.error) == (MigrationState.FAILED, "on the way back: no way")
    assert found.operations[0].state is OperationState.UNDOING
    assert worker.journal.owner(assignment.key) is None
    refused(worker, taken)
    generation = worker.begin("run-2", assignment.generation)
    with pytest.raises(FenceLost):
        worker.take(replace(assignment, run="run-2", generation=generation))
    again = worker.take(back(assignment, generation))
    assert (again.cursor, again.attempts, again.walked) == ("some", 1, Walked("end", 20))
    assert record(worker).error is None
    worker.step(again, None, finished=True)
    assert record(worker).state is MigrationState.ROLLED_BACK


def test_the_first_error_stays(worker: Worker) -> None:
    """Also when the way back fails, twice: those errors are the operation's, and the history's."""
    assignment = worker.assignment(worker.begin())
    worker.journal.fail(worker.step(worker.take(assignment), "on"), "first", MigrationState.FAILED)
    for error in ("second", "third"):
        taken = worker.take(back(assignment))
        worker.journal.fail(taken, error, MigrationState.FAILED)
        found = record(worker)
        assert (found.state, found.error) == (MigrationState.FAILED, "first")
        assert found.operations[0].error == error
    worker.step(worker.take(back(assignment)), None, finished=True)
    assert (record(worker).state, record(worker).error) == (MigrationState.ROLLED_BACK, "first")
    errors = [each.error for each in worker.journal.history(100) if each.event == "failed"]
    assert errors == ["first", "second", "third"]


def test_how_long_the_way_back_took(worker: Worker) -> None:
    """It counts from when it began, not from when the migration was applied; the start stays."""
    first, second = applied(worker, 2)
    before = record(worker)
    worker.backdate(before.version, timedelta(days=2))
    generation = worker.begin("run-2", first.generation)
    worker.step(worker.take(back(second, generation)), None, finished=True)
    taken = worker.take(back(first, generation))
    worker.journal.fail(taken, "no", MigrationState.FAILED)
    failed = record(worker)
    worker.step(worker.take(back(first, generation)), None, finished=True)
    ended = record(worker)
    assert ended.state is MigrationState.ROLLED_BACK
    assert before.started - ended.started == timedelta(days=2)
    assert before.seconds is not None
    assert failed.seconds is not None
    assert ended.seconds is not None
    assert 0 <= failed.seconds <= ended.seconds < 60
    generation = worker.begin("run-3", generation)
    for assignment in (first, second):
        anew = replace(assignment, run="run-3", generation=generation)
        worker.step(worker.take(anew), None, finished=True)
    again = record(worker)
    assert again.started > before.started
    worker.backdate(again.version, timedelta(hours=1))
    generation = worker.begin("run-4", generation)
    files = rollback_file(second, 3, 3, run="run-4", generation=generation)
    worker.step(worker.take(files), None, finished=True)
    assert record(worker).state is MigrationState.ROLLED_BACK
    assert 0 <= (record(worker).seconds or 0) < 60


def test_a_last_operation_that_was_never_begun(worker: Worker) -> None:
    """What is left of a migration is told, by whoever finds that nothing is to be undone."""
    generation = worker.begin()
    first, second = (worker.assignment(generation, n, 2) for n in (1, 2))
    taken = worker.step(worker.take(first), "on")
    worker.journal.fail(taken, "no", MigrationState.FAILED)
    told = len(worker.journal.history(100))
    partly = replace(back(second), until=2, outcome=MigrationState.FAILED)
    assert worker.take(partly).over
    assert len(worker.journal.history(100)) == told  # it has failed already
    for _ in range(2):
        assert worker.take(replace(back(second), until=2)).over
    assert record(worker).state is MigrationState.ROLLED_BACK
    (last,) = worker.journal.history(100)[told:]
    assert (last.event, last.number, last.version) == ("rolled_back", None, "1.0.0")
    assert (last.name, last.checksum, last.seconds) == ("first", "sum-1", record(worker).seconds)


def test_what_a_run_has_undone_in_part_it_does_not_begin_again(worker: Worker) -> None:
    """Frozen before its taking, it comes after the end: the migration stays as it is."""
    generation = worker.begin()
    first, second = (worker.assignment(generation, n, 2) for n in (1, 2))
    worker.step(worker.take(first), "end", finished=True)
    worker.journal.fail(worker.step(worker.take(second), "on"), "no", MigrationState.FAILED)
    partly = replace(back(second), until=2, outcome=MigrationState.FAILED)
    worker.step(worker.take(partly), None, finished=True)
    before = record(worker)
    assert (before.state, before.error) == (MigrationState.FAILED, "no")
    assert worker.take(first).state is OperationState.DONE
    assert record(worker) == before
    with pytest.raises(FenceLost):
        worker.take(second)
    assert record(worker) == before
    generation = worker.begin("run-2", generation)
    again = worker.take(replace(second, run="run-2", generation=generation))
    assert (again.state, again.cursor) == (OperationState.RUNNING, None)


def test_a_rollback_file_that_leaves_nothing(worker: Worker) -> None:
    """The migration is applied, as before; its run does not begin it again, another may."""
    (assignment,) = applied(worker)
    generation = worker.begin("run-2", assignment.generation)
    first = rollback_file(assignment, 2, 3, run="run-2", generation=generation)
    worker.backdate("1.0.0", timedelta(hours=1))
    taken = worker.take(first)
    worker.journal.fail(taken, "no", MigrationState.APPLIED)
    found = record(worker)
    assert (found.state, found.error, found.seconds) == (MigrationState.APPLIED, None, None)
    assert [(each.number, each.state) for each in found.operations] == [(1, OperationState.DONE)]
    assert found.finished is not None
    told = worker.journal.history(100)[-1]
    assert (told.event, told.number, told.error) == ("failed", 2, "no")
    assert (told.name, told.checksum) == ("first", "sum-1")
    assert 0 <= (told.seconds or -1) < 60  # of the way back: of the migration none is known
    refused(worker, taken)
    with pytest.raises(FenceLost):
        worker.take(first)
    assert record(worker) == found
    generation = worker.begin("run-3", generation)
    again = worker.take(replace(first, run="run-3", generation=generation))
    assert (again.state, again.cursor, again.undo) == (OperationState.RUNNING, None, None)
    assert again.fence > taken.fence


def test_what_was_undone_can_be_applied_again(worker: Worker) -> None:
    """From the start, under higher fences, by another run, with another checksum."""
    (assignment,) = applied(worker)
    undone = worker.step(worker.take(back(assignment)), None, finished=True)
    generation = worker.begin("run-2", assignment.generation)
    anew = replace(assignment, run="run-2", generation=generation, checksum="sum-2")
    taken = worker.take(anew)
    assert (taken.state, taken.cursor, taken.undo) == (OperationState.RUNNING, None, None)
    assert (taken.done, taken.attempts, taken.walked) == (0, 1, None)
    assert taken.fence > undone.fence
    assert record(worker).checksum == "sum-2"
    worker.step(taken, "end", finished=True)
    assert record(worker).state is MigrationState.APPLIED


def test_what_a_run_has_rolled_back_it_does_not_begin_anew(worker: Worker) -> None:
    """A worker that was frozen before its taking comes late: the run is through with it.

    Nobody is told to begin again what the same run has given up; only another run is.
    """
    generation = worker.begin()
    assignment = worker.assignment(generation)
    worker.journal.fail(worker.take(assignment), "no", MigrationState.ROLLED_BACK)
    before = record(worker)
    with pytest.raises(FenceLost):
        worker.take(assignment)
    assert record(worker) == before
    generation = worker.begin("run-2", generation)
    assert worker.take(worker.assignment(generation)).state is OperationState.RUNNING


def test_half_undone_can_go_on_to_be_undone_only(worker: Worker) -> None:
    """The first operation is done still: forward, the second one begins again from its start."""
    first, second = applied(worker, 2)
    worker.step(worker.take(back(second)), None, finished=True)
    with pytest.raises(FenceLost):
        worker.begin("run-2", second.generation + 1)
    generation = worker.begin("run-2", second.generation)
    taken = worker.take(replace(second, run="run-2", generation=generation))
    assert (taken.state, taken.cursor, taken.undo) == (OperationState.RUNNING, None, None)
    worker.step(taken, "end", finished=True)
    assert record(worker).state is MigrationState.APPLIED
    assert (
        worker.take(replace(first, run="run-2", generation=generation)).state is OperationState.DONE
    )


def test_a_rollback_file_is_carried_out_after_the_migration(worker: Worker) -> None:
    """Its operations are numbered on, go forward, and the last one rolls the migration back."""
    (assignment,) = applied(worker)
    files = [rollback_file(assignment, number, 3) for number in (2, 3)]
    with pytest.raises(FenceLost):
        worker.take(files[1])
    taken = worker.take(files[0])
    assert (taken.state, taken.walked) == (OperationState.RUNNING, None)
    assert record(worker).state is MigrationState.ROLLING_BACK
    worker.step(taken, None, finished=True)
    assert record(worker).state is MigrationState.ROLLING_BACK
    worker.step(worker.take(files[1]), None, finished=True)
    assert record(worker).state is MigrationState.ROLLED_BACK
    for done in files:
        assert worker.take(done).state is OperationState.DONE
    assert record(worker).state is MigrationState.ROLLED_BACK
    generation = worker.begin("run-2", assignment.generation)
    again = worker.take(replace(assignment, run="run-2", generation=generation))
    assert (again.state, again.cursor) == (OperationState.RUNNING, None)
    worker.step(again, "end", finished=True)
    redone = worker.take(replace(files[0], run="run-2", generation=generation))
    assert (redone.state, redone.cursor) == (OperationState.RUNNING, None)


def test_why_it_cannot_be_undone_is_known(worker: Worker) -> None:
    """What `prepare` has found out is there for planning."""
    assignment = worker.assignment(worker.begin())
    undo = {"irreversible": "the destination held documents before"}
    worker.journal.prepare(worker.take(assignment), Prepared(undo, total=1))
    (operation,) = record(worker).operations
    assert operation.irreversible == "the destination held documents before"
