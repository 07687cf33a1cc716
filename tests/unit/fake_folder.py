"""Small catalogues, and a migrations folder that is written file by file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from dharma_tasks.errors import Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Catalogue, Operation
from dharma_tasks.work import Step, Work


class _Idle(Operation[Any]):
    """An operation that is only ever checked."""

    @property
    def summary(self) -> str:
        return ""

    def step(self, work: Work[Any]) -> Step:
        raise NotImplementedError


class CreateIndex(_Idle):
    """One required name, one list, and a rule of its own."""

    kind: ClassVar[str] = "create_index"
    collection: str
    index: list[tuple[str, int]]
    options: dict[str, Any] = Field(default_factory=dict)

    def problems(self) -> list[Problem]:
        """An index has a key."""
        return [] if self.index else [Problem("", "index", "has no key", "Name a field.")]

    def warnings(self) -> list[Problem]:
        """A name is better given."""
        return [] if "name" in self.options else [Problem("", "options", "has no name", "")]


class Source(BaseModel):
    """A nested shape."""

    model_config = ConfigDict(extra="forbid")
    index: str
    query: dict[str, Any] = Field(default_factory=dict)


class Reindex(_Idle):
    """One parameter of two shapes."""

    kind: ClassVar[str] = "reindex"
    source: str | Source
    dest: str


class Sql(_Idle):
    """What a companion file holds."""

    kind: ClassVar[str] = "sql"
    sql: str
    alone: bool = False

    def problems(self) -> list[Problem]:
        """Name the lines of the file that say BEGIN."""
        lines = enumerate(self.sql.splitlines(), start=1)
        return [
            Problem("", f"line {number}", "no BEGIN here", "")
            for number, line in lines
            if line == "BEGIN;"
        ]


def _read_sql(content: JSON, beside: bytes) -> tuple[list[JSON], list[Problem]]:
    text = beside.decode()
    if not text:
        return [], [Problem("", "line 1", "it is empty", "Write some.")]
    options = {key: content[key] for key in ("alone",) if key in content}
    return [{"type": "sql", "sql": text, **options}], []


def _listed(content: JSON, beside: bytes) -> tuple[list[JSON], list[Problem]]:
    del beside
    return content["operations"], []


CATALOGUES = {
    "mongodb": Catalogue(
        "mongodb", {"create_index": CreateIndex}, frozenset({"operations"}), _listed, "dump it"
    ),
    "elasticsearch": Catalogue(
        "elasticsearch", {"reindex": Reindex}, frozenset({"operations"}), _listed, "dump it"
    ),
    "postgresql": Catalogue(
        "postgresql", {"sql": Sql}, frozenset({"alone"}), _read_sql, "dump it", ".sql"
    ),
}


class Migrations:
    """A migrations folder that is written file by file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def text(self, file: str, text: str) -> Path:
        """Write `file` with `text`."""
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    def write(self, file: str, version: str = "1.0.0", **keys: Any) -> Path:
        """Write a whole migration; `keys` replace its keys, and None takes one out."""
        database = file.partition("/")[0]
        content: JSON = {
            "version": version,
            "name": "a name",
            "database_type": database,
            "migration_type": "schema",
        }
        if database == "mongodb":
            index = {"type": "create_index", "collection": "users", "index": [["email", 1]]}
            content["operations"] = [{**index, "options": {"name": "by_email"}}]
        elif database == "elasticsearch":
            content["operations"] = [{"type": "reindex", "source": "a", "dest": "b"}]
        else:
            self.text(file.replace(".json", ".sql"), "SELECT 1;\n")
        content |= keys
        content = {key: value for key, value in content.items() if value is not None}
        return self.text(file, json.dumps(content, indent=1))
