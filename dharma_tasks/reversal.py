"""The way back: which applied migrations are undone, in which order, and which cannot be.

Pure functions, like the planner. Nothing is undone that something applied still stands on, and
nothing begins that would meet an operation that cannot be undone (Law 9).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.migration import Migration, Reference, Version, reference
from dharma_tasks.operations import catalogue
from dharma_tasks.planner import (
    Plan,
    Request,
    changed,
    checksum,
    chosen,
    half_undone,
    identities,
    other_values,
    wanted_version,
)
from dharma_tasks.records import GONE, MigrationRecord, MigrationState, OperationState, Survey
from dharma_tasks.run import Next
from dharma_tasks.versions import order

__all__ = ["irreversible", "plan_back"]

_BY_FILE = "A rollback file can undo the migration."
_NONE = Version(0)


def irreversible(migration: Migration, record: MigrationRecord | None) -> dict[int, Problem]:
    """The operations that cannot be undone, by number, each with why and what would help.

    `record` adds what they have found when they began: a destination that was not empty. What
    was carried out as one operation is not undone as another (see `dharma repair`).
    """
    operations = catalogue(migration.database)
    found: dict[int, Problem] = {}
    for number, operation in enumerate(migration.operations, start=1):
        problem = operations.parse(operation).irreversible()
        if problem is not None:
            found[number] = problem
    for known in record.operations if record else ():
        if known.number > len(migration.operations) or known.state is OperationState.PENDING:
            continue
        kind = migration.operation(known.number)["type"]
        if known.irreversible:
            found[known.number] = Problem("", "", known.irreversible, _BY_FILE)
        elif known.type != kind:
            what = f"it was carried out as {known.type}, and its file was changed since"
            found[known.number] = Problem("", "", what, _BY_FILE)
    return found


def plan_back(
    migrations: Sequence[Migration], surveys: Mapping[str, Survey], request: Request
) -> Plan:
    """Decide what is to be undone, newest first, and refuse what must not be.

    `surveys` has those of `required_databases`.

    Raises:
        Refused: with every reason.
        KeyError: the survey of a chosen database is absent.
    """
    target = wanted_version(request) or _NONE
    files = {migration.reference: migration for migration in migrations}
    databases = chosen(migrations, request)
    ways = [
        _Way(
            name,
            record,
            files.get(reference(name, record.version)),
            whole=request.accept_data_loss or record is not above[-1],
        )
        for name in databases
        if (above := _above(surveys[name], target))
        for record in above
    ]
    problems = [problem for way in ways for problem in way.problems(request)]
    problems += _needed(ways, migrations, surveys)
    if problems:
        raise Refused(problems)
    known = {way.reference: way.file for way in ways if way.file is not None}
    orders = {
        name: tuple(way.record.version for way in ways if way.database == name)
        for name in databases
        if any(way.database == name for way in ways)
    }
    return Plan(
        orders=orders,
        dependencies={way.reference: tuple(_dependents(way, known)) for way in ways},
        generations={name: surveys[name].generation for name in orders},
        identities=identities(orders, surveys),
        checksum=checksum(orders, known),
        first={way.reference: way.first.text for way in ways},
        passed_over={way.reference: tuple(way.passed_over) for way in ways if way.passed_over},
        warnings=[warning for way in ways for warning in way.warnings()],
    )


def _above(survey: Survey, target: Version) -> list[MigrationRecord]:
    """What is there in any part and above the target, newest first."""
    found = [
        record
        for record in survey.migrations
        if record.state not in GONE and order(record) > target
    ]
    return sorted(found, key=order, reverse=True)


@dataclass(frozen=True)
class _Way:
    """One migration that is to be undone. `file` is None where it is not in the folder."""

    database: str
    record: MigrationRecord
    file: Migration | None
    whole: bool
    """Whether nothing of it may stay: more is undone below it, or data loss is accepted."""

    @property
    def reference(self) -> Reference:
        return reference(self.database, self.record.version)

    @property
    def name(self) -> str:
        return f"{self.record.version} ({self.record.name})"

    @cached_property
    def by_file(self) -> bool:
        """Whether its rollback file is carried out: it undoes the whole, and nothing less."""
        if self.file is None or not self.file.rollback:
            return False
        begun = any(each.number > len(self.file.operations) for each in self.record.operations)
        return begun or self.record.state is MigrationState.APPLIED

    @property
    def first(self) -> Next:
        """Where it begins, or goes on."""
        if self.file and self.by_file:
            count = len(self.file.operations)
            numbers = range(count + 1, count + len(self.file.rollback) + 1)
            done = {n.number for n in self.record.operations if n.state is OperationState.DONE}
            # Where all are done, the last one's taking brings the migration to its end.
            number = next((n for n in numbers if n not in done), numbers[-1])
            return Next(self.database, self.record.version, number)
        begun = max((each.number for each in self.record.operations), default=1)
        return Next(self.database, self.record.version, max(begun, self.until), self.until)

    @cached_property
    def until(self) -> int:
        """Where it ends: one that is half undone may go on to what cannot be undone, and stay."""
        if self.whole or not (self.file and half_undone(self.record, self.file)):
            return 1
        undoing = {n.number for n in self.record.operations if n.state is OperationState.UNDOING}
        return max((n for n in self._final(self.file) if n not in undoing), default=0) + 1

    def _file_changed(self, file: Migration) -> bool:
        """Whether its rollback file is not the one that has begun."""
        count = len(file.operations)
        begun = [
            each
            for each in self.record.operations
            if each.number > count and each.state is not OperationState.PENDING
        ]
        types = [operation["type"] for operation in file.rollback]
        return [each.type for each in begun] != types[: len(begun)]

    def problems(self, request: Request) -> Iterator[Problem]:
        if self.file is None:
            what = f"{self.name} is {self.record.state}, but has no file: its way back is unknown"
            todo = "Put its files back as they were applied."
            yield Problem(self.database, "", what, todo)
            return
        if self.file.checksum != self.record.checksum:
            yield from changed(self.file, self.record)
        elif self._file_changed(self.file):
            what = f"the rollback file of {self.name} has begun, and was changed or removed since"
            todo = "Put its operations back, in their order; what failed of one may be corrected."
            yield Problem(self.file.file, "", what, todo)
        elif not request.accept_data_loss and self._other_values(self.file):
            what = f"{self.name} is {self.record.state} with other values than those given now"
            todo = (
                f"Give those of run {self.record.run} with --set, so that it is undone where it "
                "was done; with --accept-data-loss these are taken."
            )
            yield Problem(self.file.file, "", what, todo)
        elif not request.accept_data_loss:
            for number, problem in self.passed_over.items():
                kind = self.file.operation(number)["type"]
                what = f"{self.record.version} cannot be undone: operation {number}, {kind}: "
                why = problem.what.removeprefix(f"{kind} cannot be undone: ")
                help_ = self._help(self.file, problem).rstrip(".")
                todo = f"{help_}. With --accept-data-loss it is passed over."
                yield Problem(self.file.file, "", what + why, todo)

    def _other_values(self, file: Migration) -> bool:
        """A rollback file needs none but its own."""
        return not self.by_file and other_values(file, self.record)

    def _help(self, file: Migration, problem: Problem) -> str:
        if not file.rollback:
            return problem.todo
        return (
            f"Its rollback file undoes the whole migration, which is {self.record.state}: correct "
            "the cause and submit again first."
        )

    def warnings(self) -> Iterator[str]:
        """What --accept-data-loss passes over, and what can be undone in part only."""
        if self.until > 1:
            yield (
                f"{self.reference} is undone down to its operation {self.until}: what is before "
                "that cannot be undone, and stays"
            )
            return
        if self.file and self._other_values(self.file):
            yield f"{self.reference} is undone with other values than it was begun with"
        for number, problem in self.passed_over.items():
            yield f"{self.reference} operation {number} is left as it is: {problem.what}"

    @cached_property
    def passed_over(self) -> dict[int, Problem]:
        """What cannot be undone and yet is come to, which a person must accept."""
        if self.file is None or self.by_file or self.until > 1:
            return {}
        return self._final(self.file)

    def _final(self, file: Migration) -> dict[int, Problem]:
        """What has begun and cannot be undone."""
        begun = {each.number for each in self.record.operations}
        return {n: why for n, why in irreversible(file, self.record).items() if n in begun}


def _dependents(way: _Way, known: Mapping[Reference, Migration]) -> Iterator[Reference]:
    """What is undone before it in other databases."""
    for other in known.values():
        if other.database != way.database and way.reference in other.dependencies:
            yield other.reference


def _needed(
    ways: Sequence[_Way], migrations: Sequence[Migration], surveys: Mapping[str, Survey]
) -> Iterator[Problem]:
    """What stays, in whole or in part, and stands on something that is to be undone."""
    undone = {way.reference for way in ways if way.until == 1}
    for migration in migrations:
        survey = surveys.get(migration.database)
        record = survey.by_version().get(migration.version) if survey else None
        if record is None or record.state in GONE or migration.reference in undone:
            continue
        for needed in sorted(undone & {*migration.dependencies}):
            what = f"{needed} is to be undone, but {migration.reference} needs it and stays"
            todo = f"Add {migration.database} to --databases, or undo that one first."
            if any(way.reference == migration.reference for way in ways):
                todo = "A part of it cannot be undone: --accept-data-loss passes that over."
            yield Problem(migration.file, "dependencies", what, todo)
