"""`dharma baseline`: databases that are there already are taken over up to a version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dharma_tasks.declaring.proposal import (
    Change,
    Proposal,
    named_version,
    state_of,
    types_of,
    unmet,
)
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.journal import Amendment
from dharma_tasks.migration import Migration, Version
from dharma_tasks.planner import Request, chosen, required_databases
from dharma_tasks.records import MigrationState, Survey
from dharma_tasks.versions import order

__all__ = ["Baseline"]

_OPEN = (MigrationState.RUNNING, MigrationState.FAILED, MigrationState.ROLLING_BACK)


@dataclass(frozen=True)
class Baseline:
    """Every migration up to `version` counts as applied. `names` None: all databases."""

    version: str
    names: tuple[str, ...] | None

    @property
    def question(self) -> str:
        """What is asked before anything is written."""
        return "Take these over as applied? Nothing of them is run, and nothing is compared."

    @property
    def _request(self) -> Request:
        return Request(target=str(named_version(self.version)), databases=self.names)

    def databases(self, migrations: Sequence[Migration]) -> list[str]:
        """Those that may be written to."""
        return chosen(migrations, self._request)

    def surveyed(self, migrations: Sequence[Migration]) -> set[str]:
        """Those that may be written to, and those that they stand on."""
        return required_databases(migrations, self._request)

    def decide(self, migrations: Sequence[Migration], surveys: Mapping[str, Survey]) -> Proposal:
        """Take over what is not applied, unless something there contradicts it."""
        version = named_version(self.version)
        names = self.databases(migrations)
        below = [m for m in migrations if m.database in names and m.order <= version]
        problems = [p for name in names for p in _in_the_way(surveys[name], below, version)]
        new = [m for m in below if state_of(surveys, m.reference) is not MigrationState.APPLIED]
        way_out = (
            "Take that one over too (a higher VERSION, or its database in --databases), or "
            "apply it first."
        )
        problems += unmet(new, surveys, way_out)
        if not below:
            what = f"the folder has no migration up to {version} for {', '.join(names) or 'any'}"
            problems.append(Problem("", "", what, "Name a version that is there."))
        if problems:
            raise Refused(problems)
        changes = {
            name: tuple(_change(m, surveys) for m in new if m.database == name) for name in names
        }
        return Proposal(
            event="baseline",
            reason=f"taken over by dharma baseline {version}, not carried out",
            changes={name: found for name, found in changes.items() if found},
            heads={name: surveys[name].head for name in names},
            warnings=tuple(self._warnings(names, below)),
            todo="dharma submit runs what is above it.",
        )

    def _warnings(self, names: Sequence[str], below: Sequence[Migration]) -> Iterator[str]:
        for name in sorted({*names, *(self.names or ())}):
            if not any(migration.database == name for migration in below):
                yield f"{name} has no migration up to {self.version}: nothing is taken over there"
        if self.version not in {migration.version for migration in below}:
            yield f"no migration has the version {self.version}; everything up to it is meant"


def _in_the_way(survey: Survey, below: Sequence[Migration], version: Version) -> Iterator[Problem]:
    """What is half there, or was changed since: a person has to look at each."""
    files = {m.version: m for m in below if m.database == survey.database}
    for record in survey.migrations:
        file = files.get(record.version)
        command = f"dharma repair {survey.database} {record.version}"
        if record.state in _OPEN and order(record) <= version:
            what = f"{record.version} ({record.name}) is {record.state}"
            todo = f"Repair it first: {command} --mark-applied, or --help for the other ways."
            yield Problem(file.file if file else survey.database, "", what, todo)
        elif record.state is MigrationState.APPLIED and file and record.checksum != file.checksum:
            what = f"{record.version} is applied, and its file was changed since"
            todo = (
                f"Put the file back as it was, or accept it as it is: {command} --accept-checksum"
            )
            yield Problem(file.file, "", what, todo)


def _change(migration: Migration, surveys: Mapping[str, Survey]) -> Change:
    amendment = Amendment(
        version=migration.version,
        name=migration.name,
        checksum=migration.checksum,
        types=types_of(migration),
        state=MigrationState.APPLIED,
    )
    return Change(amendment, state_of(surveys, migration.reference))
