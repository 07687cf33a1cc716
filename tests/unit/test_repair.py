"""What `dharma repair` decides: one migration in each state, and each thing to say of it."""

from __future__ import annotations

from typing import Any

import pytest
from test_baseline import changed_since
from test_reversal import COLLECTION, INDEX, REMOVE, migration, record, survey

from dharma_tasks.declaring.proposal import Change, Proposal
from dharma_tasks.declaring.repair import Action, Repair
from dharma_tasks.errors import Refused
from dharma_tasks.migration import Migration
from dharma_tasks.planner import other_values
from dharma_tasks.records import MigrationRecord, MigrationState, OperationState, Survey

BELOW = migration("mongodb:1.0.0")
IT = migration("mongodb:1.1.0", operations=(COLLECTION, INDEX, REMOVE))
ABOVE = migration("mongodb:1.2.0")
DONE, FAILED, RUNNING = OperationState.DONE, OperationState.FAILED, OperationState.RUNNING
HALF = [MigrationState.FAILED, MigrationState.RUNNING, MigrationState.ROLLING_BACK]


def written(
    file: Migration, state: MigrationState, *states: OperationState, **more: Any
) -> MigrationRecord:
    """What the journal says of it, with the types of its operations."""
    made = record(file, state, *states, **more)
    for operation in made.operations:
        every = [*file.operations, *file.rollback]
        operation.type = every[operation.number - 1]["type"]
    return made


def failed(file: Migration = IT) -> MigrationRecord:
    """One that has failed in its second operation."""
    return written(file, MigrationState.FAILED, DONE, FAILED, error="E11000 duplicate key")


def decided(action: Action, *known: MigrationRecord | Survey, files: Any = (BELOW, IT)) -> Proposal:
    """The decision about 1.1.0 of mongodb; records are mongodb's."""
    others = [each for each in known if isinstance(each, Survey)]
    mine = survey("mongodb", *(each for each in known if isinstance(each, MigrationRecord)))
    surveys = {each.database: each for each in (mine, *others)}
    wish = Repair("mongodb", "1.1.0", action)
    assert wish.surveyed(files) <= set(surveys)
    return wish.decide(files, surveys)


def change(proposal: Proposal) -> Change:
    """The only one."""
    (head,) = proposal.heads.values()
    assert head is not None
    assert head.generation == 7
    ((found,),) = proposal.changes.values()
    return found


def after(known: MigrationRecord, proposal: Proposal) -> MigrationRecord:
    """What the journal says when the checksum is written."""
    return MigrationRecord.model_validate(
        {**known.model_dump(exclude={"values"}), "checksum": change(proposal).amendment.checksum}
    )


def refused(action: Action, *known: MigrationRecord | Survey, files: Any = (BELOW, IT)) -> str:
    """What is said of one that must be refused."""
    with pytest.raises(Refused) as caught:
        decided(action, *known, files=files)
    return "\n".join(str(problem) for problem in caught.value.problems)


# -- retry -----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [MigrationState.FAILED, MigrationState.RUNNING])
def test_retried(state: MigrationState) -> None:
    """Its failure is forgotten, and the next submit goes on."""
    found = decided(Action.RETRY, written(IT, state, DONE, FAILED, error="E11000 duplicate key"))
    assert change(found).then is MigrationState.RUNNING
    assert change(found).amendment.checksum == IT.checksum
    assert "forgotten: E11000 duplicate key" in change(found).notes
    assert "operation 2 create_index goes on from its checkpoint" in change(found).notes
    assert found.todo == "dharma submit goes on with it."
    assert found.event == "retry"


@pytest.mark.parametrize(
    "known",
    [
        written(IT, MigrationState.ROLLING_BACK, DONE, OperationState.UNDOING),
        written(IT, MigrationState.FAILED, DONE, OperationState.UNDOING),
    ],
)
def test_retried_on_the_way_back(known: MigrationRecord) -> None:
    """Half undone it goes back: the command that goes on says to where."""
    found = decided(Action.RETRY, known, written(BELOW, MigrationState.APPLIED))
    assert change(found).then is MigrationState.ROLLING_BACK
    assert found.todo.startswith("dharma rollback 1.0.0 --databases mongodb")
    alone = decided(Action.RETRY, known)
    assert alone.todo.startswith("dharma rollback 0.0.0 --databases mongodb")


@pytest.mark.parametrize(
    ("known", "instead"),
    [
        ((), "dharma submit runs it"),
        ((written(IT, MigrationState.ROLLED_BACK),), "begins it anew"),
        ((written(IT, MigrationState.APPLIED),), "dharma rollback 0.0.0 --databases mongodb"),
    ],
)
def test_nothing_to_retry(known: tuple[MigrationRecord, ...], instead: str) -> None:
    """What to do instead is said."""
    said = refused(Action.RETRY, *known)
    assert "there is nothing to retry" in said
    assert instead in said


def test_retried_without_its_file() -> None:
    """It cannot go on without."""
    said = refused(Action.RETRY, failed(), files=[BELOW])
    assert "has no file in the folder" in said
    assert "dharma repair mongodb 1.1.0 --mark-rolled-back" in said


def test_retried_with_a_changed_file() -> None:
    """What submit will ask for is said at once; the checksum stays."""
    before = changed_since(IT)
    found = decided(Action.RETRY, written(before, MigrationState.FAILED, FAILED))
    assert "--accept-checksum" in found.warnings[0]
    assert change(found).amendment.checksum == before.checksum


# -- mark-applied ----------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*HALF, MigrationState.ROLLED_BACK])
def test_marked_applied(state: MigrationState) -> None:
    """What dharma has done, and what is taken on somebody's word, is told apart."""
    found = decided(Action.MARK_APPLIED, written(IT, state, DONE, FAILED))
    amendment = change(found).amendment
    assert amendment.state is MigrationState.APPLIED
    assert amendment.types == ("create_collection", "create_index", "remove_field")
    assert change(found).now is state
    word = "on your word, and dharma cannot undo it:"
    assert change(found).notes == (
        ("done: 1 create_collection", f"{word} 2 create_index, 3 remove_field")
        if state in HALF
        else (f"{word} 1 create_collection, 2 create_index, 3 remove_field",)
    )
    assert str(state) in found.reason
    assert any("--allow-out-of-order" in w for w in found.warnings) is (state not in HALF)


def test_marked_applied_keeps_the_values() -> None:
    """What is left of it was carried out with them; where nothing is, they mean nothing."""
    now = IT.model_copy(update={"values": "now"})
    for states, values in (((DONE, FAILED), "+then"), ((FAILED,), "")):
        known = written(IT, MigrationState.FAILED, *states, values="then")
        found = decided(Action.MARK_APPLIED, known, files=[BELOW, now])
        assert change(found).amendment.checksum == f"{IT.checksum}{values}"


def test_marked_applied_when_half_undone() -> None:
    """Nothing of the rollback file counts any more."""
    file = IT.model_copy(update={"rollback": (INDEX, COLLECTION)})
    known = written(file, MigrationState.ROLLING_BACK, DONE, DONE, DONE, DONE, FAILED)
    found = decided(Action.MARK_APPLIED, known, files=[BELOW, file])
    assert change(found).amendment.types == ("create_collection", "create_index", "remove_field")
    assert change(found).notes == (
        "done: 1 create_collection, 2 create_index, 3 remove_field",
        "forgotten, of its rollback file: 4 create_index, 5 create_collection",
    )


@pytest.mark.parametrize("action", [Action.MARK_APPLIED, Action.MARK_ROLLED_BACK])
def test_what_is_at_work_is_forgotten(action: Action) -> None:
    """Nobody would know of it any more; so that is said before the question."""
    at_work = written(IT, MigrationState.RUNNING, DONE, OperationState.RUNNING)
    (said,) = [each for each in decided(action, at_work).warnings if "was at work" in each]
    assert said.startswith("operation 2, create_index, was at work")
    assert said.endswith("do that first: submit, then dharma cancel --keep")
    back = written(IT, MigrationState.ROLLING_BACK, DONE, OperationState.UNDOING)
    (said,) = [each for each in decided(action, back).warnings if "was at work" in each]
    assert said.endswith(
        "first: dharma rollback 0.0.0 --databases mongodb, then dharma cancel --keep"
    )
    failed = written(IT, MigrationState.FAILED, DONE, FAILED)
    assert not [each for each in decided(action, failed).warnings if "was at work" in each]


def test_marked_applied_before_it_began() -> None:
    """One, where baseline is for many."""
    found = decided(Action.MARK_APPLIED)
    assert change(found).now is MigrationState.PENDING
    assert "dharma baseline 1.1.0" in found.warnings[0]
    assert "1.0.0 below it" in found.warnings[1]
    assert len(decided(Action.MARK_APPLIED, written(BELOW, MigrationState.APPLIED)).warnings) == 1


def test_not_marked_applied() -> None:
    """It is already; it has no file; what it stands on is not there."""
    assert "is applied already" in refused(Action.MARK_APPLIED, written(IT, MigrationState.APPLIED))
    changed = refused(Action.MARK_APPLIED, written(changed_since(IT), MigrationState.APPLIED))
    assert "dharma repair mongodb 1.1.0 --accept-checksum" in changed
    assert "has no file" in refused(Action.MARK_APPLIED, failed(), files=[BELOW])
    needs = migration("mongodb:1.1.0", "postgresql:1.0.0")
    said = refused(Action.MARK_APPLIED, Survey(database="postgresql"), files=[needs])
    assert "mongodb:1.1.0 needs postgresql:1.0.0, which is pending" in said


# -- mark-rolled-back ------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*HALF, MigrationState.APPLIED])
def test_marked_rolled_back(state: MigrationState) -> None:
    """What is forgotten is named; that nothing is undone is said of one that is applied."""
    found = decided(Action.MARK_ROLLED_BACK, written(IT, state, DONE, DONE))
    assert change(found).then is MigrationState.ROLLED_BACK
    assert "1 create_collection, 2 create_index" in change(found).notes[0]
    assert found.todo == "dharma submit begins it anew."
    rollback = any("dharma rollback 0.0.0" in each for each in found.warnings)
    assert rollback is (state is MigrationState.APPLIED)


def test_marked_rolled_back_below_others() -> None:
    """Versions are a set: that is no reason against it, but it comes late then."""
    found = decided(
        Action.MARK_ROLLED_BACK,
        failed(),
        written(ABOVE, MigrationState.APPLIED),
        files=[BELOW, IT, ABOVE],
    )
    assert "1.2.0 is above it" in found.warnings[0]
    assert "--allow-out-of-order" in found.warnings[0]


def test_marked_rolled_back_without_its_file() -> None:
    """What it has done is in the journal."""
    found = decided(Action.MARK_ROLLED_BACK, failed(), files=[BELOW])
    assert change(found).amendment.types == ("create_collection", "create_index")
    assert change(found).amendment.name == IT.name
    assert "no file" in found.todo


def test_not_marked_rolled_back() -> None:
    """Nothing of it is there; or something stands on it, in any database."""
    assert "nothing of it is there" in refused(Action.MARK_ROLLED_BACK)
    gone = written(IT, MigrationState.ROLLED_BACK)
    assert "nothing of it is there" in refused(Action.MARK_ROLLED_BACK, gone)
    for database, state in (("postgresql", MigrationState.APPLIED), ("mongodb", HALF[0])):
        needs = migration(f"{database}:1.3.0", "mongodb:1.1.0")
        known = [failed(), written(needs, state)]
        where = known if database == "mongodb" else [known[0], survey(database, known[1])]
        said = refused(Action.MARK_ROLLED_BACK, *where, files=[BELOW, IT, needs])
        assert f"{database}:1.3.0 is {state} and needs mongodb:1.1.0" in said
        assert f"dharma repair {database} 1.3.0 --mark-rolled-back" in said


# -- accept-checksum -------------------------------------------------------------------------


@pytest.mark.parametrize("state", [*HALF, MigrationState.APPLIED])
def test_an_accepted_file_keeps_the_values(state: MigrationState) -> None:
    """They are those that it was carried out with, whatever they are now."""
    now = with_operations(COLLECTION, {**INDEX, "index": [["c", 1]]}, REMOVE)
    now = now.model_copy(update={"values": "now"})
    known = written(IT, state, DONE, FAILED, values="then")
    found = decided(Action.ACCEPT_CHECKSUM, known, files=[now])
    assert change(found).amendment.checksum == f"{now.checksum}+then"
    assert other_values(now, after(known, found))


def with_operations(*operations: Any) -> Migration:
    """Its file, changed to these."""
    return IT.model_copy(update={"operations": operations}).with_checksum()


def test_an_applied_file_is_accepted() -> None:
    """Only its checksum is written, where its operations are of the same types."""
    now = with_operations(COLLECTION, {**INDEX, "index": [["c", 1]]}, REMOVE)
    found = decided(Action.ACCEPT_CHECKSUM, written(IT, MigrationState.APPLIED), files=[now])
    assert change(found).amendment.state is None
    assert change(found).then is MigrationState.APPLIED
    assert change(found).amendment.checksum == now.checksum
    assert change(found).notes == (f"checksum {IT.checksum[:12]}, from now on {now.checksum[:12]}",)
    assert "rollback" in found.warnings[0]


@pytest.mark.parametrize(
    ("operations", "text"),
    [
        ((COLLECTION, INDEX), "operation 3 was remove_field, and is not there in the file"),
        ((COLLECTION, REMOVE, REMOVE), "operation 2 was create_index, and is remove_field"),
        ((COLLECTION, INDEX, REMOVE, INDEX), "operation 4 was not there, and is create_index"),
    ],
)
def test_an_applied_file_with_other_operations(operations: Any, text: str) -> None:
    """What differs is shown; each of them gets a record."""
    now = with_operations(*operations)
    found = decided(Action.ACCEPT_CHECKSUM, written(IT, MigrationState.APPLIED), files=[now])
    assert change(found).amendment.state is MigrationState.APPLIED
    assert text in change(found).notes[1]
    lost = any("cannot be undone" in each for each in found.warnings)
    assert lost is ("was not there" not in text)


@pytest.mark.parametrize("state", HALF)
def test_a_half_done_file_is_accepted(state: MigrationState) -> None:
    """What has not begun may be anything."""
    now = with_operations(COLLECTION, {**INDEX, "index": [["c", 1]]})
    found = decided(Action.ACCEPT_CHECKSUM, written(IT, state, DONE, FAILED), files=[now])
    assert change(found).then is state
    assert change(found).amendment.state is None
    assert found.warnings == ()


def test_a_half_done_file_with_other_operations() -> None:
    """A checkpoint of one type is of no use to another."""
    for operations in ((INDEX, COLLECTION), (COLLECTION,)):
        said = refused(Action.ACCEPT_CHECKSUM, failed(), files=[with_operations(*operations)])
        assert "has begun with others" in said
        assert "operation 2 was create_index" in said


def test_nothing_to_accept() -> None:
    """It is the same; nothing of it is there; there is no file."""
    assert "nothing to accept" in refused(Action.ACCEPT_CHECKSUM, failed())
    gone = written(changed_since(IT), MigrationState.ROLLED_BACK)
    for known in ((), (gone,)):
        assert "its file may change freely" in refused(Action.ACCEPT_CHECKSUM, *known)
    assert "has no file" in refused(Action.ACCEPT_CHECKSUM, failed(), files=[BELOW])


# -- any -------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", list(Action))
def test_an_unknown_version(action: Action) -> None:
    """A typo: the nearest one is named."""
    said = refused(action, files=[BELOW])
    assert "mongodb:1.1.0 is neither in the folder nor in the journal" in said
    assert "1.0.0" in said
    wish = Repair("mongodb", "1.1", action)
    with pytest.raises(Refused, match="MAJOR"):
        wish.surveyed([])
