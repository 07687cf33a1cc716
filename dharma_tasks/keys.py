"""The keys that every migration file has; `Catalogue.keys` are those of one database.

The sentence below each key is what `docs/reference.md` and the JSON Schemas say of it.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema

from dharma_tasks.migration import plain_version

__all__ = ["MigrationKeys", "RollbackKeys", "names", "valid_version"]

_NUMBER = r"(0|[1-9][0-9]*)"
_VERSION = rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}"


def valid_version(text: str) -> str:
    """Return `text`, which must be MAJOR.MINOR.PATCH and more than 0.0.0.

    Raises:
        ValueError: it is not.
    """
    if plain_version(text) is None:
        msg = f"{text!r} is not a version: write MAJOR.MINOR.PATCH, for instance '1.2.0'"
        raise ValueError(msg)
    if text == "0.0.0":
        msg = "'0.0.0' stands for nothing applied: begin with '0.0.1' or higher"
        raise ValueError(msg)
    return text


def _one_line(text: str) -> str:
    if not (text.strip() and text.isprintable()):
        msg = "must be one line of printable characters, for lists and logs"
        raise ValueError(msg)
    return text


_Version = Annotated[
    str,
    AfterValidator(valid_version),
    WithJsonSchema({"type": "string", "pattern": rf"^(?!0\.0\.0$){_VERSION}$"}),
]
_Name = Annotated[
    str, AfterValidator(_one_line), WithJsonSchema({"type": "string", "pattern": r"^.*\S.*$"})
]
_Dependency = Annotated[
    str,  # checked where the file's database is known
    WithJsonSchema(
        {"type": "string", "pattern": rf"^((mongodb|postgresql|elasticsearch):)?{_VERSION}$"}
    ),
]


class RollbackKeys(BaseModel):
    """The keys that every file has; a rollback's order and needs are its migration's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_file: str = Field(default="", alias="$schema")
    """Where editors find the JSON Schema of the file, from which they complete and check it."""
    version: _Version
    """`MAJOR.MINOR.PATCH`; one of a kind in its database, rising with the files' numbers."""
    name: _Name
    """For people: in logs, in `dharma status`, in Flower."""
    description: str = ""
    """Why. It may still change once the migration is applied."""
    database_type: Literal["mongodb", "postgresql", "elasticsearch"]
    """The database, as the folder is called."""
    migration_type: Literal["schema", "data"]
    """Whether it changes the shape of what is stored, or what is stored; for people."""


class MigrationKeys(RollbackKeys):
    """Those of a migration."""

    breaking: str = ""
    """What to know before a MAJOR version is applied. It may still change, too."""
    dependencies: list[_Dependency] = []
    """What must be applied before: `mongodb:1.3.0`, or `1.3.0` for one of the same database."""


@cache
def names(model: type[BaseModel]) -> frozenset[str]:
    """The keys of `model`, as they are written in files."""
    return frozenset(field.alias or name for name, field in model.model_fields.items())
