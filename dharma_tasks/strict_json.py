"""JSON for files that people write: strict, and able to say in which line a path is.

A path is a tuple of keys and list indices; as text it reads `operations[2].options["a.b"]`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.migration import JSON

__all__ = ["Path", "line_of", "parse", "path_of", "place_of", "text_of", "unfit", "value_of"]

Path = tuple[str | int, ...]

MAX_DEPTH = 100
"""MongoDB stores no deeper document (manual, "MongoDB Limits and Thresholds")."""

_SHOWN = 20
"""So many flaws of a kind are named: to find the line of each goes through the whole text."""

_SPACE = re.compile(r"[ \t\n\r]*")
_STEP = re.compile(r'\[(\d+)\]|\[("(?:[^"\\]|\\.)*")\]|\.?([^.\[\]]+)')
_PLAIN_KEY = re.compile(r"[^.\[\]\s\ud800-\udfff]+")
_HALF = re.compile(r"[\ud800-\udfff]")
_decoder = json.JSONDecoder()


def parse(raw: bytes, depth: int = MAX_DEPTH) -> tuple[JSON, str]:
    """Read `raw` as one JSON object; return it together with the text it was read from.

    It may have `depth` levels at most.

    Python's own `json` takes duplicate keys (the last wins), NaN, and halves of surrogate
    pairs that no UTF-8 can hold: a migration with any of them is not what its author thinks.

    Raises:
        Refused: not UTF-8, not JSON, one of the above, or not an object; `file` is left empty.
    """
    text = _decode(raw)
    try:
        return _parsed(text, depth), text
    except RecursionError:
        raise Refused([_too_deep("", depth)]) from None


def value_of(text: str) -> Any:
    """Read any JSON value; what is no JSON stands for itself, as a string.

    Raises:
        Refused: it begins like JSON and is not, or is JSON that `parse` would refuse.
    """
    try:
        value, flaws = _read(text, MAX_DEPTH)
    except RecursionError:
        value, flaws = None, [_too_deep("", MAX_DEPTH)]
    except Refused:
        if text.lstrip()[:1] in ("{", "[", '"'):
            raise
        value, flaws = text, _flaws(text, text, MAX_DEPTH)
    if flaws:
        raise Refused(flaws)
    return value


def text_of(path: Path) -> str:
    """Write `path` as people read it."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f"[{json.dumps(step)}]"
    return text


def place_of(text: str, path: Path) -> str:
    """Name `path` with its line, for a message."""
    return ", ".join(part for part in (f"line {line_of(text, path)}", text_of(path)) if part)


def path_of(text: str) -> Path:
    """Read a path back; the inverse of `text_of`, lenient with what others wrote."""
    return tuple(
        int(index) if index else json.loads(quoted) if quoted else key
        for index, quoted, key in _STEP.findall(text)
    )


def line_of(text: str, path: Path) -> int:
    """Return the line (from 1) in which `path` is, as deep as it can be followed in `text`."""
    position = found = _skip(text, 0)
    for step in path:
        child = next((c for c in _children(text, position) if c[0] == step), None)
        if child is None:
            break
        _, found, position = child
    return _line_at(text, found)


def _line_at(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _parsed(text: str, depth: int) -> JSON:
    value, flaws = _read(text, depth)
    if not isinstance(value, dict):
        flaws.append(_flaw("line 1", "the file must hold one JSON object", "Begin it with '{'."))
    if flaws:
        raise Refused(flaws)
    content: JSON = value
    return content


def _read(text: str, depth: int) -> tuple[Any, list[Problem]]:
    """The value, and what Python has taken that it must not."""
    twice: list[bool] = []

    def noted(pairs: list[tuple[str, Any]]) -> JSON:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice.append(True)
        return made

    try:
        value = json.loads(text, object_pairs_hook=noted)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        todo = "Correct it there; JSON has no comments and no comma after the last item."
        raise Refused([_flaw(place, f"not valid JSON: {error.msg}", todo)]) from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise Refused([_flaw("", f"a number cannot be read: {error}", "Shorten it.")]) from None
    # The others first: what is too deep costs too much to be followed.
    flaws = _flaws(text, value, depth)
    return value, [*flaws, *(islice(_duplicates(text), _SHOWN) if twice and not flaws else ())]


def _flaws(text: str, value: Any, depth: int) -> list[Problem]:
    found = islice(unfit(value, depth), _SHOWN)
    return [_flaw(place_of(text, path), what, todo) for path, what, todo in found]


def _flaw(place: str, what: str, todo: str) -> Problem:
    return Problem("", place, what, todo)


def _decode(raw: bytes) -> str:
    if raw.startswith(b"\xef\xbb\xbf"):
        raise Refused([_flaw("line 1", "the file begins with a byte order mark", _NO_BOM)])
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        what = f"byte {raw[error.start]:#04x} is not UTF-8"
        raise Refused([_flaw(f"line {line}", what, "Save the file as UTF-8.")]) from None


_NO_BOM = "Save the file as UTF-8 without one (RFC 8259 forbids it)."


def _too_deep(place: str, depth: int) -> Problem:
    return _flaw(place, f"nested deeper than {depth} levels", "Make it flatter.")


def _skip(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _children(text: str, position: int) -> Iterator[tuple[str | int, int, int]]:
    """Yield step, where it begins and where its value begins, of the container at `position`."""
    opener = text[position : position + 1]
    if opener not in ("{", "["):
        return
    position = _skip(text, position + 1)
    index = 0
    while text[position] not in "}]":
        start, step = position, index
        if opener == "{":
            step, position = _decoder.raw_decode(text, position)
            position = _skip(text, _skip(text, position) + 1)
        yield step, start, position
        _, position = _decoder.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
        index += 1


def _duplicates(text: str) -> Iterator[Problem]:
    todo: list[tuple[Path, int]] = [((), _skip(text, 0))]
    while todo:
        path, position = todo.pop()
        first: dict[str | int, int] = {}
        for step, start, value in _children(text, position):
            if step in first:  # lines are counted only now: it takes the whole text each time
                line, before = _line_at(text, start), _line_at(text, first[step])
                what = f"the key {step!r} is there twice (first in line {before})"
                place = f"line {line}, {text_of((*path, step))}"
                yield _flaw(place, what, "Keep one of them.")
            first.setdefault(step, start)
            todo.append(((*path, step), value))


def unfit(value: Any, depth: int = MAX_DEPTH) -> Iterator[tuple[Path, str, str]]:
    """Find what is JSON to Python but must not go on: path, what is wrong, what to do."""
    todo: list[tuple[Path, Any]] = [((), value)]
    while todo:
        path, here = todo.pop()
        if len(path) > depth:
            deep = _too_deep("", depth)
            yield path[:3], deep.what, deep.todo
            return
        if isinstance(here, dict):
            todo += [((*path, key), below) for key, below in reversed(here.items())]
            here = "".join(here)
        elif isinstance(here, list):
            todo += [((*path, i), below) for i, below in reversed(list(enumerate(here)))]
        if isinstance(here, float) and not math.isfinite(here):
            yield path, "not a finite number; JSON has none", "Write a number, or null."
        if isinstance(here, str) and _HALF.search(here):
            yield path, "half of a surrogate pair, which is no character", "Write the character."
