"""The keys that every migration file has; `Catalogue.keys` are those of one database."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from dharma_tasks.migration import plain_version

__all__ = ["MigrationKeys", "RollbackKeys", "valid_version"]


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


class RollbackKeys(BaseModel):
    """The keys that every file has; a rollback's order and needs are its migration's."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Annotated[str, AfterValidator(valid_version)]
    """`MAJOR.MINOR.PATCH`; one of a kind in its database, rising with the files' numbers."""
    name: Annotated[str, AfterValidator(_one_line)]
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
    dependencies: list[str] = []
    """What must be applied before: `mongodb:1.3.0`, or `1.3.0` for one of the same database."""
