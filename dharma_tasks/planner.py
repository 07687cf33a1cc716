"""What a run is to do: from the migrations, what the journals say, and what was asked for.

Pure functions. What is applied is a set, not a high-water mark: a version that arrives late
is refused rather than skipped, and rather than run after what was built without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel, ConfigDict

from dharma_tasks import advice
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.explain import unknown_databases
from dharma_tasks.limits import Limits
from dharma_tasks.majors import Leap, major_problems
from dharma_tasks.migration import Migration, Reference, Version, plain_version, reference
from dharma_tasks.records import Direction, MigrationRecord, MigrationState, OperationState, Survey
from dharma_tasks.versions import BEGUN, Versions, order
from dharma_tasks.words import several

__all__ = [
    "LATEST",
    "Plan",
    "Request",
    "changed",
    "checksum",
    "chosen",
    "half_undone",
    "identities",
    "other_values",
    "plan",
    "required_databases",
    "wanted_version",
]

LATEST = "latest"


class Request(BaseModel):
    """What was asked for.

    `target` is `latest` or the highest version to apply in each database, and on the way back
    the one that stays (`0.0.0` for none); `databases` None means every database that has
    migrations. `limits` change nothing of the plan.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    target: str = LATEST
    databases: tuple[str, ...] | None = None
    allow_out_of_order: bool = False
    allow_major: bool = False
    direction: Direction = Direction.FORWARD
    accept_data_loss: bool = False
    limits: Limits = Limits()


class Plan(BaseModel):
    """What a run does.

    `orders` has, for each database with something to do, the versions in their order; it is
    empty when there is nothing to do. `dependencies` has every planned migration with those of
    its dependencies that are in other databases: in this plan, or applied already. On the way
    back it has those in other databases that depend on it. `first` says of a migration where it
    begins (see `Next.text`), if that is not its first operation, and `passed_over` which of its
    operations are left as they are, where a person accepts that.
    `generations` is what the head of each database in `orders` said (0 without a head):
    `Journal.begin` expects it; `identities` is whose head it was. `checksum` covers the orders and
    the meaning of each migration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    orders: dict[str, tuple[str, ...]]
    dependencies: dict[Reference, tuple[Reference, ...]]
    generations: dict[str, int]
    checksum: str
    first: dict[Reference, str] = {}
    passed_over: dict[Reference, tuple[int, ...]] = {}
    warnings: list[str] = []
    identities: dict[str, str] = {}


def identities(names: Iterable[str], surveys: Mapping[str, Survey]) -> dict[str, str]:
    """Which journals those are; one that is still to be made has no identity yet."""
    heads = ((name, surveys[name].head) for name in names)
    return {name: head.identity for name, head in heads if head}


def required_databases(migrations: Sequence[Migration], request: Request) -> set[str]:
    """The databases whose surveys `plan` needs: the chosen ones, and those of dependencies.

    Raises:
        Refused: `request` names a database or a target that cannot be.
    """
    target = wanted_version(request)
    asked = chosen(migrations, request)
    if request.direction is Direction.BACK:
        above = {
            m.reference for m in migrations if m.database in asked and m.order > _floor(target)
        }
        return {*asked, *(m.database for m in migrations if above & {*m.dependencies})}
    wanted = (
        dependency
        for migration in migrations
        if migration.database in asked and _within(migration, target)
        for dependency in migration.dependencies
    )
    return {*asked, *(dependency.partition(":")[0] for dependency in wanted)}


def _floor(target: Version | None) -> Version:
    return target or Version(0)


def plan(migrations: Sequence[Migration], surveys: Mapping[str, Survey], request: Request) -> Plan:
    """Decide what is to be done, and refuse what must not be.

    `migrations` are a checked folder's, in any order. `surveys` has those of
    `required_databases`; one of a database that only dependencies name may be absent.

    Raises:
        Refused: with every reason.
        KeyError: the survey of a chosen database is absent.
    """
    target = wanted_version(request)
    asked = chosen(migrations, request)
    sides = [_Side(surveys[database], _sorted(migrations, database), target) for database in asked]
    problems = [problem for side in sides for problem in side.problems(request)]
    planned = {m.reference: m for side in sides for m in side.pending()}
    problems += _unmet(planned, surveys, asked)
    if not request.allow_major:
        leaps = [leap for side in sides if not _goes_on(side, sides) and (leap := side.leap())]
        problems += major_problems(leaps, migrations)
    if problems:
        raise Refused(problems)
    orders = {
        side.database: tuple(m.version for m in pending)
        for side in sides
        if (pending := side.pending())
    }
    return Plan(
        orders=orders,
        dependencies={name: _elsewhere(m) for name, m in planned.items()},
        generations={database: surveys[database].generation for database in orders},
        identities=identities(orders, surveys),
        checksum=checksum(orders, planned),
        warnings=[
            *_warnings(migrations, request, target),
            *(warning for side in sides for warning in side.warnings()),
        ],
    )


def _goes_on(side: _Side, sides: Sequence[_Side]) -> bool:
    """Whether its last run was to do the very same, and was cut off: that is decided already."""
    head = side.survey.head
    if head is None or head.direction is not Direction.FORWARD:
        return False
    planned = {each.database: each.of(head.run) for each in sides}
    orders = {name: [m.version for m in found] for name, found in planned.items() if found}
    files = {m.reference: m for found in planned.values() for m in found}
    return checksum(orders, files) == head.plan


# -- what was asked for --------------------------------------------------------------------


def wanted_version(request: Request) -> Version | None:
    """The highest version to apply; None for the latest."""
    if request.target == LATEST and request.direction is Direction.FORWARD:
        return None
    version = plain_version(request.target)
    if version is None:
        what = f"the target {request.target!r} is neither {LATEST!r} nor MAJOR.MINOR.PATCH"
        todo = "Write for instance --target 1.2.0."
        if request.direction is Direction.BACK:
            what = f"the version {request.target!r} that is to stay is not MAJOR.MINOR.PATCH"
            todo = "Write for instance 1.2.0; 0.0.0 undoes everything."
        raise Refused([Problem("", "", what, todo)])
    return version


def chosen(migrations: Sequence[Migration], request: Request) -> list[str]:
    """The databases to work on, those without migrations left out."""
    asked = NAMES if request.databases is None else request.databases
    problems = unknown_databases(asked, NAMES)
    present = {migration.database for migration in migrations}
    if request.direction is Direction.BACK:
        what = "has no migrations in the folder: its way back is not known"
        todo = "Put its files back as they were applied, or leave it out of --databases."
        known = (name for name in request.databases or () if name in NAMES)
        problems += [Problem(name, "", what, todo) for name in known if name not in present]
    if problems:
        raise Refused(problems)
    return [name for name in NAMES if name in asked and name in present]


def _within(migration: Migration, target: Version | None) -> bool:
    return target is None or migration.order <= target


def _warnings(
    migrations: Sequence[Migration], request: Request, target: Version | None
) -> Iterator[str]:
    asked = chosen(migrations, request)
    for name in sorted(set(request.databases or ()) - set(asked)):
        yield f"{name} has no migrations in the folder: there is nothing to do there"
    versions = {m.version for m in migrations if m.database in asked}
    if target and versions and str(target) not in versions:
        yield f"no migration has the version {target}; everything up to it is meant"


# -- one database --------------------------------------------------------------------------


@dataclass(frozen=True)
class _Side:
    """One chosen database: its migrations in order, and what its journal says of them."""

    survey: Survey
    migrations: list[Migration]
    target: Version | None

    @property
    def database(self) -> str:
        return self.survey.database

    @cached_property
    def records(self) -> dict[str, MigrationRecord]:
        return self.survey.by_version()

    def state(self, migration: Migration) -> MigrationState:
        record = self.records.get(migration.version)
        return record.state if record else MigrationState.PENDING

    def pending(self) -> list[Migration]:
        """What is to be applied, or gone on with, in order."""
        return [
            migration
            for migration in self.migrations
            if _within(migration, self.target) and self.state(migration) != MigrationState.APPLIED
        ]

    def of(self, run: str | None) -> list[Migration]:
        """What `run` has applied, and what is pending."""
        applied = {r.version for r in self._with_state(MigrationState.APPLIED) if r.run == run}
        pending = {migration.version for migration in self.pending()}
        return [m for m in self.migrations if m.version in applied | pending]

    def leap(self) -> Leap | None:
        """Where this run would reach a higher MAJOR version than what is applied."""
        highest = max(self._with_state(MigrationState.APPLIED, *BEGUN), key=order, default=None)
        if highest is None:
            return None  # a new database goes straight through
        above = (m for m in self.pending() if m.order.major > order(highest).major)
        first = next(above, None)
        return Leap(order(highest), first) if first else None

    @cached_property
    def versions(self) -> Versions:
        return Versions(self.migrations, self.survey.migrations)

    def problems(self, request: Request) -> Iterator[Problem]:
        for migration in self.migrations:
            record = self.records.get(migration.version)
            if record and record.checksum != migration.checksum and not self.versions.moved(record):
                yield from changed(migration, record)
            if record and half_undone(record, migration):
                yield from self._rolling_back(record)
            elif record and record.state in BEGUN and other_values(migration, record):
                yield self._other_values(migration, record)
        yield from self._moved()
        yield from self._missing()
        if not request.allow_out_of_order:
            yield from self._late()

    def _moved(self) -> Iterator[Problem]:
        for record in self.survey.migrations:
            if file := self.versions.moved(record):
                what = f"says the version {file.version}, and is {record.state} as {record.version}"
                todo = (
                    f"Put the version {record.version} back. If it is to run once more, give it "
                    "another name."
                )
                yield Problem(file.file, "version", what, todo)

    def _missing(self) -> Iterator[Problem]:
        for record in self.versions.without_file:
            if not self.versions.missing(record) or self.versions.moved(record):
                continue
            what = f"{record.version} ({record.name}) is {record.state}, but has no file"
            gone = advice.repair(self.database, record.version, "--mark-rolled-back")
            todo = (
                "Put its files back as they were submitted, so that it can be gone on with; or "
                f"where nothing of it is there: {gone}"
            )
            if record.state is MigrationState.APPLIED:
                what += ", while older and newer ones have theirs"
                todo = (
                    "Put its files back as they were applied. Old files may go, but then all up to "
                    "a version."
                )
            yield Problem(self.database, "", what, todo)

    def _rolling_back(self, record: MigrationRecord) -> Iterator[Problem]:
        what = f"{record.version} ({record.name}) is being rolled back, and is half undone"
        todo = f"Finish that first: {advice.rollback(self.database, self._below(record))}"
        yield Problem(self.database, "", what, todo)

    def _other_values(self, migration: Migration, record: MigrationRecord) -> Problem:
        what = f"{record.version} is {record.state}, and was begun with other values"
        todo = (
            f"Submit with those of run {record.run}, or begin anew: "
            f"{advice.rollback(self.database, self._below(record))}"
        )
        return Problem(migration.file, "", what, todo)

    def _below(self, record: MigrationRecord) -> str | None:
        """The version to go back to, so that `record` is undone and nothing below it."""
        below = [r for r in self._with_state(MigrationState.APPLIED) if order(r) < order(record)]
        return below[-1].version if below else None

    def _late(self) -> Iterator[Problem]:
        latest, moved = (
            self.versions.latest,
            [self.versions.moved(r) for r in self.records.values()],
        )
        for migration in self.pending() if latest else ():
            if latest and self.versions.late(migration) and migration not in moved:
                what = f"{migration.version} comes late: {latest.version} is {latest.state} already"
                todo = (
                    f"Give it a version (and a number) above {latest.version}, or submit with "
                    "--allow-out-of-order if it may run after it."
                )
                yield Problem(migration.file, "version", what, todo)

    def warnings(self) -> Iterator[str]:
        for record in self.versions.without_file:
            if self.versions.newer(record):
                name = f"{self.database}:{record.version} ({record.name})"
                yield f"{name} is applied, and newer than every file in the folder: it stays so"
        older = [r.version for r in self.versions.without_file if self.versions.older(r)]
        if older:
            count = several(len(older), "applied migration")
            yield f"{self.database}: {count} up to {older[-1]} have no files any more"
        if not self.target:
            return
        for record in self._with_state(MigrationState.APPLIED, *BEGUN):
            if order(record) > self.target:
                name = f"{self.database}:{record.version} ({record.name})"
                yield f"{name} is {record.state} and above the target {self.target}: it stays so"

    def _with_state(self, *states: MigrationState) -> list[MigrationRecord]:
        found = (record for record in self.survey.migrations if record.state in states)
        return sorted(found, key=order)


def half_undone(record: MigrationRecord, migration: Migration | None) -> bool:
    """Whether the only way from here is further back: its rollback file counts, once begun.

    Without the `migration` nobody knows which operations are those of a rollback file.
    """
    if record.state in (MigrationState.ROLLED_BACK, MigrationState.APPLIED):
        return False
    last = len(migration.operations) if migration else len(record.operations)
    return record.state is MigrationState.ROLLING_BACK or any(
        operation.state is OperationState.UNDOING
        or (operation.number > last and operation.state is not OperationState.PENDING)
        for operation in record.operations
    )


def other_values(migration: Migration, record: MigrationRecord) -> bool:
    """Whether its values stand for something else than when it was begun, as far as is known."""
    return bool(migration.values and record.values) and migration.values != record.values


def changed(migration: Migration, record: MigrationRecord) -> Iterator[Problem]:
    """Of one whose file is not what its record says: whether that may be."""
    then, now = record.checksum[:12], migration.checksum[:12]
    checksums = f"its checksum was {then} and is {now}"
    if record.state == MigrationState.APPLIED:
        what = f"{migration.version} is applied, and its file was changed since: {checksums}"
        todo = (
            "Put the file back as it was, and write the change as a new migration. Where the "
            f"change does not matter: {_accept(migration)}"
        )
        yield Problem(migration.file, "", what, todo)
    elif record.state in (*BEGUN, MigrationState.ROLLING_BACK):
        what = f"{migration.version} is {record.state}, and its file was changed since: {checksums}"
        todo = (
            "Operations of it are done. Put the file back as it was submitted, clear the cause in "
            "the database, and submit again: it goes on where it stopped. To go on with the file "
            f"as it is now: {_accept(migration)}"
        )
        yield Problem(migration.file, "", what, todo)


def _accept(migration: Migration) -> str:
    return advice.repair(migration.database, migration.version, "--accept-checksum")


def _sorted(migrations: Sequence[Migration], database: str) -> list[Migration]:
    mine = (migration for migration in migrations if migration.database == database)
    return sorted(mine, key=lambda migration: migration.order)


# -- between databases ---------------------------------------------------------------------


def _elsewhere(migration: Migration) -> tuple[Reference, ...]:
    own = f"{migration.database}:"
    return tuple(name for name in migration.dependencies if not name.startswith(own))


def _unmet(
    planned: Mapping[Reference, Migration],
    surveys: Mapping[str, Survey],
    chosen: Sequence[str],
) -> Iterator[Problem]:
    """Dependencies that are neither part of the plan nor applied."""
    for migration in planned.values():
        for wanted in migration.dependencies:
            database, _, version = wanted.partition(":")
            survey = surveys.get(database)
            record = survey.by_version().get(version) if survey else None
            state = record.state if record else MigrationState.PENDING
            if wanted in planned or state == MigrationState.APPLIED:
                continue
            known = f"is {state}" if survey else f"was not asked for in {database}"
            what = f"{migration.version} needs {wanted}, which {known} and is not part of this run"
            todo = f"Submit with --target {version} or higher"
            if database not in chosen:
                todo = f"Add {database} to --databases"
            yield Problem(migration.file, "dependencies", what, f"{todo}, or apply it first.")


def checksum(orders: Mapping[str, Sequence[str]], planned: Mapping[Reference, Migration]) -> str:
    """Of what a plan does: equal for two that do the same to the same migrations."""
    meaning = [
        [database, [[version, planned[reference(database, version)].stamp] for version in order]]
        for database, order in sorted(orders.items())
    ]
    return hashlib.sha256(json.dumps(meaning).encode()).hexdigest()
