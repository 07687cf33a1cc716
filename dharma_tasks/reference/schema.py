"""A JSON Schema for the migration files of one database, made from the models that read them.

Draft 7, which every editor knows. It says what one file can say for itself; what lies between
files, or in the SQL, or in a name, is said by `dharma check`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from dharma_tasks.keys import MigrationKeys
from dharma_tasks.migration import JSON, MANNER
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Operation
from dharma_tasks.reference import docstrings
from dharma_tasks.values import NAME

__all__ = ["described", "schema", "text"]

_VALUE: JSON = {
    "description": "Put in when it is submitted: --set NAME=VALUE, DHARMA_VALUE_NAME, or this.",
    "type": "object",
    "properties": {
        "$value": {"type": "string", "pattern": f"^{NAME.pattern}$"},
        "default": {"description": "Where neither is given."},
    },
    "required": ["$value"],
    "additionalProperties": False,
}


def text(database: str) -> str:
    """The schema as a file."""
    return json.dumps(schema(database), indent=2, ensure_ascii=False) + "\n"


def schema(database: str) -> JSON:
    """The schema of `database`'s files, those of rollbacks too."""
    known = catalogue(database)
    found = described(MigrationKeys)
    properties: JSON = found["properties"]
    properties["database_type"] = {
        "description": properties["database_type"]["description"],
        "const": database,
    }
    definitions: JSON = {"value": _VALUE}
    required = [*found["required"]]
    if known.described is None:
        properties["operations"] = _list_of(known.operations.values())
        required.append("operations")
        definitions |= {kind: _operation(kind, model) for kind, model in known.operations.items()}
    else:
        own = known.described(described)
        properties |= {name: _opened_below(each) for name, each in own.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"A migration of {database}, or how to undo one",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "definitions": definitions,
    }


def described(model: type[BaseModel]) -> JSON:
    """The schema of one model, whole in itself, with what is said of each field.

    What must be there comes first, and how fast it goes last.
    """
    found: JSON = _plain(model.model_json_schema(schema_generator=_Generator), {})
    required = set(found.get("required", ()))
    order = sorted(found["properties"], key=lambda n: (n not in required, n in MANNER))
    found["properties"] = {name: found["properties"][name] for name in order}
    return found


class _Generator(GenerateJsonSchema):
    """Pydantic's own, with the sentences of docstrings."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """Complete what pydantic says of a model."""
        model: type[BaseModel] = schema["cls"]
        found = super().model_schema(schema)
        found["description"] = docstrings.of_class(model)
        for name, said in docstrings.of_fields(model).items():
            found["properties"][model.model_fields[name].alias or name]["description"] = said
        return found


def _plain(node: Any, definitions: Mapping[str, Any]) -> Any:
    """Without references and titles, and without defaults that say nothing."""
    if isinstance(node, list):
        return [_plain(each, definitions) for each in node]
    if not isinstance(node, dict):
        return node
    definitions = node.get("$defs", definitions)
    if "$ref" in node:
        meant = definitions[node["$ref"].rpartition("/")[2]]
        node = meant | {key: value for key, value in node.items() if key != "$ref"}
    named = {"properties", "patternProperties"}
    return {
        key: {name: _plain(below, definitions) for name, below in value.items()}
        if key in named
        else _plain(value, definitions)
        for key, value in node.items()
        if not _says_nothing(key, value)
    }


def _says_nothing(key: str, value: Any) -> bool:
    if key == "default":
        return value is None or (isinstance(value, dict | list | str) and not value)
    return key in {"$defs", "title"} or (key == "additionalProperties" and value is True)


def _list_of(models: Iterable[type[Operation[Any]]]) -> JSON:
    """The operations of a file: each as its own type says, so that what is wrong has one reason."""
    kinds = {model.kind: docstrings.of_class(model) for model in models}
    return {
        "description": "What is done, in this order; at least one.",
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"type": {"enum": [*kinds]}},
            "required": ["type"],
            "allOf": [
                {
                    "if": {"properties": {"type": {"const": kind}}, "required": ["type"]},
                    "then": {"$ref": f"#/definitions/{kind}"},
                }
                for kind in kinds
            ],
        },
    }


def _operation(kind: str, model: type[Operation[Any]]) -> JSON:
    found = described(model)
    found["properties"] = {"type": {"const": kind}} | {
        name: _open(each) for name, each in found["properties"].items()
    }
    return found


def _open(node: JSON) -> JSON:
    """Let `{"$value": …}` stand here, and everywhere below."""
    node = _opened_below(node)
    said = {key: node[key] for key in ("description", "default") if key in node}
    rest = {key: value for key, value in node.items() if key not in said}
    if not rest or rest == {"type": "object"}:
        return node
    one_of = rest["anyOf"] if [*rest] == ["anyOf"] else [rest]
    return said | {"anyOf": [*one_of, {"$ref": "#/definitions/value"}]}


def _opened_below(node: JSON) -> JSON:
    made = dict(node)
    if "properties" in node:
        made["properties"] = {name: _open(each) for name, each in node["properties"].items()}
    if "anyOf" in node:
        made["anyOf"] = [_opened_below(each) for each in node["anyOf"]]
    items = node.get("items")
    if isinstance(items, list):
        made["items"] = [_open(each) for each in items]
    elif items is not None:
        made["items"] = _open(items)
    return made
