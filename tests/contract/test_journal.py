"""What every database's journal promises, on the real ones: see `dharma_tasks/journal.py`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from journal_hand import Worker, back, refused

from dharma_tasks.databases import NAMES
from dharma_tasks.errors import FenceLost, Refused
from dharma_tasks.journal import Amendment, Declaration
from dharma_tasks.records import SCHEMA_VERSION, Direction, MigrationState, OperationState
from dharma_tasks.work import Assignment, Earlier, Prepared, Taken

pytestmark = pytest.mark.parametrize("name", NAMES)


# --- a run ---


def test_survey_before_the_first_run(worker: Worker) -> None:
    """A journal that does not exist yet is read as an empty one, and not made by reading."""
    for _ in range(2):
        survey = worker.journal.survey()
        assert (survey.database, survey.head, survey.migrations) == (worker.name, None, [])
        assert worker.journal.head() is None
        assert worker.journal.state("1.0.0") is MigrationState.PENDING


def test_begin_opens_a_run(worker: Worker) -> None:
    """The head says what was opened; its identity never changes."""
    assert worker.begin("run-1", 0) == 1
    first = worker.journal.survey().head
    assert worker.begin("run-2", 1) == 2
    second = worker.journal.survey().head
    assert first is not None
    assert second is not None
    assert first.identity
    assert second.identity == first.identity
    assert (first.run, first.generation) == ("run-1", 1)
    assert (second.run, second.generation, second.plan) == ("run-2", 2, "plan")
    assert second.direction is Direction.FORWARD
    assert worker.journal.head() == second


def test_begin_is_a_compare_and_set(worker: Worker) -> None:
    """A plan made on an older head is refused and changes nothing."""
    worker.begin("run-1", 0)
    worker.begin("run-2", 1)
    for expected in (0, 1, 3):
        with pytest.raises(FenceLost):
            worker.begin("run-3", expected)
    head = worker.journal.survey().head
    assert head is not None
    assert (head.run, head.generation) == ("run-2", 2)


def test_begin_again_for_the_same_run(worker: Worker) -> None:
    """A repeated begin returns the run's generation, and leaves its workers their fences."""
    generation = worker.begin()
    taken = worker.take(worker.assignment(generation))
    assert worker.begin() == generation
    assert worker.step(taken, "on").cursor == "on"


def test_two_begin_at_once(new: Callable[[], Worker]) -> None:
    """Of runs that plan on the same head, even the very first one, exactly one begins."""
    workers = [new() for _ in range(4)]

    def begin(number: int) -> int | None:
        try:
            return workers[number].begin(f"run-{number}", 0)
        except FenceLost:
            return None

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(begin, range(4)))
    assert sorted(results, key=str) == [1, None, None, None]
    head = workers[0].journal.survey().head
    assert head is not None
    assert head.run == f"run-{results.index(1)}"


def test_begin_fences_out_the_run_before(worker: Worker) -> None:
    """Workers of a run that was overtaken cannot write, and cannot take over again (Law 2)."""
    generation = worker.begin("run-1", 0)
    taken = worker.step(worker.take(worker.assignment(generation)), "kept")
    worker.begin("run-2", generation)
    refused(worker, taken)
    with pytest.raises(FenceLost):
        worker.take(worker.assignment(generation))
    again = worker.take(worker.assignment(generation + 1))
    assert (again.cursor, again.done) == ("kept", 10)
    assert again.fence > taken.fence


def test_a_newer_journal_is_not_written_to(worker: Worker) -> None:
    """A worker that is too old for it is told so, whatever it wants to write; reading works."""
    generation = worker.begin()
    assignment = worker.assignment(generation)
    worker.step(worker.take(assignment), "on")
    worker.renew(SCHEMA_VERSION + 1)
    before = worker.journal.survey()
    amendment = Amendment("1.0.0", "first", "sum-1", ("kind",), MigrationState.APPLIED)
    declaration = Declaration("declared", "me", "mark_applied", "why", (amendment,))
    for write in (
        lambda: worker.begin("run-1", generation),
        lambda: worker.begin("run-2", generation),
        lambda: worker.journal.declare(declaration, generation),
        lambda: worker.take(assignment),
        lambda: worker.take(back(assignment)),
    ):
        with pytest.raises(Refused, match=r"schema version 2, .* knows 1.*Update the workers"):
            write()
    assert worker.journal.survey() == before
    assert before.head is not None
    assert before.head.schema_version == SCHEMA_VERSION + 1


# --- taking over ---


def test_what_is_done_before_an_operation(worker: Worker) -> None:
    """What each found and where it ended, in order; not the operation itself."""
    generation = worker.begin()
    for number, undo in enumerate(({"was": 1}, {}, {"was": 3}), start=1):
        taken = worker.take(worker.assignment(generation, number, count=3))
        if undo:
            taken = worker.journal.prepare(taken, Prepared(undo))
        worker.step(taken, f"end {number}", finished=number < 3)
    found = worker.journal.earlier(taken.assignment.key)
    assert found == [Earlier({"was": 1}, "end 1"), Earlier({}, "end 2")]


def test_take_returns_everything_together(worker: Worker) -> None:
    """Fence, cursor, counts, undo data and the former owner come with the write (Law 4)."""
    assignment = worker.assignment(worker.begin())
    assert worker.journal.owner(assignment.key) is None
    first = worker.take(assignment)
    assert (first.cursor, first.undo, first.done, first.total) == (None, None, 0, None)
    assert (first.state, first.attempts, first.former) == (OperationState.RUNNING, 1, None)
    first = worker.journal.prepare(first, Prepared(undo={"was": ["there"]}, total=50))
    first = worker.step(first, {"at": 7})
    owner = worker.journal.owner(assignment.key)
    second = worker.take(assignment)
    assert second.fence == first.fence + 1
    assert (second.cursor, second.undo) == ({"at": 7}, {"was": ["there"]})
    assert (second.done, second.total) == (10, 100)
    assert owner is not None
    assert owner.resources == worker.owner().resources
    assert second.former == owner


def test_the_second_taker_fences_out_the_first(new: Callable[[], Worker]) -> None:
    """A worker that wakes up late commits no journal write."""
    one, other = new(), new()
    assignment = one.assignment(one.begin())
    late = one.step(one.take(assignment), "kept")
    newer = other.take(assignment)
    refused(one, late)
    assert other.step(newer, "on").cursor == "on"
    (record,) = one.journal.survey().migrations
    assert (record.state, record.error) == (MigrationState.RUNNING, None)
    assert (record.operations[0].done, record.operations[0].error) == (20, None)


def test_two_take_at_once(new: Callable[[], Worker]) -> None:
    """Taking over at the same moment: different fences; the highest one writes (FAULTS 8)."""
    workers = [new() for _ in range(4)]
    assignment = workers[0].assignment(workers[0].begin())
    for worker in workers:
        worker.journal.owner(assignment.key)

    with ThreadPoolExecutor(4) as pool:
        rounds = [list(pool.map(lambda w: _taken(w, assignment), workers)) for _ in range(3)]
    fences = [taken.fence for each in rounds for taken in each if taken]
    assert len(set(fences)) == len(fences)
    assert all(any(each) for each in rounds)
    written = [
        taken.fence
        for worker, taken in zip(workers, rounds[-1], strict=True)
        if taken and _writes(worker, taken)
    ]
    assert written == [max(fences)]


def _taken(worker: Worker, assignment: Assignment) -> Taken | None:
    """Take over; a conflict that the runner would retry is one that did not take."""
    try:
        return worker.take(assignment)
    except Exception as error:
        if isinstance(error, FenceLost) or worker.database.classify(error).value == "lasting":
            raise
        worker.database.recover()
        return None


def _writes(worker: Worker, taken: Taken) -> bool:
    try:
        worker.step(taken, "mine")
    except FenceLost:
        return False
    return True


def test_a_stale_generation_takes_nothing(worker: Worker) -> None:
    """An assignment of another generation is refused before anything is written."""
    ours = worker.assignment(worker.begin())
    for wrong in (ours.generation - 1, ours.generation + 1):
        with pytest.raises(FenceLost, match=f"not.* {wrong} of run run-1"):
            worker.take(replace(ours, generation=wrong))
    assert worker.journal.survey().migrations == []


def test_another_run_s_journal_takes_nothing(worker: Worker) -> None:
    """A worker with another database's URL finds a journal there that counts for itself.

    It may be at the same generation, but no run of ours has opened it.
    """
    ours = worker.assignment(worker.begin())
    for wrong in (replace(ours, run="run-9"), back(replace(ours, run="run-9"))):
        with pytest.raises(FenceLost, match=f"not.* {ours.generation} of run run-9"):
            worker.take(wrong)
    assert worker.journal.survey().migrations == []


def test_operations_go_in_their_order(worker: Worker) -> None:
    """The second operation can't be taken before the first is done."""
    generation = worker.begin()
    first, second = (worker.assignment(generation, number, count=2) for number in (1, 2))
    with pytest.raises(FenceLost):
        worker.take(second)
    taken = worker.take(first)
    with pytest.raises(FenceLost):
        worker.take(second)
    worker.step(taken, None, finished=True)
    assert worker.take(second).state is OperationState.RUNNING


def test_an_operation_that_is_done_stays_done(worker: Worker) -> None:
    """A duplicate delivery sees that it is done; nobody owns it, and it is not begun again."""
    assignment = worker.assignment(worker.begin())
    done = worker.step(worker.take(assignment), "end", finished=True)
    assert done.state is OperationState.DONE
    again = worker.take(assignment)
    assert (again.state, again.done, again.cursor) == (OperationState.DONE, 10, "end")
    assert worker.journal.owner(assignment.key) is None
    (record,) = worker.journal.survey().migrations
    assert record.state is MigrationState.APPLIED


# --- attempts ---


def test_attempts_count_what_ended_without_a_word(worker: Worker) -> None:
    """Each taking counts, going on after a passing error does not, and a step begins anew."""
    assignment = worker.assignment(worker.begin())
    assert [worker.take(assignment).attempts for _ in range(3)] == [1, 2, 3]
    taken = worker.take(assignment, counted=False)
    assert taken.attempts == 3
    assert worker.step(taken, "on").attempts == 0
    assert [worker.take(assignment).attempts for _ in range(2)] == [1, 2]


def test_after_a_failure_the_attempts_begin_anew(worker: Worker) -> None:
    """Whoever submits a failed migration again is not told of workers that died."""
    assignment = worker.assignment(worker.begin())
    for _ in range(7):
        taken = worker.take(assignment)
        assert taken.attempts == 1
        worker.journal.fail(worker.step(taken, "on"), "no", MigrationState.FAILED)
    for _ in range(3):
        taken = worker.take(assignment)
    worker.journal.fail(taken, "too often", MigrationState.FAILED)
    assert worker.take(assignment).attempts == 1


def test_an_orderly_stop_is_no_attempt(worker: Worker) -> None:
    """Ten deployments within one long operation stop nothing (FAULTS 23)."""
    assignment = worker.assignment(worker.begin())
    for _ in range(10):
        taken = worker.take(assignment)
        assert taken.attempts == 1
        worker.journal.note(taken, None)
    (record,) = worker.journal.survey().migrations
    assert record.operations[0].error is None


def test_a_passing_error_is_shown_and_is_no_attempt(worker: Worker) -> None:
    """A database that refuses for a while does not use up the attempts."""
    assignment = worker.assignment(worker.begin())
    taken = worker.take(assignment)
    for number in range(10):
        worker.journal.note(taken, f"busy {number}")
        (record,) = worker.journal.survey().migrations
        assert record.operations[0].error == f"busy {number}"
        assert record.operations[0].state is OperationState.RUNNING
        taken = worker.take(assignment, counted=False)
        assert taken.attempts <= 1


def test_a_worker_that_goes_on_says_why_it_had_to(worker: Worker) -> None:
    """The passing error stays the last one until a batch goes well, or another worker begins."""
    assignment = worker.assignment(worker.begin())
    worker.take(assignment)

    def last() -> str | None:
        (record,) = worker.journal.survey().migrations
        assert record.operations[0].worker == "w"
        return record.operations[0].error

    def go_on(error: str) -> Taken:
        return worker.journal.take(assignment, worker.owner(), counted=False, error=error)

    for number in range(3):
        taken = go_on(f"busy $now {number}")
        assert (last(), taken.attempts) == (f"busy $now {number}", 1)
    worker.journal.prepare(taken, Prepared(undo={}, total=1))
    assert last() == "busy $now 2"
    go_on("busy again")
    worker.take(assignment)
    assert last() is None
    worker.step(go_on("once more"), "on")
    assert last() is None


# --- the end ---


def test_the_last_step_applies_the_migration(worker: Worker) -> None:
    """It is applied with its last operation, not before, and says how long it took."""
    generation = worker.begin()
    worker.step(worker.take(worker.assignment(generation, 1, 2)), None, finished=True)
    (running,) = worker.journal.survey().migrations
    assert (running.state, running.finished, running.seconds) == (
        MigrationState.RUNNING,
        None,
        None,
    )
    taken = worker.step(worker.take(worker.assignment(generation, 2, 2)), 1)
    (running,) = worker.journal.survey().migrations
    assert running.state is MigrationState.RUNNING
    worker.step(taken, 2, finished=True)
    (applied,) = worker.journal.survey().migrations
    assert applied.state is MigrationState.APPLIED
    assert applied.finished is not None
    assert applied.seconds is not None
    assert applied.seconds >= 0
    assert applied.finished >= applied.started
    assert applied.started.tzinfo is not None


def test_survey_tells_everything(worker: Worker) -> None:
    """Each migration with its operations in their order, as `status` shows them."""
    generation = worker.begin()
    worker.step(worker.take(worker.assignment(generation, 1, 2)), None, finished=True)
    worker.step(worker.take(worker.assignment(generation, 2, 2)), 5)
    (record,) = worker.journal.survey().migrations
    assert (record.version, record.name, record.checksum) == ("1.0.0", "first", "sum-1")
    assert worker.journal.state("1.0.0") is record.state is MigrationState.RUNNING
    assert worker.journal.state("1.1.0") is MigrationState.PENDING
    assert record.values == ""
    assert (record.run, record.by) == ("run-1", "somebody")
    one, two = record.operations
    assert (one.number, one.type, one.state) == (1, "kind", OperationState.DONE)
    assert (two.number, two.type, two.state) == (2, "kind", OperationState.RUNNING)
    assert (two.done, two.total, two.worker) == (10, 100, "w")
    assert two.updated is not None
    assert worker.journal.survey().by_version()["1.0.0"] == record


def test_fail_keeps_the_databases_message(worker: Worker) -> None:
    """A failed migration says why, nobody owns it, and the next run goes on where it was."""
    generation = worker.begin()
    assignment = worker.assignment(generation)
    taken = worker.step(worker.take(assignment), "kept")
    worker.journal.fail(taken, "it said: »no«\nand why", MigrationState.FAILED)
    (record,) = worker.journal.survey().migrations
    assert (record.state, record.error) == (MigrationState.FAILED, "it said: »no«\nand why")
    assert record.operations[0].state is OperationState.FAILED
    assert worker.journal.owner(assignment.key) is None
    with pytest.raises(FenceLost):
        worker.step(taken, "after the end")
    generation = worker.begin("run-2", generation)
    again = worker.take(worker.assignment(generation))
    assert (again.cursor, again.state) == ("kept", OperationState.RUNNING)
    assert again.fence > taken.fence
    (record,) = worker.journal.survey().migrations
    assert (record.state, record.error) == (MigrationState.RUNNING, None)


def test_a_rolled_back_migration_begins_anew(worker: Worker) -> None:
    """With the new checksum, from the first operation's start, under higher fences."""
    generation = worker.begin()
    first, second = (worker.assignment(generation, number, 2) for number in (1, 2))
    one = worker.journal.prepare(worker.take(first), Prepared(undo={"old": 1}, total=10))
    one = worker.step(one, "end", finished=True)
    two = worker.step(worker.take(second), "middle")
    worker.journal.fail(two, "no", MigrationState.ROLLED_BACK)
    (record,) = worker.journal.survey().migrations
    assert record.state is MigrationState.ROLLED_BACK
    generation = worker.begin("run-2", generation)
    with pytest.raises(FenceLost):
        worker.take(replace(second, run="run-2", generation=generation, checksum="sum-2+val"))
    again = worker.take(replace(first, run="run-2", generation=generation, checksum="sum-2+val"))
    assert (again.state, again.cursor, again.undo) == (OperationState.RUNNING, None, None)
    assert (again.done, again.attempts) == (0, 1)
    assert again.fence > one.fence
    (record,) = worker.journal.survey().migrations
    assert (record.state, record.checksum) == (MigrationState.RUNNING, "sum-2")
    assert record.values == "val"
    assert (record.error, record.finished, record.seconds) == (None, None, None)
    worker.step(again, "end", finished=True)
    two_again = worker.take(
        replace(second, run="run-2", generation=generation, checksum="sum-2+val")
    )
    assert (two_again.cursor, two_again.done) == (None, 0)
    assert two_again.fence > two.fence
