"""What `{"$value": "NAME"}` in a migration stands for: `--set`, the settings, or its default.

It is resolved where the files are read: workers get plain operations (Law 7), and the checksum is
that of the file, the same in every environment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.explain import suggestion
from dharma_tasks.migration import JSON
from dharma_tasks.strict_json import Path, path_of, text_of, unfit, value_of

__all__ = ["NAME", "Resolved", "Value", "Values", "gathered", "resolve"]

NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_KEY = "$value"
_DEFAULT = "default"
_UNSET = object()


@dataclass(frozen=True)
class Value:
    """One value as it was used: where it comes from, and the files that it is in."""

    name: str
    value: Any
    source: str
    files: tuple[str, ...]

    def __str__(self) -> str:
        shown = json.dumps(self.value, ensure_ascii=False)
        return f"{self.name} = {shown} ({self.source}), in {', '.join(self.files)}"


@dataclass(frozen=True)
class Values:
    """What is known of values, by name.

    `given` comes first, `settings` (texts) second. Unless they are `required`, those that are
    in neither and have no default are left out, and all the rest is checked.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    required: bool = True

    def find(self, name: str, written: JSON) -> tuple[Any, str] | None:
        """The value, and where it comes from; `written` is what stands in the file.

        Raises:
            Refused: the setting cannot be read.
        """
        if name in self.given:
            return self.given[name], "--set"
        if name in self.settings:
            return value_of(self.settings[name]), _setting(name)
        return (written[_DEFAULT], _DEFAULT) if _DEFAULT in written else None


@dataclass
class Resolved:
    """A file's JSON with its values put in, as far as they are known.

    What stands for none is left out: `unset` says where, and `missing` names those that nobody
    has given. `problems` have no file.
    """

    content: JSON = field(default_factory=dict)
    used: dict[Path, Value] = field(default_factory=dict)
    unset: list[Path] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    @property
    def names(self) -> set[str]:
        """The values that are asked for."""
        return self.missing | {value.name for value in self.used.values()}

    def open(self, place: str) -> bool:
        """Whether a value that is not known lies at `place`, above or below: who knows, then."""
        path = path_of(place)
        return any(path[: len(gap)] == gap[: len(path)] for gap in self.unset)

    def origin(self, place: str) -> str:
        """Words to say behind a problem at `place`: which value it is about."""
        path = path_of(place)
        for at, value in self.used.items():
            if path[: len(at)] == at:
                return f" (the value of {value.name}: {value.source})"
        return ""


def resolve(content: JSON, file: str, values: Values, allowed: Callable[[Path], bool]) -> Resolved:
    """Put the values into `content`; only where they are `allowed` to stand."""
    resolver = _Resolver(file, values, allowed)
    found = resolver.inside(content, ())
    result = Resolved({}, resolver.used, resolver.unset, resolver.missing, resolver.problems)
    result.content = found if isinstance(found, dict) else {}
    if result.used:
        result.problems += [Problem("", text_of(p), *why) for p, *why in unfit(result.content)]
    return result


def gathered(used: Iterable[Value]) -> tuple[Value, ...]:
    """The same, each once, with all the files that it is in."""
    found: dict[tuple[str, str, str], Value] = {}
    for each in used:
        key = (each.name, json.dumps(each.value), each.source)
        files = (*found[key].files, *each.files) if key in found else each.files
        found[key] = Value(each.name, each.value, each.source, tuple(dict.fromkeys(files)))
    return tuple(found[key] for key in sorted(found))


def _setting(name: str) -> str:
    return f"DHARMA_VALUE_{name}"


class _Resolver:
    """Walks through one file's JSON."""

    def __init__(self, file: str, values: Values, allowed: Callable[[Path], bool]) -> None:
        self.used: dict[Path, Value] = {}
        self.unset: list[Path] = []
        self.missing: set[str] = set()
        self.problems: list[Problem] = []
        self._file = file
        self._values = values
        self._allowed = allowed

    def inside(self, here: Any, path: Path) -> Any:
        """What is `here`, with its values; a default is taken as it is written."""
        if isinstance(here, list):
            found = [(below, self.inside(below, (*path, i))) for i, below in enumerate(here)]
            return [below if value is _UNSET else value for below, value in found]
        if not isinstance(here, dict):
            return here
        if _KEY in here:
            value = self._value(here, path)
            if value is _UNSET:
                self.unset.append(path)
            return value
        pairs = ((key, self.inside(below, (*path, key))) for key, below in here.items())
        return {key: value for key, value in pairs if value is not _UNSET}

    def _value(self, written: JSON, path: Path) -> Any:
        if wrong := self._misplaced(written, path):
            return self._refuse(*wrong)
        name = written[_KEY]
        try:
            found = self._values.find(name, written)
        except Refused as refused:
            (problem, *_) = refused.problems
            return self._refuse(path, f"{_setting(name)}: {problem.what}", problem.todo)
        if found is not None:
            self.used[path] = Value(name, *found, (self._file,))
            return found[0]
        self.missing.add(name)
        if self._values.required:
            todo = f"Give --set {name}=…, set {_setting(name)}, or write a {_DEFAULT!r} beside it."
            self._refuse(path, f"{name} has no value", todo)
        return _UNSET

    def _misplaced(self, written: JSON, path: Path) -> tuple[Path, str, str] | None:
        """Where, what and what to do, if this cannot stand for a value here."""
        name = written[_KEY]
        if not self._allowed(path):
            todo = "It stands for a parameter of an operation, or for a part of one: write this out"
            return path, f"a {_KEY!r} cannot stand here", f"{todo}."
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            todo = "Names are of capitals, digits and '_', and begin with a capital: REPLICAS."
            return (*path, _KEY), f"{name!r} is no name of a value", todo
        if others := [key for key in written if key not in {_KEY, _DEFAULT}]:
            what = f"unknown key {others[0]!r} beside {_KEY!r}"
            return (*path, others[0]), what, suggestion(others[0], [_DEFAULT], "keys")
        return None

    def _refuse(self, path: Path, what: str, todo: str) -> Any:
        self.problems.append(Problem("", text_of(path), what, todo))
        return _UNSET
