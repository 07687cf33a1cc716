"""`_id`s of every BSON type that MongoDB takes there, no two of them equal for MongoDB."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from bson import Binary, Code, DatetimeMS, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp

EVERY_TYPE: list[Any] = [
    *(MinKey(), MaxKey(), None, True, False),
    *(float("nan"), float("-inf"), float("inf"), Decimal128("1.5"), Int64(2**60), 3, 4.5, -7),
    *("a", "", "zz", "$name", b"\x01\x02", Binary(b"\x01", 5)),
    *(uuid.UUID(int=1), uuid.UUID(int=2**127), datetime(2020, 1, 1, tzinfo=UTC)),
    *({"a": 1}, {"b": "x", "c": 1}, {}, {"a": "$x", "b.c": {"d": MaxKey()}}),
    *(ObjectId(b"first-object"), ObjectId(b"other-object"), Timestamp(1, 2), Code("x")),
    *range(100, 120),
]
"""At least one of each, in no order."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAKERS: list[Callable[[int], Any]] = [
    # Numbers of all types lie between one another.
    lambda n: n,
    Int64,
    lambda n: Int64(n * 2**32 + 1),
    lambda n: n + 0.5,
    lambda n: Decimal128(f"{n}.1"),
    lambda n: f"{n:x}",
    lambda n: "ü" * (n % 40) + str(n),
    lambda n: ObjectId(n.to_bytes(12, "big")),
    lambda n: ObjectId((n * 2**64).to_bytes(12, "big")),
    lambda n: uuid.UUID(int=n * 7919**8 % 2**128),
    lambda n: _EPOCH + timedelta(hours=n),
    lambda n: DatetimeMS(-(10**15) - n),  # before Python's years begin
    lambda n: Binary(n.to_bytes(3 + n % 3, "big"), n % 3),
    lambda n: Binary(n.to_bytes(4, "little"), 128),
    lambda n: Timestamp(n, 1),
    lambda n: Code(f"return {n}"),
    lambda n: {"tenant": n % 5, "number": n},
    lambda n: {"number": Int64(n), "a": {"b": str(n)}},
    lambda n: {"k": _MAKERS[n % 16](n)},
]


def mixed_ids(count: int, seed: int = 1) -> list[Any]:
    """Return so many, in an order of their own; the same ones for the same seed."""
    random = Random(seed)  # noqa: S311 - the same each time
    # From 1,000 up, for the few of `EVERY_TYPE` are small.
    numbers = random.sample(range(1_000, 10 * count + 1_000), count - len(EVERY_TYPE))
    ids = EVERY_TYPE + [_MAKERS[place % len(_MAKERS)](n) for place, n in enumerate(numbers)]
    random.shuffle(ids)
    return ids
