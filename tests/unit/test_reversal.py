"""The way back: what is undone in which order, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from dharma_tasks.errors import Refused
from dharma_tasks.migration import JSON, Migration, Reference
from dharma_tasks.planner import Plan, Request, plan, required_databases
from dharma_tasks.records import (
    Direction,
    Head,
    MigrationRecord,
    MigrationState,
    OperationRecord,
    OperationState,
    Survey,
)
from dharma_tasks.reversal import plan_back

COLLECTION = {"type": "create_collection", "collection": "a"}
INDEX = {"type": "create_index", "collection": "a", "index": [["b", 1]]}
REMOVE = {"type": "remove_field", "collection": "a", "field": "b"}
SQL = {"type": "sql", "sql": "SELECT 1", "file": "001.sql"}


def migration(
    name: str, *needs: str, operations: tuple[JSON, ...] = (COLLECTION,), **more: Any
) -> Migration:
    """A migration by its reference."""
    database, _, version = name.partition(":")
    return Migration(
        database=database,
        version=version,
        name="change",
        migration_type="schema",
        dependencies=tuple(Reference(need) for need in needs),
        operations=operations,
        file=f"{database}/{version}.json",
        **more,
    ).with_checksum()


def record(
    file: Migration,
    state: MigrationState = MigrationState.APPLIED,
    *states: OperationState,
    irreversible: str | None = None,
    **more: Any,
) -> MigrationRecord:
    """What the journal says of it; its operations are done if nothing else is said."""
    each = states or (OperationState.DONE,) * len(file.operations)
    kinds = [*(operation["type"] for operation in (*file.operations, *file.rollback)), "any"]
    fields = {
        "version": file.version,
        "name": file.name,
        "state": state,
        "checksum": file.checksum,
        "run": "r",
        "by": "me",
        "started": datetime.now(UTC),
        "operations": [
            OperationRecord(number=n, type=kind, state=found, irreversible=irreversible)
            for n, (found, kind) in enumerate(zip(each, kinds, strict=False), start=1)
        ],
    }
    return MigrationRecord.model_validate(fields | more)


def survey(database: str, *records: MigrationRecord) -> Survey:
    """A journal at generation 7."""
    return Survey(
        database=database, head=Head(identity="x", generation=7), migrations=list(records)
    )


def planned(files: list[Migration], target: str, *surveys: Survey, **more: Any) -> Plan:
    """The plan."""
    request = Request(target=target, direction=Direction.BACK, **more)
    return plan_back(files, {each.database: each for each in surveys}, request)


def refused(files: list[Migration], target: str, *surveys: Survey, **more: Any) -> list[str]:
    """What is said of a request that must be refused."""
    with pytest.raises(Refused) as caught:
        planned(files, target, *surveys, **more)
    return [str(problem) for problem in caught.value.problems]


M1, M2, M3 = (migration(f"mongodb:{version}") for version in ("1.0.0", "1.2.0", "1.10.0"))
E1 = migration(
    "elasticsearch:1.0.0", "mongodb:1.2.0", operations=({"type": "create_index", "index": "i"},)
)


def test_newest_first_down_to_the_version_that_stays() -> None:
    """By version, not by text; each begins with its last operation."""
    files = [M1, M2, M3]
    made = planned(files, "1.0.0", survey("mongodb", *(record(each) for each in files)))
    assert made.orders == {"mongodb": ("1.10.0", "1.2.0")}
    assert made.first == {"mongodb:1.10.0": "1.10.0 1 1", "mongodb:1.2.0": "1.2.0 1 1"}
    assert made.generations == {"mongodb": 7}
    everything = planned(files, "0.0.0", survey("mongodb", *(record(each) for each in files)))
    assert everything.orders == {"mongodb": ("1.10.0", "1.2.0", "1.0.0")}


def test_nothing_above() -> None:
    """What was never applied, or is rolled back, is not there to be undone."""
    back = record(M2, MigrationState.ROLLED_BACK, OperationState.PENDING)
    made = planned([M1, M2, M3], "1.0.0", survey("mongodb", record(M1), back))
    assert made.orders == {}


def test_what_depends_on_it_goes_first() -> None:
    """Against the dependencies, across databases."""
    surveys = survey("mongodb", record(M1), record(M2)), survey("elasticsearch", record(E1))
    made = planned([M1, M2, E1], "0.0.0", *surveys)
    assert made.dependencies["mongodb:1.2.0"] == ("elasticsearch:1.0.0",)
    assert made.dependencies["elasticsearch:1.0.0"] == ()


def test_what_something_stands_on_stays() -> None:
    """A migration of another database that is not part of it needs it."""
    surveys = survey("mongodb", record(M1), record(M2)), survey("elasticsearch", record(E1))
    (problem,) = refused([M1, M2, E1], "1.0.0", *surveys, databases=("mongodb",))
    assert "mongodb:1.2.0 is to be undone, but elasticsearch:1.0.0 needs it and stays" in problem
    request = Request(target="1.0.0", direction=Direction.BACK, databases=("mongodb",))
    assert required_databases([M1, M2, E1], request) == {"mongodb", "elasticsearch"}


def test_what_cannot_be_undone_is_refused_by_name() -> None:
    """Before anything changes; --accept-data-loss passes it over, with a warning."""
    file = migration("mongodb:1.0.0", operations=(COLLECTION, REMOVE))
    journal = survey("mongodb", record(file))
    (problem,) = refused([file], "0.0.0", journal)
    assert problem.startswith(
        "mongodb/1.0.0.json: 1.0.0 cannot be undone: operation 2, remove_field: it keeps nothing "
        "of what it overwrites. Write a NNN_name_rollback file for it; "
    )
    assert problem.endswith(" is applied. With --accept-data-loss it is passed over.")
    made = planned([file], "0.0.0", journal, accept_data_loss=True)
    assert made.first == {"mongodb:1.0.0": "1.0.0 2 1"}
    assert "mongodb:1.0.0 operation 2 is left as it is" in made.warnings[0]
    assert made.passed_over == {"mongodb:1.0.0": (2,)}


def test_what_would_help_is_a_sentence() -> None:
    """Whatever the operation says, and however it ends that."""
    mapping = {"type": "update_mapping", "index": "users", "mapping": {"properties": {}}}
    file = migration("elasticsearch:1.0.0", operations=(mapping,))
    (problem,) = refused([file], "0.0.0", survey("elasticsearch", record(file)))
    assert 'update_mapping: fields cannot be taken away from "users". Write a NNN' in problem
    assert "that are not used do no harm. With --accept-data-loss" in problem


def test_what_was_found_at_the_start_counts() -> None:
    """The operation itself has recorded that it cannot be undone."""
    journal = survey("mongodb", record(M1, irreversible="the destination was not empty"))
    (problem,) = refused([M1], "0.0.0", journal)
    assert "the destination was not empty" in problem


def test_an_operation_that_was_never_begun_is_no_obstacle() -> None:
    """A failed migration is undone from the operation that it came to."""
    file = migration("mongodb:1.0.0", operations=(COLLECTION, INDEX, REMOVE))
    failed = record(file, MigrationState.FAILED, OperationState.DONE, OperationState.FAILED)
    made = planned([file], "0.0.0", survey("mongodb", failed))
    assert made.first == {"mongodb:1.0.0": "1.0.0 2 1"}


def test_a_rollback_file_takes_precedence() -> None:
    """Where the whole migration is applied; it goes on where it was."""
    file = migration("mongodb:1.0.0", operations=(REMOVE,), rollback=(INDEX, COLLECTION))
    made = planned([file], "0.0.0", survey("mongodb", record(file)))
    assert made.first == {"mongodb:1.0.0": "1.0.0 2"}
    half = record(
        file,
        MigrationState.ROLLING_BACK,
        OperationState.DONE,
        OperationState.DONE,
        OperationState.RUNNING,
    )
    kinds = ("remove_field", "create_index", "create_collection")
    for each, kind in zip(half.operations, kinds, strict=True):
        each.type = kind
    made = planned([file], "0.0.0", survey("mongodb", half))
    assert made.first == {"mongodb:1.0.0": "1.0.0 3"}


def test_files_must_be_what_was_applied() -> None:
    """Without them nobody knows the way back."""
    (problem,) = refused([M1], "1.0.0", survey("mongodb", record(M1), record(M2)))
    assert "1.2.0 (change) is applied, but has no file" in problem
    (problem,) = refused([M1], "0.0.0", survey("mongodb", record(M1, checksum="other")))
    assert "its file was changed since" in problem


@pytest.mark.parametrize("target", ["latest", "1.0", "1.0.0-rc1"])
def test_a_target_that_is_none(target: str) -> None:
    """Only a whole version says what is to stay; it has no --target."""
    assert refused([M1], target, survey("mongodb", record(M1))) == [
        (
            f"the version {target!r} that is to stay is not MAJOR.MINOR.PATCH. Write for instance "
            "1.2.0; 0.0.0 undoes everything."
        )
    ]


def test_a_database_without_files_is_refused() -> None:
    """Nobody knows its way back; to say nothing of it would be to do half."""
    journal = survey("mongodb", record(M1)), survey("postgresql")
    (problem,) = refused([M1], "0.0.0", *journal, databases=("mongodb", "postgresql"))
    assert problem.startswith("postgresql: has no migrations in the folder")
    request = Request(target="0.0.0", direction=Direction.BACK, databases=("postgresql",))
    with pytest.raises(Refused, match="leave it out of --databases"):
        required_databases([M1], request)


def test_forward_refuses_what_is_half_undone() -> None:
    """The only way from there is further back."""
    done = OperationState.DONE
    for half in (
        record(M2, MigrationState.FAILED, OperationState.UNDOING),
        record(M2, MigrationState.ROLLING_BACK, done),
        record(M2, MigrationState.FAILED, done, OperationState.FAILED),  # its rollback file's
    ):
        with pytest.raises(Refused, match=r"dharma rollback 1\.0\.0 --databases mongodb"):
            plan([M1, M2], {"mongodb": survey("mongodb", record(M1), half)}, Request())
    undone = survey("mongodb", record(M1), record(M2, MigrationState.ROLLED_BACK, done, done))
    assert plan([M1, M2], {"mongodb": undone}, Request()).orders == {"mongodb": ("1.2.0",)}


def test_a_rollback_file_that_has_begun_stays_what_it_is() -> None:
    """Else its numbers would mean other operations, or none."""
    done, failed = OperationState.DONE, OperationState.FAILED
    both = migration("mongodb:1.0.0", operations=(REMOVE,), rollback=(INDEX, COLLECTION))
    begun = record(both, MigrationState.FAILED, done, done, failed)
    kinds = ("remove_field", "create_index", "create_collection")
    for each, kind in zip(begun.operations, kinds, strict=True):
        each.type = kind
    made = planned([both], "0.0.0", survey("mongodb", begun))
    assert made.first == {"mongodb:1.0.0": "1.0.0 3"}
    for rollback in ((), (INDEX,), (COLLECTION, INDEX)):
        other = migration("mongodb:1.0.0", operations=(REMOVE,), rollback=rollback)
        (problem,) = refused([other], "0.0.0", survey("mongodb", begun))
        assert "has begun, and was changed or removed since" in problem
    begun.operations[2].state = done
    made = planned([both], "0.0.0", survey("mongodb", begun))
    assert made.first == {"mongodb:1.0.0": "1.0.0 3"}


def test_half_undone_goes_on_to_what_cannot_be_undone() -> None:
    """What was begun above it can be finished; below it nothing more is undone."""
    done, undoing = OperationState.DONE, OperationState.UNDOING
    file = migration("mongodb:1.2.0", operations=(COLLECTION, REMOVE, INDEX))
    half = record(file, MigrationState.ROLLING_BACK, done, done, undoing)
    made = planned([M1, file], "1.0.0", survey("mongodb", record(M1), half))
    assert made.first == {"mongodb:1.2.0": "1.2.0 3 3"}
    assert "is undone down to its operation 3" in made.warnings[0]
    assert made.passed_over == {}
    (problem,) = refused([M1, file], "0.0.0", survey("mongodb", record(M1), half))
    assert "1.2.0 cannot be undone: operation 2" in problem
    whole = planned([M1, file], "1.0.0", survey("mongodb", record(M1), half), accept_data_loss=True)
    assert whole.first == {"mongodb:1.2.0": "1.2.0 3 1"}


def test_what_a_half_stands_on_stays() -> None:
    """A run would wait for ever until the half is gone that cannot be undone."""
    base = migration("postgresql:1.0.0", operations=(SQL,), rollback=(SQL,))
    file = migration("mongodb:1.0.0", "postgresql:1.0.0", operations=(REMOVE, INDEX))
    half = record(file, MigrationState.FAILED, OperationState.DONE, OperationState.UNDOING)
    there = (survey("mongodb", half), survey("postgresql", record(base)))
    (problem,) = refused([base, file], "0.0.0", *there)
    assert "postgresql:1.0.0 is to be undone, but mongodb:1.0.0 needs it and stays" in problem
    assert "--accept-data-loss passes that over" in problem
    made = planned([base, file], "0.0.0", *there, accept_data_loss=True)
    assert made.dependencies["postgresql:1.0.0"] == ("mongodb:1.0.0",)


@pytest.mark.parametrize("way", ["back", "forward"])
def test_a_file_may_not_change_on_the_way_back(way: str) -> None:
    """Its operations would be undone with what others have recorded."""
    half = record(M2, MigrationState.ROLLING_BACK, OperationState.UNDOING, checksum="other")
    journal = survey("mongodb", record(M1), half)
    if way == "back":
        problems = refused([M1, M2], "1.0.0", journal)
    else:
        with pytest.raises(Refused) as caught:
            plan([M1, M2], {"mongodb": journal}, Request())
        problems = [str(problem) for problem in caught.value.problems]
    assert any("its file was changed since" in problem for problem in problems)


def test_an_older_folder_does_not_go_forward_over_it() -> None:
    """It knows nothing of the migration that is half undone."""
    half = record(M2, MigrationState.ROLLING_BACK, OperationState.UNDOING)
    older = migration("mongodb:1.0.0", operations=(INDEX,))
    with pytest.raises(Refused, match="but has no file"):
        plan([older], {"mongodb": survey("mongodb", half)}, Request())


def test_what_was_carried_out_as_something_else() -> None:
    """A changed file that somebody has accepted: what was kept is of no use to another type."""
    before = record(migration("mongodb:1.0.0", operations=(COLLECTION, REMOVE)))
    now = migration("mongodb:1.0.0", operations=(COLLECTION, INDEX))
    accepted = before.model_copy(update={"checksum": now.checksum})
    (said,) = refused([now], "0.0.0", survey("mongodb", accepted))
    assert "operation 2, create_index: it was carried out as remove_field" in said
    assert "rollback file" in said


def test_a_rollback_file_of_which_nothing_is_left() -> None:
    """It had begun, and the migration was declared to be there: it is as if it never had."""
    file = M2.model_copy(update={"rollback": (SQL,)})
    done, pending = OperationState.DONE, OperationState.PENDING
    there = survey("mongodb", record(M1), record(file, MigrationState.APPLIED, done, pending))
    assert plan([M1, file], {"mongodb": there}, Request()).orders == {}
    changed = M2.model_copy(update={"rollback": (INDEX,)})
    made = planned([M1, changed], "1.0.0", there)
    assert made.first == {M2.reference: f"{M2.version} 2"}


def test_an_applied_file_that_has_lost_an_operation() -> None:
    """It was changed; the operation that it lost is not one of a rollback file."""
    before = migration("mongodb:1.0.0", operations=(COLLECTION, INDEX))
    with pytest.raises(Refused) as caught:
        plan(
            [migration("mongodb:1.0.0")], {"mongodb": survey("mongodb", record(before))}, Request()
        )
    (problem,) = caught.value.problems
    assert "its file was changed since" in problem.what
