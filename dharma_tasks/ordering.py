"""Whether a migration builds its indexes after its bulk work.

An index that is there has to be kept up to date with every document or row that is written, which
costs far more than to build it over all of them in the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from dharma_tasks.errors import Problem
from dharma_tasks.operations.base import Filling, Index, Operation

__all__ = ["RULE", "built_too_early"]

RULE = "index-before-bulk-work"
"""How this is left out: `dharma check --exclude`."""

_TODO = "Build it after that; where it has to be there before, in a migration of its own."


def built_too_early(
    operations: Iterable[tuple[str, Operation[Any]]],
) -> Iterator[tuple[str, Problem]]:
    """Each index that `operations` of one migration build before bulk work that it slows down.

    They come with their places in the file, and so does what is said of each.
    """
    steps = [(place, each) for place, operation in operations for each in operation.order()]
    for number, (place, index) in enumerate(steps):
        if not isinstance(index, Index):
            continue
        slowed = [
            f"{each.name} ({where})" if where else each.name
            for where, each in steps[number + 1 :]
            if isinstance(each, Filling) and each.of == index.of and each.slowed(index)
        ]
        if slowed:
            more = f" and {len(slowed) - 1} more" if len(slowed) > 1 else ""
            what = f"the index {index.name} is built before {slowed[0]}{more}, which it slows down"
            yield place, Problem("", index.place, f"{what} ({RULE})", _TODO)
