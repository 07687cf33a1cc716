"""Where the versions of a folder and those of a journal differ: moved, missing and late ones.

Pure functions, of one database: the planner refuses what `status` marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dharma_tasks.migration import Migration, Version, order_of
from dharma_tasks.records import GONE, MigrationRecord, MigrationState

__all__ = ["BEGUN", "Versions", "order"]

BEGUN = (MigrationState.RUNNING, MigrationState.FAILED)


def order(record: MigrationRecord) -> Version:
    """What records of one database are sorted by."""
    return order_of(record.version)


@dataclass(frozen=True)
class Versions:
    """The migrations of one database, and what its journal says, in any order."""

    files: Sequence[Migration]
    records: Sequence[MigrationRecord]

    @cached_property
    def without_file(self) -> list[MigrationRecord]:
        """What is there, in whole or in part, and has no file any more."""
        known = {file.version for file in self.files}
        found = (record for record in self.records if record.state not in GONE)
        return sorted((record for record in found if record.version not in known), key=order)

    def missing(self, record: MigrationRecord) -> bool:
        """Whether one without a file should have one.

        History that was cut off, older than every file, is none the worse for it, and neither is
        what a newer release has applied.
        """
        return record.state is not MigrationState.APPLIED or not (
            self.older(record) or self.newer(record)
        )

    def older(self, record: MigrationRecord) -> bool:
        """Whether it comes before every file."""
        return all(order(record) < file.order for file in self.files)

    def newer(self, record: MigrationRecord) -> bool:
        """Whether it comes after every file."""
        return all(order(record) > file.order for file in self.files)

    def moved(self, record: MigrationRecord) -> Migration | None:
        """The file that is this record's, but for the version that it says now."""
        if record.state in GONE or record.version in self._unmoved:
            return None
        for file in self.files:
            if file.name == record.name and file.version not in self._unmoved:
                as_was = file.model_copy(update={"version": record.version}).with_checksum()
                if as_was.checksum == record.checksum:
                    return file
        return None

    @cached_property
    def _unmoved(self) -> set[str]:
        """The versions whose file is what the journal knows."""
        known = {(record.version, record.checksum) for record in self.records}
        return {file.version for file in self.files if (file.version, file.checksum) in known}

    @cached_property
    def _states(self) -> dict[str, MigrationState]:
        return {record.version: record.state for record in self.records}

    @cached_property
    def latest(self) -> MigrationRecord | None:
        """The highest one that is applied or begun: half of it is there."""
        there = (r for r in self.records if r.state in (MigrationState.APPLIED, *BEGUN))
        return max(there, key=order, default=None)

    def late(self, file: Migration) -> bool:
        """Whether it would be begun only after one that comes after it."""
        begun = self._states.get(file.version) not in (None, *GONE)
        return not begun and self.latest is not None and file.order < order(self.latest)
