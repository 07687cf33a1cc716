"""How an index is cut into ranges for tasks that run at the same time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from dharma_tasks.operations.elasticsearch import ranges
from dharma_tasks.operations.elasticsearch.ranges import MOST, Progress, Range, cut

NUMBERS = 10 * MOST


@pytest.fixture(autouse=True)
def _a_document_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def estimate(_client: object, _index: str, query: Any, _shard: str | None) -> int:
        (within,) = query["bool"]["filter"]
        found = within["range"]["_seq_no"]
        return int(found["lte"] - found["gte"] + 1)

    monkeypatch.setattr(ranges, "estimate", estimate)


def every(at_once: int) -> list[Range]:
    """Cut all of it."""
    progress = Progress(marks={"uuid[0]": NUMBERS - 1}, end=NUMBERS - 1, source=NUMBERS)
    client: Any = None
    found = []
    while one := cut(client, "index", None, progress, at_once=at_once):
        found.append(one)
    return found


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_the_last_ranges_are_narrow(at_once: int) -> None:
    """So that whoever ends first does not wait long for the others; each number is in one range."""
    found = every(at_once)
    assert (found[0].low, found[-1].high) == (0, NUMBERS - 1)
    assert all(one.high + 1 == after.low for one, after in pairwise(found))
    widths = [one.high - one.low + 1 for one in found]
    assert widths[0] == MOST
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] <= MOST / 5
