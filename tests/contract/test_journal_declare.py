"""What a person declares to be true of a database: see `Journal.declare`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from journal_hand import Worker, back, record, refused, rollback_file

from dharma_tasks.databases import NAMES
from dharma_tasks.errors import FenceLost
from dharma_tasks.journal import Amendment, Declaration
from dharma_tasks.records import MigrationState, OperationState
from dharma_tasks.work import Assignment, Prepared, Taken

pytestmark = pytest.mark.parametrize("name", NAMES)

REASON = "baseline by me: it was there before"
STATES = [
    MigrationState.APPLIED,
    MigrationState.ROLLED_BACK,
    MigrationState.RUNNING,
    MigrationState.ROLLING_BACK,
    None,
]


def declaration(
    state: MigrationState | None = MigrationState.APPLIED,
    *,
    count: int = 2,
    versions: tuple[str, ...] = ("1.0.0",),
    run: str = "declared",
) -> Declaration:
    """One that says the same of some versions."""
    types = ("kind", "other", "third")[:count]
    amendments = [Amendment(each, "new name", "sum-2", types, state) for each in versions]
    return Declaration(run, "me@here", "baseline", REASON, tuple(amendments))


def generation(worker: Worker) -> int:
    """Where the head is."""
    head = worker.journal.survey().head
    return head.generation if head else 0


def begin(worker: Worker, assignment: Assignment, **more: Any) -> Assignment:
    """The same operation in a new run, which is planned on what is there."""
    opened = worker.begin("run-next", generation(worker))
    return replace(assignment, run="run-next", generation=opened, **more)


def failed(worker: Worker) -> tuple[Assignment, Assignment]:
    """A migration of two operations: the first is done, the second has failed in the middle."""
    opened = worker.begin()
    first, second = (worker.assignment(opened, number, 2) for number in (1, 2))
    taken = worker.journal.prepare(worker.take(first), Prepared({"was": 1}, total=20))
    worker.step(taken, "end", finished=True)
    taken = worker.journal.prepare(worker.take(second), Prepared({"was": 2}, total=20))
    worker.journal.fail(worker.step(taken, "half"), "no", MigrationState.FAILED)
    return first, second


def state(worker: Worker) -> tuple[Any, ...]:
    """Where the one migration is."""
    found = record(worker)
    return found.state, found.error, [(each.number, each.state) for each in found.operations]


def told(worker: Worker) -> list[tuple[Any, ...]]:
    """The entries of declarations."""
    entries = [each for each in worker.journal.history(100) if each.event == "baseline"]
    return [
        (each.run, each.by, each.version, each.number, each.detail, each.name, each.checksum)
        for each in entries
    ]


def test_an_empty_database_is_taken_over(worker: Worker) -> None:
    """The journal is made, with a record and an entry for each version; nothing took any time."""
    worker.journal.declare(declaration(versions=("1.0.0", "1.1.0")), 0)
    survey = worker.journal.survey()
    assert survey.head is not None
    assert survey.head.run == "declared"
    assert survey.head.identity
    assert sorted(survey.by_version()) == ["1.0.0", "1.1.0"]
    for found in survey.migrations:
        assert (found.state, found.name, found.checksum) == (
            MigrationState.APPLIED,
            "new name",
            "sum-2",
        )
        assert (found.run, found.by, found.seconds, found.error) == (
            "declared",
            "me@here",
            None,
            None,
        )
        assert found.started == found.finished
        kinds = [(each.number, each.type, each.state) for each in found.operations]
        assert kinds == [(1, "kind", OperationState.DONE), (2, "other", OperationState.DONE)]
        assert [each.irreversible for each in found.operations] == [REASON, REASON]
    what = (None, REASON, "new name", "sum-2")
    expected = [("declared", "me@here", each, *what) for each in ("1.0.0", "1.1.0")]
    assert sorted(told(worker)) == expected


def test_a_repeated_declaration_is_harmless(worker: Worker) -> None:
    """A message may come twice; and whoever plans on what is there is not disturbed."""
    failed(worker)
    declared = declaration()
    worker.journal.declare(declared, 1)
    before, at = worker.journal.survey(), generation(worker)
    for expected in (1, at):
        worker.journal.declare(declared, expected)
    assert (worker.journal.survey(), len(told(worker))) == (before, 1)


def test_several_declare_the_same_at_once(new: Callable[[], Worker]) -> None:
    """A message that came twice, on two workers: it is written once."""
    workers = [new() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        for result in pool.map(lambda each: _declared(each, declaration()), workers):
            assert result
    assert state(workers[0])[0] is MigrationState.APPLIED
    assert len(told(workers[0])) == 1


def _declared(worker: Worker, declared: Declaration) -> bool:
    for _ in range(20):
        try:
            worker.journal.declare(declared, 0)
        except Exception as error:
            if isinstance(error, FenceLost) or worker.database.classify(error).value == "lasting":
                raise
            worker.database.recover()
        else:
            return True
    return False


def test_it_is_a_compare_and_set(worker: Worker) -> None:
    """What was seen on an older head is refused, and changes nothing."""
    failed(worker)
    before, history = worker.journal.survey(), worker.journal.history(100)
    for expected in (0, 2):
        with pytest.raises(FenceLost):
            worker.journal.declare(declaration(), expected)
    assert (worker.journal.survey(), worker.journal.history(100)) == (before, history)


def test_what_a_later_run_has_done_stays(worker: Worker) -> None:
    """The message comes again when a run has gone on from there: it changes nothing."""
    first, _ = failed(worker)
    declared = declaration(MigrationState.ROLLED_BACK)
    worker.journal.declare(declared, 1)
    worker.step(worker.take(begin(worker, first)), "anew")
    before = worker.journal.survey()
    with pytest.raises(FenceLost):
        worker.journal.declare(declared, 1)
    assert worker.journal.survey() == before


@pytest.mark.parametrize("which", STATES)
def test_who_had_it_before_writes_nothing_any_more(
    new: Callable[[], Worker], which: MigrationState | None
) -> None:
    """Neither a worker that holds an operation, nor one that is about to take it, nor a plan."""
    one, other = new(), new()
    assignment = one.assignment(one.begin())
    late = one.step(one.take(assignment), "kept")
    other.journal.declare(declaration(which, count=1), 1)
    after = other.journal.survey()
    if one.name == "postgresql":  # its server process was ended: what refuses it is the fence
        one.database.close()
        late = replace(late, mark=one.database.resources())
    refused(one, late)
    with pytest.raises(FenceLost):
        one.take(assignment)
    with pytest.raises(FenceLost):
        one.begin("planned before", 1)
    assert other.journal.survey() == after


def test_declared_applied(worker: Worker) -> None:
    """What is done keeps what its undo needs; the rest is done without, and irreversible."""
    first, second = failed(worker)
    worker.journal.declare(declaration(), 1)
    found = record(worker)
    assert (found.state, found.error) == (MigrationState.APPLIED, None)
    assert (found.name, found.checksum, found.seconds) == ("new name", "sum-2", None)
    one, two = found.operations
    assert (one.state, one.irreversible, one.done) == (OperationState.DONE, None, 10)
    assert (two.state, two.irreversible, two.type) == (OperationState.DONE, REASON, "other")
    assert (two.error, two.done, two.total, two.worker) == (None, 0, None, None)
    for each in (first, second):
        assert worker.take(begin(worker, each)).state is OperationState.DONE
    taken = worker.take(begin(worker, back(second)))
    assert taken.undo == {"irreversible": REASON}
    worker.step(taken, None, finished=True)
    taken = worker.take(begin(worker, back(first)))
    assert taken.undo == {"was": 1}
    worker.step(taken, None, finished=True)
    assert record(worker).state is MigrationState.ROLLED_BACK


def test_done_as_something_else(worker: Worker) -> None:
    """A changed file that somebody accepts: what was kept is of no use to another operation."""
    failed(worker)
    worker.journal.declare(declaration(), 1)
    changed = Amendment("1.0.0", "new name", "sum-3", ("another", "other"), MigrationState.APPLIED)
    worker.journal.declare(
        Declaration("again", "me@here", "accept_checksum", "changed", (changed,)),
        generation(worker),
    )
    one, two = record(worker).operations
    assert (one.type, one.state, one.irreversible) == ("another", OperationState.DONE, "changed")
    assert (two.type, two.state, two.irreversible) == ("other", OperationState.DONE, REASON)


def test_declared_applied_while_it_was_undone(worker: Worker) -> None:
    """An operation that was being undone is done, and irreversible; the way back is forgotten."""
    first, second = failed(worker)
    for assignment, finished in ((second, True), (first, False)):
        taken = worker.take(back(assignment))
        worker.step(taken, "back", finished=finished)
    worker.journal.declare(declaration(), 1)
    done = [(1, OperationState.DONE), (2, OperationState.DONE)]
    assert state(worker) == (MigrationState.APPLIED, None, done)
    assert [each.irreversible for each in record(worker).operations] == [REASON, REASON]


def test_nothing_of_a_rollback_file_counts_as_begun(worker: Worker) -> None:
    """Half rolled back by its file, declared applied: the file begins again from its start."""
    (assignment,) = _applied(worker)
    files = [rollback_file(assignment, number, 3) for number in (2, 3)]
    taken = worker.journal.prepare(worker.take(files[0]), Prepared({"old": 1}))
    worker.step(taken, "end", finished=True)
    worker.journal.fail(worker.take(files[1]), "no", MigrationState.FAILED)
    worker.journal.declare(declaration(count=1), 1)
    assert state(worker) == (MigrationState.APPLIED, None, [(1, OperationState.DONE)])
    again = worker.take(begin(worker, files[0]))
    assert (again.state, again.cursor, again.undo) == (OperationState.RUNNING, None, None)
    assert record(worker).state is MigrationState.ROLLING_BACK


def _applied(worker: Worker) -> list[Assignment]:
    assignment = worker.assignment(worker.begin())
    taken = worker.journal.prepare(worker.take(assignment), Prepared({"was": 1}))
    worker.step(taken, "end", finished=True)
    return [assignment]


def test_what_was_rolled_back_is_declared_applied(worker: Worker) -> None:
    """Its rollback file has undone what is still noted as done: that is of no use any more."""
    (assignment,) = _applied(worker)
    worker.step(worker.take(rollback_file(assignment, 2, 2)), None, finished=True)
    worker.journal.declare(declaration(count=1), 1)
    (operation,) = record(worker).operations
    assert (operation.state, operation.irreversible) == (OperationState.DONE, REASON)
    assert worker.take(begin(worker, back(assignment))).undo == {"irreversible": REASON}


def test_declared_rolled_back(worker: Worker) -> None:
    """Nothing of it is recorded, and another run begins it anew, under higher fences."""
    first, second = failed(worker)
    fence = worker.take(second).fence
    worker.journal.declare(declaration(MigrationState.ROLLED_BACK), 1)
    assert state(worker) == (MigrationState.ROLLED_BACK, None, [])
    assert record(worker).finished is not None
    anew = begin(worker, first, checksum="sum-3")
    taken = worker.take(anew)
    assert (taken.state, taken.cursor, taken.undo) == (OperationState.RUNNING, None, None)
    assert (taken.done, taken.attempts) == (0, 1)
    assert (record(worker).state, record(worker).checksum) == (MigrationState.RUNNING, "sum-3")
    worker.step(taken, "end", finished=True)
    taken = worker.take(replace(anew, key=second.key))
    assert (taken.cursor, taken.undo) == (None, None)
    assert taken.fence > fence
    worker.step(taken, "end", finished=True)
    assert record(worker).state is MigrationState.APPLIED


def test_a_retry_forward(worker: Worker) -> None:
    """The failure is forgotten, and the operation goes on from its cursor."""
    first, second = failed(worker)
    worker.journal.declare(declaration(MigrationState.RUNNING), 1)
    running = [(1, OperationState.DONE), (2, OperationState.RUNNING)]
    assert state(worker) == (MigrationState.RUNNING, None, running)
    found = record(worker)
    assert (found.finished, found.seconds, found.checksum) == (None, None, "sum-1")
    assert (found.operations[1].error, found.operations[1].attempts) == (None, 0)
    assert worker.journal.owner(second.key) is None
    taken = worker.take(begin(worker, second))
    assert (taken.cursor, taken.undo, taken.attempts) == ("half", {"was": 2}, 1)
    worker.step(taken, "end", finished=True)
    assert record(worker).state is MigrationState.APPLIED
    assert first.key.number == 1


def test_a_retry_of_the_way_back(worker: Worker) -> None:
    """What was being undone still is, from where it was."""
    first, second = failed(worker)
    taken = worker.step(worker.take(back(second)), "some")
    worker.journal.fail(taken, "no way", MigrationState.FAILED)
    worker.journal.declare(declaration(MigrationState.ROLLING_BACK), 1)
    undoing = [(1, OperationState.DONE), (2, OperationState.UNDOING)]
    assert state(worker) == (MigrationState.ROLLING_BACK, None, undoing)
    taken = worker.take(begin(worker, back(second)))
    assert (taken.cursor, taken.undo, taken.attempts) == ("some", {"was": 2}, 1)
    worker.step(taken, None, finished=True)
    worker.step(worker.take(begin(worker, back(first))), None, finished=True)
    assert record(worker).state is MigrationState.ROLLED_BACK


def test_an_owner_of_an_open_operation_is_forgotten(worker: Worker) -> None:
    """Attempts that killed their workers are forgiven, and the next worker frees nobody."""
    assignment = worker.assignment(worker.begin())
    for _ in range(3):
        taken: Taken = worker.take(assignment)
    worker.step(taken, "kept")
    worker.take(assignment)
    worker.take(assignment)
    worker.journal.declare(declaration(MigrationState.RUNNING, count=1), 1)
    assert worker.journal.owner(assignment.key) is None
    again = worker.take(begin(worker, assignment))
    assert (again.attempts, again.cursor, again.former) == (1, "kept", None)


def test_a_checksum_is_accepted(worker: Worker) -> None:
    """Nothing else of the migration changes."""
    failed(worker)
    before = record(worker)
    worker.journal.declare(declaration(None), 1)
    after = record(worker)
    assert (after.name, after.checksum) == ("new name", "sum-2")
    assert after.model_copy(update={"name": before.name, "checksum": before.checksum}) == before
    assert len(told(worker)) == 1


@pytest.mark.parametrize("which", STATES[1:])
def test_what_is_not_there_is_not_made(worker: Worker, which: MigrationState | None) -> None:
    """Only what is declared applied gets a record."""
    worker.journal.declare(declaration(which), 0)
    assert worker.journal.survey().migrations == []
