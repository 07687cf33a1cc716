"""The planner: what is done in which order, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dharma_tasks.errors import Refused
from dharma_tasks.migration import Migration, Reference
from dharma_tasks.planner import Plan, Request, checksum, plan, required_databases
from dharma_tasks.records import Direction, Head, MigrationRecord, MigrationState, Survey

OTHER = "0123456789abcdef"


def migration(database: str, version: str, *dependencies: str) -> Migration:
    """A migration with a checksum; its file is named by its version."""
    return Migration(
        database=database,
        version=version,
        name="a name",
        migration_type="schema",
        dependencies=tuple(Reference(text) for text in dependencies),
        operations=({"type": "any"},),
        file=f"{database}/{version}.json",
    ).with_checksum()


def survey(
    database: str,
    *records: tuple[Migration | str, MigrationState] | tuple[Migration | str, MigrationState, str],
    generation: int | None = 7,
) -> Survey:
    """What a journal says: each record is a migration (or a version), its state, its checksum."""
    head = None if generation is None else Head(identity="x", generation=generation)
    made = []
    for migrated, state, *other in records:
        whole = migrated if isinstance(migrated, Migration) else migration(database, migrated)
        made.append(
            MigrationRecord(
                version=whole.version,
                name=whole.name,
                state=state,
                checksum=other[0] if other else whole.checksum,
                run="r",
                by="someone",
                started=datetime(2026, 1, 1, tzinfo=UTC),
            )
        )
    return Survey(database=database, head=head, migrations=made)


def planned(migrations: list[Migration], *surveys: Survey, **request: object) -> Plan:
    """The plan for a request."""
    return plan(migrations, {s.database: s for s in surveys}, Request.model_validate(request))


def refused(migrations: list[Migration], *surveys: Survey, **request: object) -> list[str]:
    """What the planner says of a request that it must refuse."""
    with pytest.raises(Refused) as caught:
        planned(migrations, *surveys, **request)
    return [str(problem) for problem in caught.value.problems]


A, B, C = (migration("mongodb", version) for version in ("1.9.0", "1.10.0", "1.11.0"))
FRESH = survey("mongodb", generation=None)
APPLIED, FAILED, RUNNING, ROLLED_BACK = (
    MigrationState.APPLIED,
    MigrationState.FAILED,
    MigrationState.RUNNING,
    MigrationState.ROLLED_BACK,
)


def test_first_run() -> None:
    """Everything, by version, with dependencies across databases and generation 0."""
    sql = migration("postgresql", "1.0.0", "mongodb:1.9.0")
    last = migration("mongodb", "2.0.0", "mongodb:1.9.0", "postgresql:1.0.0")
    found = planned([last, C, sql, B, A], FRESH, survey("postgresql", generation=None))
    assert found.orders == {
        "mongodb": ("1.9.0", "1.10.0", "1.11.0", "2.0.0"),
        "postgresql": ("1.0.0",),
    }
    assert found.dependencies == {
        "mongodb:1.9.0": (),
        "mongodb:1.10.0": (),
        "mongodb:1.11.0": (),
        "mongodb:2.0.0": ("postgresql:1.0.0",),
        "postgresql:1.0.0": ("mongodb:1.9.0",),
    }
    assert found.generations == {"mongodb": 0, "postgresql": 0}
    assert found.warnings == []
    assert Plan.model_validate_json(found.model_dump_json()) == found


def test_nothing_to_do() -> None:
    """A database without pending migrations is no part of the plan."""
    sql = migration("postgresql", "1.0.0", "mongodb:1.9.0")
    done = survey("mongodb", (A, APPLIED))
    assert not planned([A], done).orders
    found = planned([A, sql], done, survey("postgresql", generation=3))
    assert found.orders == {"postgresql": ("1.0.0",)}
    assert found.generations == {"postgresql": 3}
    assert found.dependencies == {"postgresql:1.0.0": ("mongodb:1.9.0",)}


def test_late() -> None:
    """A version below an applied one is refused, unless that is allowed."""
    state = survey("mongodb", (A, APPLIED), (C, APPLIED))
    assert refused([A, B, C], state) == [
        (
            "mongodb/1.10.0.json, version: 1.10.0 comes late: 1.11.0 is applied already. Give it "
            "a version (and a number) above 1.11.0, or submit with --allow-out-of-order if it "
            "may run after it."
        )
    ]
    assert planned([A, B, C], state, allow_out_of_order=True).orders == {"mongodb": ("1.10.0",)}


def test_late_below_one_that_has_begun() -> None:
    """Half of 1.11.0 is there already, so 1.10.0 would run on what it never knew."""
    state = survey("mongodb", (A, APPLIED), (C, FAILED))
    assert "1.10.0 comes late: 1.11.0 is failed already" in refused([A, B, C], state)[0]
    found = planned([A, B, C], state, allow_out_of_order=True)
    assert found.orders == {"mongodb": ("1.10.0", "1.11.0")}


@pytest.mark.parametrize("state", [FAILED, RUNNING])
def test_gone_on_with(state: MigrationState) -> None:
    """What failed or was interrupted is first, when its file is what it was."""
    found = planned([A, B, C], survey("mongodb", (A, APPLIED), (B, state)))
    assert found.orders == {"mongodb": ("1.10.0", "1.11.0")}
    assert found.generations == {"mongodb": 7}


@pytest.mark.parametrize("state", [FAILED, RUNNING])
def test_begun_and_changed(state: MigrationState) -> None:
    """Half of the old file cannot be gone on with by the new one."""
    (problem,) = refused([A, B], survey("mongodb", (A, APPLIED), (B, state, OTHER)))
    assert problem == (
        f"mongodb/1.10.0.json: 1.10.0 is {state}, and its file was changed since: its checksum "
        f"was 0123456789ab and is {B.checksum[:12]}. Operations of it are done. Put the file "
        "back as it was submitted, clear the cause in the database, and submit again: it goes on "
        "where it stopped. To go on with the file as it is now: dharma repair mongodb 1.10.0 "
        "--accept-checksum"
    )


def test_applied_and_changed() -> None:
    """The file and both checksums are named, also of a version above the target."""
    state = survey("mongodb", (A, APPLIED, OTHER), (B, APPLIED, OTHER))
    first, second = refused([A, B], state, target="1.9.0")
    assert first == (
        "mongodb/1.9.0.json: 1.9.0 is applied, and its file was changed since: its checksum was "
        f"0123456789ab and is {A.checksum[:12]}. Put the file back as it was, and write the "
        "change as a new migration. Where the change does not matter: dharma repair mongodb 1.9.0 "
        "--accept-checksum"
    )
    assert second.startswith("mongodb/1.10.0.json: 1.10.0 is applied")


def test_rolled_back_is_pending() -> None:
    """Whatever its file was then."""
    state = survey("mongodb", (A, APPLIED), (B, ROLLED_BACK, OTHER))
    assert planned([A, B], state).orders == {"mongodb": ("1.10.0",)}


def named(version: str, name: str) -> Migration:
    """One with a name of its own."""
    return migration("mongodb", version).model_copy(update={"name": name}).with_checksum()


def test_without_a_file() -> None:
    """Begun: refused, since nobody can go on with it. Rolled back: gone."""
    last = named("1.11.0", "last")
    found = planned([last], survey("mongodb", (B, ROLLED_BACK)))
    assert (found.orders, found.warnings) == ({"mongodb": ("1.11.0",)}, [])
    (problem,) = refused([last], survey("mongodb", (B, FAILED)))
    assert problem.startswith("mongodb: 1.10.0 (a name) is failed, but has no file. Put its files")


def test_missing_between_others() -> None:
    """A file that is gone from the middle was lost, or is a merge that went wrong."""
    state = survey("mongodb", (A, APPLIED), (B, APPLIED), (C, APPLIED))
    assert refused([A, C], state) == [
        (
            "mongodb: 1.10.0 (a name) is applied, but has no file, while older and newer ones have "
            "theirs. Put its files back as they were applied. Old files may go, but then all up to "
            "a version."
        )
    ]


def test_missing_at_the_ends() -> None:
    """Old history may be removed, and an older release may be deployed again."""
    last = named("1.12.0", "last")
    state = survey("mongodb", (A, APPLIED), (B, APPLIED), (C, APPLIED))
    found = planned([C, last], state)
    assert found.orders == {"mongodb": ("1.12.0",)}
    assert found.warnings == ["mongodb: 2 applied migrations up to 1.10.0 have no files any more"]
    found = planned([A, B], state)
    assert not found.orders
    assert found.warnings == [
        "mongodb:1.11.0 (a name) is applied, and newer than every file in the folder: it stays so"
    ]


def test_reordered() -> None:
    """A version is changed, or two change places, after they were applied: it is said as that."""
    one, two = named("1.1.0", "one"), named("1.2.0", "two")
    state = survey("mongodb", (one, APPLIED), (two, APPLIED))
    assert refused([one, named("1.3.0", "two")], state) == [
        (
            "mongodb/1.3.0.json, version: says the version 1.3.0, and is applied as 1.2.0. Put the "
            "version 1.2.0 back. If it is to run once more, give it another name."
        )
    ]
    assert refused([named("1.1.5", "one"), two], state) == [
        (
            "mongodb/1.1.5.json, version: says the version 1.1.5, and is applied as 1.1.0. Put the "
            "version 1.1.0 back. If it is to run once more, give it another name."
        )
    ]
    found = refused([named("1.2.0", "one"), named("1.1.0", "two")], state)
    assert [problem.partition(". ")[0] for problem in found] == [
        "mongodb/1.2.0.json, version: says the version 1.2.0, and is applied as 1.1.0",
        "mongodb/1.1.0.json, version: says the version 1.1.0, and is applied as 1.2.0",
    ]


def test_one_like_another_is_not_reordered() -> None:
    """The same done twice, under one name, is each in its place; what is rolled back is gone."""
    assert planned([B, C], survey("mongodb", (A, APPLIED), (B, APPLIED), (C, APPLIED))).warnings
    assert planned([B], survey("mongodb", (A, ROLLED_BACK))).orders == {"mongodb": ("1.10.0",)}


def test_target() -> None:
    """Up to and with the target; what is applied above it stays, with a warning."""
    assert planned([A, B, C], FRESH, target="1.10.0").orders == {"mongodb": ("1.9.0", "1.10.0")}
    assert planned([A, B, C], FRESH, target="1.10.5").warnings == [
        "no migration has the version 1.10.5; everything up to it is meant"
    ]
    found = planned([A, B], survey("mongodb", (A, APPLIED), (B, APPLIED)), target="1.9.0")
    assert not found.orders
    assert found.warnings == [
        "mongodb:1.10.0 (a name) is applied and above the target 1.9.0: it stays so"
    ]


@pytest.mark.parametrize("target", ["newest", "1.0", "v1.0.0", "1.0.0-rc1", ""])
def test_bad_target(target: str) -> None:
    """Refused by whoever asks first."""
    assert refused([A], FRESH, target=target) == [
        (
            f"the target {target!r} is neither 'latest' nor MAJOR.MINOR.PATCH. "
            "Write for instance --target 1.2.0."
        )
    ]
    with pytest.raises(Refused):
        required_databases([A], Request(target=target))


def test_bad_database() -> None:
    """The nearest name is said; one that has no migrations is a warning."""
    assert refused([A], FRESH, databases=("mongo", "pg")) == [
        "no such database: 'mongo'. Did you mean 'mongodb'?",
        "no such database: 'pg'. Known databases: elasticsearch, mongodb, postgresql.",
    ]
    found = planned([A], FRESH, databases=("mongodb", "postgresql"))
    assert found.orders == {"mongodb": ("1.9.0",)}
    assert found.warnings == [
        "postgresql has no migrations in the folder: there is nothing to do there"
    ]


NEEDY = migration("postgresql", "1.0.0", "mongodb:1.10.0")
SQL = survey("postgresql")


def test_dependency_in_a_database_left_out() -> None:
    """Refused, unless the survey shows that it is applied; the message says which is missing."""
    only = ("postgresql",)
    assert refused([A, B, NEEDY], SQL, databases=only) == [
        (
            "postgresql/1.0.0.json, dependencies: 1.0.0 needs mongodb:1.10.0, which was not asked "
            "for in mongodb and is not part of this run. Add mongodb to --databases, or "
            "apply it first."
        )
    ]
    (problem,) = refused([A, B, NEEDY], SQL, survey("mongodb", (B, FAILED)), databases=only)
    assert "needs mongodb:1.10.0, which is failed and is not part of this run" in problem
    (problem,) = refused([A, B, NEEDY], SQL, FRESH, databases=only)
    assert "needs mongodb:1.10.0, which is pending and is not part of this run" in problem
    found = planned([A, B, NEEDY], SQL, survey("mongodb", (B, APPLIED)), databases=only)
    assert found.orders == {"postgresql": ("1.0.0",)}
    assert found.dependencies == {"postgresql:1.0.0": ("mongodb:1.10.0",)}


def test_dependency_above_the_target() -> None:
    """The target that would include it is named."""
    (problem,) = refused([A, B, NEEDY], SQL, FRESH, target="1.9.0")
    assert problem == (
        "postgresql/1.0.0.json, dependencies: 1.0.0 needs mongodb:1.10.0, which is pending and "
        "is not part of this run. Submit with --target 1.10.0 or higher, or apply it first."
    )
    assert planned([A, B, NEEDY], SQL, FRESH, target="1.10.0").orders["postgresql"] == ("1.0.0",)


def test_required_databases() -> None:
    """The chosen ones, and those that what is chosen depends on."""
    later = migration("postgresql", "2.0.0", "elasticsearch:1.0.0")
    index = migration("elasticsearch", "1.0.0")
    folder = [A, B, NEEDY, later, index]
    assert required_databases(folder, Request()) == {"mongodb", "postgresql", "elasticsearch"}
    only = Request(databases=("postgresql",))
    assert required_databases(folder, only) == {"mongodb", "postgresql", "elasticsearch"}
    lower = only.model_copy(update={"target": "1.0.0"})
    assert required_databases(folder, lower) == {"mongodb", "postgresql"}
    assert required_databases(folder, Request(databases=("mongodb",))) == {"mongodb"}


def test_survey_of_a_chosen_database_is_needed() -> None:
    """Nothing is planned by guessing."""
    with pytest.raises(KeyError):
        planned([A])


def test_checksum() -> None:
    """It changes with the order and with the meaning, not with the order of the input."""
    whole = planned([A, B], FRESH).checksum
    assert planned([B, A], FRESH).checksum == whole
    assert planned([A], FRESH).checksum != whole
    renamed = B.model_copy(update={"name": "another"}).with_checksum()
    assert planned([A, renamed], FRESH).checksum != whole


# -- properties ----------------------------------------------------------------------------


@st.composite
def situations(draw: st.DrawFn) -> tuple[list[Migration], dict[str, Survey], Request]:
    """A folder without circles, journals that say anything of it, and a request."""
    names = draw(st.lists(st.sampled_from(["mongodb", "postgresql"]), min_size=1, max_size=8))
    migrations: list[Migration] = []
    for number, database in enumerate(names):
        earlier = [str(m.reference) for m in migrations]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=2)) if earlier else []
        migrations.append(migration(database, f"1.{number}.0", *needs))
    states = st.sampled_from([*MigrationState, MigrationState.APPLIED, MigrationState.PENDING])
    surveys = {
        database: survey(
            database,
            *(
                (m, state, draw(st.sampled_from([m.checksum, m.checksum, m.checksum, OTHER])))
                for m in migrations
                if m.database == database and (state := draw(states)) != MigrationState.PENDING
            ),
        )
        for database in ("mongodb", "postgresql")
    }
    request = Request(
        target=draw(st.sampled_from(["latest", "1.3.0"])),
        databases=draw(st.sampled_from([None, ("mongodb",), ("postgresql", "mongodb")])),
        allow_out_of_order=draw(st.booleans()),
    )
    return draw(st.permutations(migrations)), surveys, request


@given(situations())
def test_a_plan_can_be_carried_out(
    situation: tuple[list[Migration], dict[str, Survey], Request],
) -> None:
    """Whatever the journals say, a plan that is not refused can be worked down to its end.

    Each database goes down its own order and waits where a dependency is not applied yet: that
    must end with everything applied, and no applied migration may be in it.
    """
    migrations, surveys, request = situation
    try:
        found = plan(migrations, surveys, request)
    except Refused:
        return
    by_name = {m.reference: m for m in migrations}
    applied = {
        f"{name}:{record.version}"
        for name, survey in surveys.items()
        for record in survey.migrations
        if record.state == APPLIED
    }
    queues = {name: [f"{name}:{v}" for v in order] for name, order in found.orders.items()}
    assert not applied & {name for queue in queues.values() for name in queue}
    assert set(found.dependencies) == {name for queue in queues.values() for name in queue}
    while any(queues.values()):
        ready = [
            queue
            for queue in queues.values()
            if queue and applied.issuperset(by_name[Reference(queue[0])].dependencies)
        ]
        assert ready, f"{queues} wait for each other"
        applied.add(ready[0].pop(0))


@given(situations())
def test_what_is_left_out_is_meant(
    situation: tuple[list[Migration], dict[str, Survey], Request],
) -> None:
    """Every migration that was asked for is applied or planned, and nothing else is planned."""
    migrations, surveys, request = situation
    try:
        found = plan(migrations, surveys, request)
    except Refused:
        return
    asked = {
        m.reference
        for m in migrations
        if (request.databases is None or m.database in request.databases)
        and (request.target == "latest" or m.version <= request.target)
    }
    applied = {
        m.reference
        for m in migrations
        if (record := surveys[m.database].by_version().get(m.version)) and record.state == APPLIED
    }
    assert set(found.dependencies) == asked - applied


# -- MAJOR versions ------------------------------------------------------------------------


def test_a_major_version_is_a_persons_decision() -> None:
    """Refused before anything runs, with what to read, how to back up, and how far it may go."""
    two = migration("mongodb", "2.0.0").model_copy(
        update={"description": "splits names", "breaking": "readers need 5.1"}
    )
    files = [A, B, two, migration("postgresql", "1.9.9"), migration("postgresql", "2.1.0")]
    state = survey("mongodb", (A, APPLIED)), survey("postgresql", generation=None)
    (problem,) = refused(files, *state)
    assert problem.startswith("mongodb/2.0.0.json, version: takes mongodb from 1.9.0 to 2.0.0, ")
    for said in ("splits names", "readers need 5.1", "mongodump", "--allow-major", "1.10.0"):
        assert said in problem
    assert planned(files, *state, allow_major=True).orders["mongodb"] == ("1.10.0", "2.0.0")
    assert planned(files, *state, target="1.10.0").orders["mongodb"] == ("1.10.0",)


def test_a_new_database_goes_straight_through() -> None:
    """There is nothing in it that could break."""
    files = [A, migration("mongodb", "2.0.0"), migration("mongodb", "3.0.0")]
    assert planned(files, FRESH).orders == {"mongodb": ("1.9.0", "2.0.0", "3.0.0")}
    half = survey("mongodb", (A, ROLLED_BACK))
    assert planned(files, half).orders == {"mongodb": ("1.9.0", "2.0.0", "3.0.0")}


def test_a_first_submit_that_was_cut_off_goes_on() -> None:
    """The same submit again: what was decided for its plan stands, and for no other."""
    two, other = migration("mongodb", "2.0.0"), migration("postgresql", "1.0.0")
    files = [A, B, two, other]
    fresh = FRESH, survey("postgresql", generation=None)

    def cut_off(made: Plan, *records: tuple[Migration, MigrationState]) -> list[Survey]:
        head = Head(identity="x", generation=1, run="r", plan=made.checksum)
        done = survey("postgresql", (other, APPLIED))
        return [
            found.model_copy(update={"head": head}) for found in (survey("mongodb", *records), done)
        ]

    begun = cut_off(planned(files, *fresh), (A, APPLIED), (B, RUNNING))
    assert planned(files, *begun).orders == {"mongodb": ("1.10.0", "2.0.0")}
    more = [*files, migration("mongodb", "2.1.0")]
    assert "--allow-major" in refused(more, *begun)[0]
    short = cut_off(planned(files, *fresh, target="1.10.0"), (A, APPLIED), (B, APPLIED))
    assert "--allow-major" in refused(files, *short)[0]


def test_a_rollback_has_decided_nothing() -> None:
    """Its plan may have the very same versions, and went the other way."""
    two = migration("mongodb", "2.0.0")
    state = survey("mongodb", (A, APPLIED))
    alone = checksum({"mongodb": ["2.0.0"]}, {two.reference: two})
    head = Head(identity="x", run="back", plan=alone, direction=Direction.BACK)
    assert refused([A, two], state.model_copy(update={"head": head}))
    forward = head.model_copy(update={"direction": Direction.FORWARD})
    assert planned([A, two], state.model_copy(update={"head": forward})).orders
