"""How much an operation has to go through, and how long that will take, as far as is known."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dharma_tasks.estimate import Estimate, Estimates, rates
from dharma_tasks.operations.base import Burden
from dharma_tasks.records import (
    MigrationRecord,
    MigrationState,
    OperationRecord,
    OperationState,
    Survey,
)

BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
WALK = Burden(heavy=True, targets=("users",), partly=True, counted=True)
BUILD = Burden(heavy=True, targets=("users",))
KNOWN = Estimates({"users": 5000, "orders": 300, "view": None}, {"walk": 100.0, "build": 1.0})


def operation(
    number: int, ended: float | None, done: int = 5000, kind: str = "walk"
) -> OperationRecord:
    """One that ended so many seconds after its migration had begun."""
    return OperationRecord(
        number=number,
        type=kind,
        state=OperationState.DONE,
        done=done,
        updated=None if ended is None else BEGUN + timedelta(seconds=ended),
    )


def migration(
    *operations: OperationRecord, state: MigrationState = MigrationState.APPLIED
) -> MigrationRecord:
    """What the journal says of one."""
    return MigrationRecord(
        version="1.0.0", name="a name", state=state, checksum="sum", run="r", by="me",
        started=BEGUN, operations=list(operations),
    )  # fmt: skip


def seen(*migrations: MigrationRecord) -> dict[str, float]:
    """The rates in such a journal."""
    return rates(Survey(database="mongodb", migrations=list(migrations)))


# -- rates ---------------------------------------------------------------------------------


def test_each_operation_begins_where_the_one_before_ended() -> None:
    """Whatever kind that was."""
    found = seen(migration(operation(1, 10), operation(2, 11, 1, "build"), operation(3, 61)))
    assert found == {"walk": (500 + 100) / 2}


def test_of_several_the_one_in_the_middle() -> None:
    """One that stood still for a night does not count."""
    applied = [migration(operation(1, seconds)) for seconds in (10, 50_000, 5)]
    assert seen(*applied) == {"walk": 500}


@pytest.mark.parametrize(
    "applied",
    [
        migration(operation(1, 3, done=999)),
        migration(operation(1, 0)),
        migration(operation(1, None), operation(2, 10)),
        migration(operation(1, 10), state=MigrationState.FAILED),
        migration(operation(1, 10), state=MigrationState.ROLLING_BACK),
    ],
)
def test_what_says_nothing(applied: MigrationRecord) -> None:
    """Too little, at once, of an unknown time, or not whole."""
    assert seen(applied) == {}


# -- the way forward -----------------------------------------------------------------------


def test_all_of_it() -> None:
    """The time is of those of the same kind, where the journal counts the same."""
    assert KNOWN.of("walk", WALK, None) == Estimate(count=5000, at_most=True, seconds=50)
    assert KNOWN.of("other", WALK, None) == Estimate(count=5000, at_most=True)
    assert KNOWN.of("build", BUILD, None) == Estimate(count=5000)
    assert KNOWN.of("walk", Burden(blocking=("others wait",)), None) is None


def test_what_is_left_of_one_that_has_begun() -> None:
    """By its own total; one that counts something else has all of it before it."""
    begun = operation(1, 10, done=4000)
    whole = begun.model_copy(update={"total": 8000})
    assert KNOWN.of("walk", WALK, begun) == Estimate(count=1000, at_most=True, seconds=10)
    assert KNOWN.of("walk", WALK, whole) == Estimate(count=4000, at_most=True, seconds=40)
    assert KNOWN.of("build", BUILD, whole) == Estimate(count=5000)
    grown = begun.model_copy(update={"done": 7000})
    assert KNOWN.of("walk", WALK, grown) == Estimate(count=0, at_most=True, seconds=0)


@pytest.mark.parametrize(
    ("targets", "count", "missing"),
    [
        (("users", "orders"), 5300, []),
        (("users", "view"), None, []),
        (("users", "new"), 5000, ["new"]),
        (("new",), None, ["new"]),
        ((), None, []),
    ],
)
def test_several_targets(targets: tuple[str, ...], count: int | None, missing: list[str]) -> None:
    """What is not there yet is named; where one cannot be counted, nothing is said of all."""
    found = KNOWN.of("walk", Burden(heavy=True, targets=targets), None)
    assert found == Estimate(count=count, missing=missing)


def test_a_database_that_says_nothing() -> None:
    """Then nothing is known to be missing either."""
    assert Estimates(None, {}).of("walk", WALK, None) == Estimate(at_most=True)


# -- the way back --------------------------------------------------------------------------


def test_as_much_as_was_done() -> None:
    """Or as is left of it; how long it takes, nobody has seen."""
    back = Burden(heavy=True, partly=True)
    done = operation(1, 10, done=4000)
    undoing = done.model_copy(update={"state": OperationState.UNDOING, "done": 300, "total": 1000})
    unknown = undoing.model_copy(update={"total": None})
    assert KNOWN.back(back, done) == Estimate(count=4000, at_most=True)
    assert KNOWN.back(back, undoing) == Estimate(count=700, at_most=True)
    assert KNOWN.back(back, unknown) == Estimate(at_most=True)
    assert KNOWN.back(BUILD, done) == Estimate(count=5000)
    assert KNOWN.back(Burden(), done) is None
