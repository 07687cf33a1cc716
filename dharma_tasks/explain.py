"""Say what is wrong with the input in a user's words: nearest names, pydantic's errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from dharma_tasks.errors import Problem
from dharma_tasks.strict_json import Path, text_of

__all__ = ["explain", "nearest", "suggestion", "unknown_databases"]


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known name that `word` is most probably meant to be, or None."""
    by_lower = {name.lower(): name for name in known}
    found = get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def suggestion(word: str, known: Iterable[str], kind: str) -> str:
    """Return a sentence: the nearest name, or where none is near every known one.

    `kind` names them in the plural: "operations", "keys".
    """
    names = sorted(known)
    found = nearest(word, names)
    if found:
        return f"Did you mean {found!r}?"
    return f"Known {kind}: {', '.join(names)}." if names else f"There are no {kind}."


def unknown_databases(named: Iterable[str], known: Sequence[str]) -> list[Problem]:
    """Return a problem for each name that is none of `known`."""
    return [
        Problem("", "", f"no such database: {name!r}", suggestion(name, known, "databases"))
        for name in named
        if name not in known
    ]


def explain(error: ValidationError, model: type[BaseModel], value: object) -> list[Problem]:
    """Turn pydantic's errors on `value` into problems; `file` is left empty.

    A place is the JSON path below `value`. Where a value may have one of several shapes,
    pydantic reports each of them: they become one problem, and complaints about the other
    shapes are left out when the value has plainly the shape of one of them.
    """
    found: dict[Path, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        found.setdefault(_path(detail, value), []).append(detail)
    problems = []
    for path, details in found.items():
        deeper = any(len(other) > len(path) and other[: len(path)] == path for other in found)
        if deeper and all(len(detail["loc"]) > len(path) for detail in details):
            continue
        problems.append(_problem(text_of(path), details, model))
    return problems


def _problem(place: str, details: list[ErrorDetails], model: type[BaseModel]) -> Problem:
    detail = details[0]
    name = str(detail["loc"][-1]) if detail["loc"] else ""
    if detail["type"] == "extra_forbidden":
        known = _keys(model, detail["loc"])
        return Problem("", place, f"unknown key {name!r}", suggestion(name, known, "keys"))
    if detail["type"] == "missing":
        return Problem("", place, f"{name!r} is missing", "Add it.")
    first, *others = dict.fromkeys(_text(detail) for detail in details)
    what = " or ".join([first, *(text.removeprefix("must be ") for text in others)])
    return Problem("", place, what, "Correct it.")


def _text(detail: ErrorDetails) -> str:
    text = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    text = re.sub(r"^\w+ should ", "must ", text).replace("a valid dictionary", "an object")
    text = text.replace("a valid list", "a list").replace("a valid tuple", "a list")
    return text.partition(" or instance of ")[0].rstrip(".")


def _path(detail: ErrorDetails, value: Any) -> Path:
    """Follow the `loc` in `value`; its steps that only name a shape (of a union) are left out."""
    path: list[int | str] = []
    for step in detail["loc"]:
        listed = range(len(value)) if isinstance(value, list) else ()
        if step in (value if isinstance(value, dict) else listed):
            value = value[step]
            path.append(step)
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else tuple(path)


def _keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> set[str]:
    """The keys that may stand beside the last step of `loc`."""
    models = [model]
    for step in loc[:-1]:
        named = [each for each in models if each.__name__ == step]
        fields = [f for each in models for key, f in _fields(each) if key == step]
        below = [found for field in fields for found in _models(field.annotation)]
        models = named or below or models
    return {key for each in models for key, _ in _fields(each)}


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield field.alias or name, field


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
