"""Looking at indices before and after something is done to them."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

from elastic_transport import ApiResponse
from elasticsearch import Elasticsearch, NotFoundError

from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.migration import JSON
from dharma_tasks.work import Work

_FORBIDDEN = re.compile(r'[\\/*?"<>|\s,#:]|^[-_+]|^\.{1,2}$|^$')
_WARNING = re.compile(r'\d{3} \S+ "((?:[^"\\]|\\.)*)"')
_SHOWN = 20


@dataclass(frozen=True)
class Index:
    """One index as it is now. `uuid` tells it from any other that has or had its name."""

    name: str
    uuid: str
    mapping: JSON
    settings: JSON
    """Flat: `{"index.number_of_shards": "1"}`."""


def name_problems(place: str, name: str) -> list[Problem]:
    """What Elasticsearch would not take as the name of one index, or would take as several."""
    if name == name.lower() and not _FORBIDDEN.search(name):
        return []
    what = f"{name!r} cannot be the name of one index"
    todo = 'Use lower case, not beginning with - _ +, without spaces and \\ / * ? " < > | , # :'
    return [Problem("", place, what, todo)]


def find(client: Elasticsearch, name: str) -> Index | None:
    """Look an index up; None where nothing has that name.

    Raises:
        OperationFailed: the name is an alias.
    """
    try:
        answer = client.indices.get(index=name, flat_settings=True)
    except NotFoundError:
        return None
    if not answer.body:  # a pattern
        return None
    if name not in answer:
        what = f'"{name}" is not an index, but an alias of {", ".join(sorted(answer))}'
        raise OperationFailed(what, "Name the index itself")
    found = answer[name]
    settings = found["settings"]
    return Index(name, settings["index.uuid"], found["mappings"], settings)


def require(client: Elasticsearch, name: str) -> Index:
    """Look an index up that must be there.

    Raises:
        OperationFailed: it is missing, or an alias. The message lists what exists.
    """
    found = find(client, name)
    if found is None:
        raise OperationFailed(f'there is no index "{name}"', _suggest(client, name))
    return found


def unchanged(client: Elasticsearch, name: str, uuid: str) -> Index:
    """Look up an index that was there when the operation began.

    Raises:
        OperationFailed: it is gone, or another one has its name now.
    """
    found = find(client, name)
    if found is None or found.uuid != uuid:
        happened = "was deleted" if found is None else "was deleted and created again"
        what = f'index "{name}" {happened} by somebody else since this operation began'
        todo = "Find out by whom: this migration was begun on the former index and cannot go on"
        raise OperationFailed(what, todo)
    return found


def recorded(client: Elasticsearch, name: str, uuid: str | None) -> Index | None:
    """Look up an index that was recorded; None where it is gone, whoever has its name now."""
    try:
        found = find(client, name)
    except OperationFailed:
        return None  # an alias has its name
    return found if found is not None and found.uuid == uuid else None


def told(work: Work[Elasticsearch], answer: ApiResponse[Any]) -> None:
    """Log the warnings that the server sent with its answer."""
    for warning in _WARNING.findall(answer.meta.headers.get("warning") or ""):
        work.warn(warning)


def _suggest(client: Elasticsearch, name: str) -> str:
    # Not the server's own indices, whose names begin with a dot.
    known = client.indices.get_alias(index="*,-.*", expand_wildcards=["open", "closed"])
    names = {alias: index for index, each in known.items() for alias in each["aliases"]}
    return offered(name, {**names, **{index: index for index in known}})


def offered(name: str, names: dict[str, str]) -> str:
    """What may have been meant by `name`, and what there is: each of `names` stands for one."""
    close = difflib.get_close_matches(name, names, n=3)
    likely = dict.fromkeys(names[each] for each in close)
    meant = f"Did you mean {' or '.join(likely)}? " if likely else ""
    there = sorted(set(names.values()))
    more = f" and {len(there) - _SHOWN} more" if len(there) > _SHOWN else ""
    return f"{meant}There are: {', '.join(there[:_SHOWN]) or 'none'}{more}"
