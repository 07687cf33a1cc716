"""Parameters as they stand in migration files: Extended JSON, names, keys of an index.

https://www.mongodb.com/docs/manual/reference/mongodb-extended-json/
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

import bson
from bson import json_util
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.errors import BSONError
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.errors import Problem
from dharma_tasks.explain import suggestion
from dharma_tasks.strict_json import Path, text_of

__all__ = [
    "INDEX_KEYS",
    "CollectionName",
    "Field",
    "IndexKeys",
    "Value",
    "ValueDocument",
    "ValueList",
    "decode",
    "dumps",
    "index_keys",
    "known_options",
    "loads",
    "unknown_options",
]

_EXTENDED = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=UuidRepresentation.STANDARD,
    tz_aware=True,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
_CODEC: CodecOptions[Document] = CodecOptions(uuid_representation=UuidRepresentation.STANDARD)


def dumps(value: Any) -> str:
    """Canonical Extended JSON: for journalling what MongoDB takes only as a value of its own.

    The names of fields in it may begin with `$` or hold dots.
    """
    return json_util.dumps(value, json_options=_EXTENDED)


def loads(text: str) -> Any:
    """What `dumps` wrote."""
    return json_util.loads(text, json_options=_EXTENDED)


def decode(value: Any) -> Any:
    """Turn Extended JSON, canonical or relaxed, into what the driver sends.

    Raises:
        ValueError: it is not Extended JSON, or MongoDB cannot hold it; says where.
    """
    found = _decode(value, ())
    try:
        bson.encode({"value": found}, codec_options=_CODEC)
    except (BSONError, OverflowError) as error:
        msg = f"MongoDB cannot hold this: {error}"
        raise ValueError(msg) from None
    return found


def _decode(value: Any, path: Path) -> Any:
    if isinstance(value, list):
        return [_decode(each, (*path, index)) for index, each in enumerate(value)]
    if not isinstance(value, dict):
        return value
    inner = {key: _decode(each, (*path, key)) for key, each in value.items()}
    try:
        return json_util.object_hook(inner, _EXTENDED)
    except (BSONError, TypeError, ValueError, KeyError, ArithmeticError) as error:
        where = f"at {text_of(path)}: " if path else ""
        msg = f"{where}this is not Extended JSON: {error}"
        raise ValueError(msg) from None


def _document(value: Any) -> Document:
    if not isinstance(value, dict):
        msg = "must be an object that is a document, not a single value"
        raise ValueError(msg)  # noqa: TRY004 - pydantic wants ValueError
    return value


def _documents(value: Any) -> list[Document]:
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        msg = "must be a list of objects"
        raise ValueError(msg)
    return value


Value = Annotated[Any, BeforeValidator(decode)]
"""Any BSON value."""

ValueDocument = Annotated[
    Any,
    BeforeValidator(decode),
    AfterValidator(_document),
    WithJsonSchema({"type": "object"}),
]
"""A BSON document."""

ValueList = Annotated[
    Any,
    BeforeValidator(decode),
    AfterValidator(_documents),
    WithJsonSchema({"type": "array", "items": {"type": "object"}}),
]
"""A list of BSON documents."""


def _collection_name(name: str) -> str:
    if not name or "$" in name or "\0" in name or name.startswith("system."):
        msg = "must be a collection's name: not empty, without '$', not beginning with 'system.'"
        raise ValueError(msg)
    if name.startswith(".") or name.endswith("."):
        msg = "must be a collection's name, which neither begins nor ends with a dot"
        raise ValueError(msg)
    return name


def _field(name: str) -> str:
    parts = name.split(".")
    if "\0" in name or any(not part or part.startswith("$") for part in parts):
        msg = "must be a field's name, or a path like address.city; no part may begin with '$'"
        raise ValueError(msg)
    if parts[0] == "_id":
        msg = "must not be _id: MongoDB never changes it"
        raise ValueError(msg)
    return name


def index_keys(value: Any) -> list[tuple[str, Any]]:
    """Check and return the keys of an index.

    Raises:
        ValueError: they are none.
    """
    shaped = isinstance(value, list) and value and all(_is_key(each) for each in value)
    if not shaped:
        msg = 'must be a list of keys like [["field", 1], ["other", -1]]'
        raise ValueError(msg)
    if len({name for name, _ in value}) < len(value):
        msg = "must not name a field twice"
        raise ValueError(msg)
    return [(name, how) for name, how in value]


_KINDS = ("text", "2d", "2dsphere", "hashed", "columnstore")


def _is_key(pair: Any) -> bool:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not isinstance(pair[0], str):  # noqa: PLR2004
        return False
    name, how = pair
    number = isinstance(how, int | float) and not isinstance(how, bool) and how != 0
    return bool(name) and (number or how in _KINDS)


INDEX_KEYS: Document = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "array",
        "minItems": 2,
        "maxItems": 2,
        "items": [{"type": "string"}, {"anyOf": [{"type": "number"}, {"enum": [*_KINDS]}]}],
    },
}
"""The JSON Schema of them."""

CollectionName = Annotated[
    str,
    AfterValidator(_collection_name),
    WithJsonSchema({"type": "string", "pattern": r"^(?!system\.)[^.$]([^$]*[^.$])?$"}),
]
Field = Annotated[
    str,
    AfterValidator(_field),
    WithJsonSchema({"type": "string", "pattern": r"^(?!_id(\.|$))[^.$][^.]*(\.[^.$][^.]*)*$"}),
]
IndexKeys = Annotated[Any, BeforeValidator(index_keys), WithJsonSchema(INDEX_KEYS)]
"""The keys of an index, in their order: `[("field", 1), ("other", "text")]`."""


def known_options(known: Collection[str]) -> WithJsonSchema:
    """The JSON Schema of options, of which there are no others."""
    options: Document = {name: {} for name in known}
    return WithJsonSchema({"type": "object", "properties": options, "additionalProperties": False})


def unknown_options(options: Document, known: Collection[str]) -> list[Problem]:
    """One problem for each of `options` that MongoDB does not know."""
    return [
        Problem(
            "",
            text_of(("options", name)),
            f"unknown option {name!r}",
            suggestion(name, known, "options"),
        )
        for name in options
        if name not in known
    ]
