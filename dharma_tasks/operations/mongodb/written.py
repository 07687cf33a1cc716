"""Which fields an update writes to, and so which indexes have to follow it."""

from __future__ import annotations

from collections.abc import Iterator

from dharma_tasks.databases.mongodb.connection import Document

_FIELDS = ("$set", "$addFields", "$unset")
"""The stages that name the fields which they change; others may change any."""


def writes_to(update: Document | list[Document], fields: tuple[str, ...]) -> bool:
    """Whether an update (operators or a pipeline) may change one of `fields`, an index's."""
    indexed = [_path(each) for each in fields]
    return any(_overlap(_path(each), other) for each in _written(update) for other in indexed)


def _written(update: Document | list[Document]) -> Iterator[str]:
    """The paths that it names; an empty one stands for the whole document."""
    if isinstance(update, dict):
        for operator, named in update.items():
            yield from named
            yield from named.values() if operator == "$rename" else ()
        return
    for stage in update:
        for name, named in stage.items():
            listed = [named] if isinstance(named, str) else named
            whole = name not in _FIELDS or not isinstance(listed, dict | list)
            yield from [""] if whole else map(str, listed)


def _path(name: str) -> list[str]:
    """Without places in arrays (`a.0.b`, `a.$[x].b`) and what stands for everything (`a.$**`)."""
    return [each for each in name.split(".") if each and not each.isdigit() and each[0] != "$"]


def _overlap(one: list[str], other: list[str]) -> bool:
    return all(a == b for a, b in zip(one, other, strict=False))
