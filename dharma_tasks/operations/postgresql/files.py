"""From NNN_name.json and the .sql beside it to one operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ValidationError

from dharma_tasks.errors import Problem
from dharma_tasks.explain import explain, suggestion
from dharma_tasks.migration import JSON
from dharma_tasks.operations.postgresql.kinds import KINDS, SQL, SQL_BATCH, SQL_STATEMENTS

_PACE_KEYS = ("min", "max", "seconds")
"""Of `batch`, those that an operation has in a `batch` of its own."""
_BATCH_KEYS = ("table", "key", "size", "throttle", "parallel", *_PACE_KEYS)


def read(content: JSON, beside: bytes) -> tuple[list[JSON], list[Problem]]:
    """Read the .sql file beside the JSON: one operation, and what is wrong."""
    text, problems = _text(beside)
    transactional = content.get("transactional", True)
    batch = content.get("batch")
    if not isinstance(transactional, bool):
        problems.append(Problem("", "transactional", "must be true or false", "Correct it."))
    if "batch" in content:
        problems += _batch_problems(batch)
        if transactional is False:
            what = 'each range runs in a transaction, so "transactional": false does not fit'
            problems.append(Problem("", "transactional", what, "Remove one of the two."))
    if isinstance(batch, dict):
        return [{"type": SQL_BATCH, "sql": text, **_parameters(batch)}], problems
    kind = SQL if transactional else SQL_STATEMENTS
    return [{"type": kind, "sql": text}], problems


def described(schema: Callable[[type[BaseModel]], JSON]) -> dict[str, JSON]:
    """The JSON Schemas of `transactional` and `batch`, as `read` takes them."""
    batch = schema(KINDS[SQL_BATCH])
    properties: JSON = batch["properties"]
    pace: JSON = properties.pop("batch")["properties"]
    del properties["sql"]
    batch["properties"] = {name: (properties | pace)[name] for name in _BATCH_KEYS}
    batch["required"].remove("sql")
    batch["description"] = "The file's one statement runs over ranges of a key."
    transactional = {
        "description": "False where statements of the file refuse to run in a transaction.",
        "type": "boolean",
        "default": True,
    }
    return {"transactional": transactional, "batch": batch}


def _text(data: bytes) -> tuple[str, list[Problem]]:
    """The file's own text, line ends and all."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        what = f"not UTF-8 (byte 0x{data[error.start]:02x})"
        return _refused(data.count(b"\n", 0, error.start), what, "Save the file as UTF-8.")
    if text.startswith("\ufeff"):
        return _refused(0, "begins with a byte order mark", "Save the file as UTF-8 without one.")
    if "\x00" in text:
        what = "holds a NUL character, which PostgreSQL cannot take"
        return _refused(text.count("\n", 0, text.index("\x00")), what, "Remove it.")
    return text, []


def _refused(lines: int, what: str, todo: str) -> tuple[str, list[Problem]]:
    """No text; so many `lines` before the place are well."""
    return "", [Problem("", f"line {lines + 1}", what, todo)]


def _parameters(batch: JSON) -> JSON:
    """The operation's: how large its ranges may be is in a place of its own there."""
    pace = {name: value for name, value in batch.items() if name in _PACE_KEYS}
    other = {name: value for name, value in batch.items() if name not in _PACE_KEYS}
    return other | ({"batch": pace} if pace else {})


def _batch_problems(batch: Any) -> list[Problem]:
    if not isinstance(batch, dict):
        todo = 'Write {"table": "name", "key": "id"}.'
        return [Problem("", "batch", "must be an object", todo)]
    problems = []
    for name in batch:
        if name not in _BATCH_KEYS:
            todo = suggestion(name, _BATCH_KEYS, "keys")
            problems.append(Problem("", f"batch.{name}", f"unknown key {name!r}", todo))
    known = {name: value for name, value in batch.items() if name in _BATCH_KEYS}
    model = KINDS[SQL_BATCH]
    try:
        model.model_validate({"sql": "", **_parameters(known)})
    except ValidationError as error:
        for found in explain(error, model, _parameters(known)):
            name = found.place.removeprefix("batch.")
            problems.append(replace(found, place=f"batch.{name}" if name in known else "batch"))
    return problems
