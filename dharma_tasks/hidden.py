"""What `{"$secret": "NAME"}` and `{"$encrypted": "…"}` in a migration stand for.

They stay as they are written from the files to the run's record. A worker puts the values in when
it carries the operation out (`reveal`), and keeps them nowhere: `Hidden` takes them out of what
is said about the operation, and knows only by a slow digest whether a secret is still the same.
(An operation keeps a digest of the whole documents that it wrote: docs/security.md.)
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from dharma_tasks.errors import Problem
from dharma_tasks.migration import JSON
from dharma_tasks.strict_json import Path, text_of
from dharma_tasks.values import NAME

__all__ = ["ENCRYPTED", "NOTHING", "SECRET", "Hidden", "misplaced", "reveal"]

SECRET = "$secret"  # noqa: S105 - the key that names one
ENCRYPTED = "$encrypted"
_TOKEN = re.compile(r"gAAAA[A-Za-z0-9_-]+={0,2}")
"""As `dharma encrypt` writes it; in Base64, four characters for three bytes (RFC 4648)."""
_FILE = "_FILE"

_SHORTEST = 4
"""Characters of a value that is taken out of texts: a shorter one may be a part of any word."""
_BEGINNING = 16
"""So many characters give a value away where a server has cut it off."""


@dataclass(frozen=True)
class Hidden:
    """The values that were put into one operation: `secrets` by name, and `texts` of all."""

    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    texts: frozenset[str] = field(default=frozenset(), repr=False)
    unfit: str | None = None
    """The parameter into which one of them does not fit, where there is one."""
    missing: str | None = None
    """What this worker has not got, on a way back that may need nothing of it."""

    def __bool__(self) -> bool:
        return bool(self.texts or self.secrets)

    def scrub(self, text: str) -> str:
        """The text without the values, also where they are escaped, or cut off at their end."""
        writings = {each for value in self.texts for each in _writings(value)}
        for each in sorted(writings, key=len, reverse=True):
            text = _without(text, each)
        return text

    def marks(self) -> dict[str, str]:
        """By name, what a journal may keep to know the secrets again: see `other`."""
        return {name: _mark(value) for name, value in self.secrets.items()}

    def other(self, marks: Mapping[str, str]) -> list[str]:
        """The names of those that are not what they were when `marks` were made."""
        return [
            name
            for name, value in self.secrets.items()
            if name in marks and not _is_marked(value, marks[name])
        ]


NOTHING = Hidden()
"""That of an operation into which nothing is put."""


def reveal(
    operation: JSON, find: Callable[[str], str], decrypt: Callable[[str], Any]
) -> tuple[JSON, Hidden]:
    """The operation with what is hidden in it, and what that is.

    `find` gives a secret by its name, `decrypt` what an encrypted text holds; both may raise.
    """
    named: dict[str, str] = {}
    texts: set[str] = set()

    def inside(here: Any) -> Any:
        if isinstance(here, list):
            return [inside(each) for each in here]
        if not isinstance(here, dict):
            return here
        if SECRET in here:
            value: Any = find(here[SECRET])
            named[here[SECRET]] = value
        elif ENCRYPTED in here:
            value = decrypt(here[ENCRYPTED])
        else:
            return {key: inside(each) for key, each in here.items()}
        texts.update(_texts(value))
        return value

    return inside(operation), Hidden(named, frozenset(texts))


def misplaced(content: Any, why: Callable[[Path], str | None]) -> Iterator[tuple[Path, Problem]]:
    """What is wrong with what stands for something hidden, each with its place.

    `why` says of a place why nothing hidden may stand there; None where it may.
    """
    for path, written in _written(content, ()):
        key = SECRET if SECRET in written else ENCRYPTED
        if reason := why(path):
            yield path, Problem("", text_of(path), f"a {key!r} cannot stand here", reason)
        elif others := [each for each in written if each != key]:
            what = f"unknown key {others[0]!r} beside {key!r}"
            yield path, Problem("", text_of((*path, others[0])), what, "Remove it.")
        elif key == SECRET and not _is_name(written[key]):
            todo = "Names are of capitals, digits and '_', and do not end with '_FILE': API_TOKEN."
            what = f"{written[key]!r} is no name of a secret"
            yield path, Problem("", text_of((*path, key)), what, todo)
        elif key == ENCRYPTED and not _is_token(written[key]):
            todo = "Make it with `dharma encrypt`, and put it in as it is printed."
            what = "this is not an encrypted value"
            yield path, Problem("", text_of((*path, key)), what, todo)


def _written(here: Any, path: Path) -> Iterator[tuple[Path, JSON]]:
    if isinstance(here, list):
        for index, each in enumerate(here):
            yield from _written(each, (*path, index))
    elif isinstance(here, dict) and (SECRET in here or ENCRYPTED in here):
        yield path, here
    elif isinstance(here, dict):
        for key, each in here.items():
            yield from _written(each, (*path, key))


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and bool(NAME.fullmatch(name)) and not name.endswith(_FILE)


def _is_token(text: Any) -> bool:
    return isinstance(text, str) and len(text) % 4 == 0 and bool(_TOKEN.fullmatch(text))


# -- taking values out of texts ------------------------------------------------------------


def _texts(value: Any) -> Iterator[str]:
    """All that could be met in a message."""
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _texts(each)
    elif value is not None and not isinstance(value, bool) and len(str(value)) >= _SHORTEST:
        yield str(value)


def _writings(value: str) -> set[str]:
    """As it may stand in a message: as it is, in JSON, as Python shows it."""
    dumped = (json.dumps(value, ensure_ascii=ascii_)[1:-1] for ascii_ in (True, False))
    return {value, *dumped, repr(value)[1:-1]}


def _without(text: str, value: str) -> str:
    beginning = value[:_BEGINNING]
    at = text.find(beginning)
    while at >= 0:
        end = at + len(beginning)
        while end - at < len(value) and text[end : end + 1] == value[end - at]:
            end += 1
        text = f"{text[:at]}***{text[end:]}"
        at = text.find(beginning, at + 3)
    return text


# -- knowing a secret again ----------------------------------------------------------------


def _mark(value: str) -> str:
    salt = secrets.token_bytes(16)
    return f"{salt.hex()}:{_digest(value, salt)}"


def _is_marked(value: str, mark: str) -> bool:
    salt, _, digest = mark.partition(":")
    return secrets.compare_digest(_digest(value, bytes.fromhex(salt)), digest)


def _digest(value: str, salt: bytes) -> str:
    """Slow and with salt: who reads the journal cannot try many values."""
    return hashlib.scrypt(value.encode(), salt=salt, n=2**14, r=8, p=1, dklen=32).hex()
