"""Comparing what a migration asks for with what an index is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

from elasticsearch import Elasticsearch

from dharma_tasks.errors import Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.indices import Index

Setting = str | list[str] | None
"""A value as the server shows it; None is the default."""
_TOP_LEVEL = frozenset({"properties", "dynamic_templates", "runtime"})


def mapping_problems(mapping: JSON) -> list[Problem]:
    """Find fields that stand beside `properties` instead of in it."""
    problems = []
    for key, value in mapping.items():
        if key == "mappings":
            todo = 'Take the word away: "mapping": {"properties": ...}'
            problems.append(Problem("", "mapping.mappings", "one level too many", todo))
        elif key not in _TOP_LEVEL and not key.startswith("_") and _is_field(value):
            what = f"the field {key!r} is not below properties"
            todo = f'Write "mapping": {{"properties": {{"{key}": ...}}}}'
            problems.append(Problem("", f"mapping.{key}", what, todo))
    return problems


def _is_field(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {"type", "properties"})


def leaves(settings: JSON, prefix: str = "") -> Iterator[tuple[str, Setting]]:
    """Settings in the one form that the server shows, of the many that it takes.

    `{"index": {"number_of_shards": 1}}`, `{"number_of_shards": 1}` and
    `{"index.number_of_shards": "1"}` are the same.
    """
    for key, value in settings.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from leaves(value, f"{name}.")
        else:
            name = name if name.startswith("index.") else f"index.{name}"
            yield name, None if value is None else _text(value)


def flat(settings: JSON) -> dict[str, Setting]:
    """The settings that have a value, by the names that the server shows."""
    return {name: value for name, value in leaves(settings) if value is not None}


def _text(value: Any) -> str | list[str]:
    if isinstance(value, list):
        return [str(_text(each)) for each in value]
    return str(value).lower() if isinstance(value, bool) else str(value)


def differences(
    client: Elasticsearch, mapping: JSON, settings: JSON, index: Index, *, exactly: bool
) -> list[str]:
    """List where an index differs from what is asked for, showing both.

    Settings that are not asked for do not count. Fields that are not asked for count only with
    `exactly`: an index that is in use may have got some by dynamic mapping.
    """
    asked = _normalised(client, mapping, settings)
    found = _compare(asked, index.mapping, "mapping", exactly=exactly)
    for name, value in flat(settings).items():
        found += _compare(value, index.settings.get(name), f"settings.{name}", exactly=True)
    return found


def _normalised(client: Elasticsearch, mapping: JSON, settings: JSON) -> JSON:
    """Let the server write the mapping in its own way, without defaults and dotted names.

    Simulating an index template parses the mapping as creating an index does; nothing is stored.
    The pattern matches no index, so that no other template is mentioned.
    """
    answer = client.indices.simulate_template(
        index_patterns=[f"dharma-{uuid4().hex}"],
        template={"mappings": mapping, "settings": settings},
    )
    found: JSON = answer["template"]["mappings"]
    return found


def _compare(asked: Any, there: Any, place: str, *, exactly: bool) -> list[str]:
    if isinstance(asked, dict) and isinstance(there, dict):
        names = asked.keys() | there.keys() if exactly else asked.keys()
        return [
            each
            for name in sorted(names)
            for each in _compare(
                asked.get(name), there.get(name), f"{place}.{name}", exactly=exactly
            )
        ]
    if asked == there:
        return []
    return [f"{place}: asked for {_shown(asked)}, there is {_shown(there)}"]


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)
