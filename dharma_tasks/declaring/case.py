"""One migration as the folder and the journals have it, and what leads on from there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from dharma_tasks import advice
from dharma_tasks.advice import rollback
from dharma_tasks.declaring.proposal import state_of
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.migration import Migration, Reference, order_of, reference
from dharma_tasks.records import GONE, MigrationRecord, MigrationState, Survey

__all__ = ["Case"]


@dataclass(frozen=True)
class Case:
    """The migration `version` of `database`: its file, its record, and what is around it."""

    database: str
    version: str
    surveys: Mapping[str, Survey]
    migrations: Sequence[Migration]

    @property
    def reference(self) -> Reference:
        """Its name everywhere."""
        return reference(self.database, self.version)

    @property
    def survey(self) -> Survey:
        """What its own database says."""
        return self.surveys[self.database]

    @cached_property
    def record(self) -> MigrationRecord | None:
        """What the journal says of it."""
        return self.survey.by_version().get(self.version)

    @cached_property
    def file(self) -> Migration | None:
        """What the folder has of it."""
        return next((each for each in self.migrations if each.reference == self.reference), None)

    @property
    def state(self) -> MigrationState:
        """Its state; without a record it is pending."""
        return self.record.state if self.record else MigrationState.PENDING

    @property
    def changed(self) -> bool:
        """Whether its file is not the one that the journal knows."""
        return bool(self.record and self.file and self.record.checksum != self.file.checksum)

    # -- what is around it ---------------------------------------------------------------

    def dependents(self) -> Iterator[tuple[Migration, MigrationState]]:
        """What stands on it, in any database, and is there in any part."""
        for migration in self.migrations:
            state = state_of(self.surveys, migration.reference)
            if self.reference in migration.dependencies and state not in GONE:
                yield migration, state

    def above(self) -> list[str]:
        """The versions of its database that are above it and there in any part."""
        found = [each for each in self.survey.migrations if each.state not in GONE]
        return [each.version for each in found if order_of(each.version) > order_of(self.version)]

    def skipped(self) -> list[str]:
        """The versions of its database in the folder that are below it, and of which nothing is."""
        mine = [each for each in self.migrations if each.database == self.database]
        return [
            each.version
            for each in mine
            if each.order < order_of(self.version)
            and state_of(self.surveys, each.reference) in GONE
        ]

    def below(self) -> str | None:
        """The version to go back to so that this one is undone; None where that is all there is."""
        applied = [
            each.version
            for each in self.survey.migrations
            if each.state is MigrationState.APPLIED
            and order_of(each.version) < order_of(self.version)
        ]
        return max(applied, key=order_of, default=None)

    # -- what to do ----------------------------------------------------------------------

    def command(self, option: str) -> str:
        """The repair of this one."""
        return advice.repair(self.database, self.version, option)

    @property
    def rollback(self) -> str:
        """The command that undoes it, and what is above it."""
        return rollback(self.database, self.below())

    def refused(self, what: str, todo: str = "") -> Refused:
        """Say why not, and what fits its state."""
        file = self.file.file if self.file else ""
        return Refused([Problem(file, "", f"{self.reference} {what}", todo or self._todo())])

    def _todo(self) -> str:
        if self.file is None:
            gone = "" if self.state in GONE else self.command("--mark-rolled-back")
            todo = "Put its files back as they were submitted"
            return f"{todo}, or where nothing of it is there: {gone}" if gone else f"{todo}."
        match self.state:
            case MigrationState.PENDING:
                return "It has not begun: dharma submit runs it."
            case MigrationState.ROLLED_BACK:
                return "Correct the cause, or its file, and dharma submit begins it anew."
            case MigrationState.APPLIED if self.changed:
                return f"Its file was changed since: {self.command('--accept-checksum')}"
            case MigrationState.APPLIED:
                return f"To undo it: {self.rollback}"
        return f"Look at what is there of it, and choose: {self.command('--help')}"
