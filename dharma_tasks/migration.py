"""What a migration is: the same shape from the loader to the worker that carries it out.

A migration travels as JSON in the run's record, because workers never read migration files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, NewType

import semver
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

__all__ = [
    "JSON",
    "MANNER",
    "Key",
    "Migration",
    "Reference",
    "Version",
    "VersionText",
    "order_of",
    "plain_version",
    "reference",
]

JSON = dict[str, Any]

Reference = NewType("Reference", str)
"""`database:version`, for instance `mongodb:1.2.0`: names one migration everywhere."""


def reference(database: str, version: str) -> Reference:
    """Name the migration `version` of `database`."""
    return Reference(f"{database}:{version}")


class Version(NamedTuple):
    """MAJOR.MINOR.PATCH, in its order (see semver.org); a tuple, since many are compared."""

    major: int
    minor: int = 0
    patch: int = 0

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"


@lru_cache(maxsize=2**16)
def order_of(version: str) -> Version:
    """What versions of one database are sorted by: each is asked for many times.

    Raises:
        ValueError: it is not MAJOR.MINOR.PATCH; pre-release and build parts are not taken.
    """
    found = semver.Version.parse(version)
    if found.prerelease or found.build:
        msg = f"{version!r} is not MAJOR.MINOR.PATCH"
        raise ValueError(msg)
    return Version(found.major, found.minor, found.patch)


def plain_version(text: str) -> Version | None:
    """As `order_of`; None where it is no such version."""
    try:
        return order_of(text)
    except ValueError:
        return None


def _plain(text: str) -> str:
    order_of(text)
    return text


VersionText = Annotated[str, AfterValidator(_plain)]
"""MAJOR.MINOR.PATCH, as `order_of` takes it."""


MANNER = ("batch", "throttle", "parallel", "check_disk")
"""Parameters that say how an operation goes, and not what it does: how fast
(`operations/paced.py`), and whether the disk is looked at before (`operations/disk_space.py`)."""


class Key(BaseModel):
    """Names one operation of one migration, or one `range` of it; both count from 1."""

    model_config = ConfigDict(frozen=True)

    database: str
    version: str
    number: int
    range: int | None = None

    def __str__(self) -> str:
        operation = f"{self.database}:{self.version}#{self.number}"
        return operation if self.range is None else f"{operation}/{self.range}"

    def of_range(self, number: int) -> Key:
        """Name one range of this operation."""
        return self.model_copy(update={"range": number})


class Migration(BaseModel):
    """One checked migration.

    `operations` holds each operation as JSON, with its `type`; a database's own folder below
    `dharma_tasks/operations/` knows what the rest means. `dependencies` are whole references
    and name the migrations of *any* database that must be applied before. `rollback` holds the
    operations of its rollback file, if it has one.
    """

    model_config = ConfigDict(frozen=True)  # what a newer release adds is no matter (Law 7)

    database: str
    version: VersionText
    name: str
    description: str = ""
    breaking: str = ""
    """What a person should know before a MAJOR version is applied."""
    migration_type: Literal["schema", "data"]
    dependencies: tuple[Reference, ...] = ()
    operations: tuple[JSON, ...] = Field(min_length=1)
    rollback: tuple[JSON, ...] = ()
    file: str
    checksum: str = ""
    written: tuple[JSON, ...] = ()
    """The operations as they stand in the file, where values are put in; empty elsewhere."""
    values: str = ""
    """Of what its values (`{"$value": …}`) stand for in this run; empty where it has none."""

    @property
    def reference(self) -> Reference:
        """The name of this migration in dependencies, in the run's record and in messages."""
        return reference(self.database, self.version)

    @property
    def order(self) -> Version:
        """What migrations of one database are sorted by."""
        return order_of(self.version)

    @property
    def stamp(self) -> str:
        """What a journal keeps to know it again: `checksum`, or `checksum+values`."""
        return "+".join(filter(None, (self.checksum, self.values)))

    def operation(self, number: int) -> JSON:
        """The operation `number`; those of the rollback file are numbered on from the last one."""
        return (*self.operations, *self.rollback)[number - 1]

    def file_of(self, number: int) -> str:
        """The file in which the operation `number` stands."""
        if number <= len(self.operations):
            return self.file
        return f"{self.file.removesuffix('.json')}_rollback.json"

    def with_checksum(self) -> Migration:
        """Return a copy that carries the checksum of its meaning.

        White space, the order of the file's top-level keys, the description, the breaking note,
        how its operations go, and the rollback file do not count;
        the order of keys inside an operation does, because MongoDB compares embedded
        documents with their order.
        """
        meaning = json.dumps(
            [
                self.database,
                self.version,
                self.name,
                self.migration_type,
                sorted(self.dependencies),
                _meaning(self.written or self.operations),
            ],
            ensure_ascii=False,
            separators=(",", ":"),
        )
        digest = hashlib.sha256(meaning.encode()).hexdigest()
        return self.model_copy(update={"checksum": digest})

    def resolved(self, operations: Sequence[JSON]) -> Migration:
        """Return a copy with these operations, in which values are put in, and its checksum."""
        meaning = _meaning(operations)
        given = hashlib.sha256(json.dumps(meaning).encode()).hexdigest()[:16]
        values = given if meaning != _meaning(self.operations) else ""
        changes = {"operations": tuple(operations), "written": self.operations}
        return self.model_copy(update={**changes, "values": values})


def _meaning(operations: Sequence[JSON]) -> list[JSON]:
    """What the operations do, in whatever manner."""
    return [{k: v for k, v in each.items() if k not in MANNER} for each in operations]
