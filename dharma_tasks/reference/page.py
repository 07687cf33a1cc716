"""`docs/reference.md`: every key and every parameter, in tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dharma_tasks.databases import NAMES
from dharma_tasks.keys import MigrationKeys, RollbackKeys, names
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue
from dharma_tasks.reference.schema import described

__all__ = ["page"]

_HEAD = """# Reference of the format

Every key of a migration file and every parameter of an operation, with what it may be. It is made
from the code that reads the files (`make reference`), as are the JSON Schemas with which
[editors complete and check](../migrations/README.md#editors) them. What the operations promise, and
how they are undone, is in [the guide](../migrations/README.md).

In place of a parameter, and of anything in it, there may be a
[value](../migrations/README.md#values-that-differ): `{"$value": "NAME"}`.
"""
_EVERY = """
## Every file

A rollback file has neither {missing}: they are its migration's.

"""
_TYPES = {
    "string": "text",
    "boolean": "true or false",
    "object": "object",
    "integer": "whole number",
    "number": "number",
}
_TABLE = "| | may be | default | |\n| --- | --- | --- | --- |\n"


def page() -> str:
    """The whole page."""
    return "".join(_parts())


def _parts() -> Iterator[str]:
    yield _HEAD
    only = sorted(f"`{name}`" for name in names(MigrationKeys) - names(RollbackKeys))
    yield _EVERY.format(missing=" nor ".join(only))
    yield _table(described(MigrationKeys))
    for database in NAMES:
        known = catalogue(database)
        yield f"\n## {database}\n"
        if known.described is not None:
            own: JSON = {"properties": known.described(described)}
            yield f"\nThe {known.companion} file beside it is what is done.\n\n{_table(own)}"
            continue
        for kind, model in known.operations.items():
            found = described(model)
            yield f"\n### {database} {kind}\n\n{found['description']}\n\n{_table(found)}"


def _table(schema: JSON) -> str:
    return _TABLE + "".join(_rows(schema, ""))


def _rows(schema: JSON, above: str) -> Iterator[str]:
    required = schema.get("required", ())
    for name, node in schema["properties"].items():
        default = "needed" if name in required else _default(node)
        cells = (f"`{above}{name}`", _kind(node), default, node["description"])
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n"
        for inner in [node, *node.get("anyOf", ())]:
            if any("description" in each for each in inner.get("properties", {}).values()):
                yield from _rows(inner, f"{above}{name}.")


def _default(node: JSON) -> str:
    found = node.get("default")
    if found is None or isinstance(found, dict):
        return ""
    return f"{found:,}" if type(found) is int else str(found).lower()


def _kind(node: JSON) -> str:
    """What a value may be, in words."""
    if "anyOf" in node:
        parts = [_kind(each) for each in node["anyOf"] if each != {"type": "null"}]
        return " or ".join(dict.fromkeys(parts))
    if "const" in node or "enum" in node:
        return ", ".join(f"`{each}`" for each in node.get("enum", [node.get("const")]))
    if node.get("type") == "array":
        return f"list of {_several(node.get('items', {}))}"
    return f"{_TYPES.get(node.get('type', ''), 'anything')}{_bounds(node)}"


def _several(items: Any) -> str:
    if isinstance(items, list) or items.get("type") == "array":
        return "pairs"
    return {"string": "texts", "object": "objects"}.get(items.get("type", ""), "anything")


def _bounds(node: JSON) -> str:
    least, most, above = (node.get(n) for n in ("minimum", "maximum", "exclusiveMinimum"))
    if least is not None and most is not None:
        return f", {least:,} to {most:,}"
    if least is not None:
        return f", {least:,} or more"
    if above is not None:
        return f" above {above:,}" + (f", up to {most:,}" if most is not None else "")
    return ""
