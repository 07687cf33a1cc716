"""A declaration before anybody has said yes to it: what becomes of which migration, and why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.journal import Amendment, Declaration
from dharma_tasks.migration import Migration, Reference, Version, plain_version, reference
from dharma_tasks.records import GONE, Head, MigrationRecord, MigrationState, OperationState, Survey

__all__ = [
    "Change",
    "Proposal",
    "Wish",
    "begun",
    "differing",
    "listed",
    "named_version",
    "state_of",
    "types_of",
    "unmet",
]


@dataclass(frozen=True)
class Change:
    """What becomes of one migration; `notes` say for people what that means."""

    amendment: Amendment
    now: MigrationState
    notes: tuple[str, ...] = ()

    @property
    def then(self) -> MigrationState:
        """The state that it has after it."""
        return self.amendment.state or self.now


@dataclass(frozen=True)
class Proposal:
    """Everything that would be declared at once, by database; nothing where all of it is so.

    `event` and `reason` are those of the `Declaration`; `todo` is what to do after it.
    """

    event: str
    reason: str
    changes: Mapping[str, tuple[Change, ...]]
    heads: Mapping[str, Head | None]
    warnings: tuple[str, ...] = ()
    todo: str = ""

    def declaration(self, database: str, *, run: str, by: str) -> Declaration:
        """What is written to the journal of `database`."""
        amendments = tuple(change.amendment for change in self.changes[database])
        return Declaration(run, by, self.event, self.reason, amendments)


class Wish(Protocol):
    """What a command asks for: how it is decided."""

    @property
    def question(self) -> str:
        """What is asked before anything is written."""

    def databases(self, migrations: Sequence[Migration]) -> list[str]:
        """Those that may be written to."""

    def surveyed(self, migrations: Sequence[Migration]) -> set[str]:
        """Those whose surveys `decide` needs.

        Raises:
            Refused: it asks for what cannot be.
        """

    def decide(self, migrations: Sequence[Migration], surveys: Mapping[str, Survey]) -> Proposal:
        """Decide, from a checked folder and what the journals say.

        Raises:
            Refused: with every reason.
        """


def named_version(text: str) -> Version:
    """Read the version that a person has named.

    Raises:
        Refused: it is none.
    """
    version = plain_version(text)
    if version is None:
        what = f"{text!r} is not a version: MAJOR.MINOR.PATCH"
        raise Refused([Problem("", "", what, "Write for instance 1.2.0.")])
    return version


def state_of(surveys: Mapping[str, Survey], ref: Reference) -> MigrationState:
    """The state of a migration; of a database that was not asked nothing is known to be there."""
    database, _, version = ref.partition(":")
    record = surveys[database].by_version().get(version) if database in surveys else None
    return record.state if record else MigrationState.PENDING


def types_of(migration: Migration) -> tuple[str, ...]:
    """The types of its operations, in order."""
    return tuple(operation["type"] for operation in migration.operations)


def begun(record: MigrationRecord | None) -> dict[int, str]:
    """The operations of which something may be there: number and type.

    The records of a migration that was rolled back tell of what was there.
    """
    found = record.operations if record and record.state not in GONE else []
    return {each.number: each.type for each in found if each.state is not OperationState.PENDING}


def differing(record: MigrationRecord, migration: Migration) -> dict[int, str]:
    """Where the operations that have begun are not those of the file, for people, by number."""
    was, now = begun(record), dict(enumerate(types_of(migration), start=1))
    return {
        number: f"operation {number} was {was.get(number, 'not there')}, and is "
        f"{now.get(number, 'not there')} in the file"
        for number in sorted({*was, *now})
        if was.get(number) != now.get(number)
    }


def listed(operations: Iterable[tuple[int, str]]) -> str:
    """Operations for people: `1 create_index, 2 reindex`."""
    return ", ".join(f"{number} {kind}" for number, kind in operations)


def unmet(
    migrations: Iterable[Migration], surveys: Mapping[str, Survey], way_out: str
) -> Iterator[Problem]:
    """What they stand on and is neither applied nor one of them."""
    declared = {migration.reference: migration for migration in migrations}
    for migration in declared.values():
        for needed in migration.dependencies:
            state = state_of(surveys, needed)
            if needed in declared or state is MigrationState.APPLIED:
                continue
            own = reference(migration.database, migration.version)
            what = f"{own} needs {needed}, which is {state}"
            yield Problem(migration.file, "dependencies", what, way_out)
