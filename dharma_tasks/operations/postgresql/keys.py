"""The key by whose ranges `sql_batch` walks through a table: what it is, and where a range ends.

It has one column or several; those of several are compared as PostgreSQL compares rows. What is
known of it is journalled as JSON: a value for each column, in a list where there are several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql as composing

from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.pace import LARGEST

_TYPES = (
    *("smallint", "integer", "bigint", "numeric", "uuid", "date"),
    *("text", "character varying", "character"),
    *("timestamp without time zone", "timestamp with time zone"),
)

_COLUMNS = """
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), c.reltuples::bigint,
    a.attname, pg_catalog.quote_ident(a.attname), a.attnum, a.attcollation::bigint,
    b.oid::bigint, pg_catalog.format_type(b.oid, NULL), b.typname, a.attnotnull
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
WHERE c.oid = pg_catalog.to_regclass(%(table)s)
ORDER BY a.attnum
"""

# A row is compared column by column: an index with DESC in between is of no help.
_INDEXED = """
SELECT coalesce(bool_or(i.indkey[0:%(count)s - 1] = %(columns)s::int2[]
        AND i.indcollation[0:%(count)s - 1] = %(collations)s::oid[]
        AND (%(count)s = 1 OR i.indoption[0:%(count)s - 1]
            IN (array_fill(0::int2, ARRAY[%(count)s]), array_fill(3::int2, ARRAY[%(count)s])))
    ), false),
    coalesce(bool_or(i.indisunique
        AND i.indkey[0:i.indnkeyatts - 1]::int2[] <@ %(columns)s::int2[]), false)
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
JOIN pg_catalog.pg_am m ON m.oid = x.relam
WHERE i.indrelid = pg_catalog.to_regclass(%(table)s)
    AND i.indisvalid AND i.indpred IS NULL AND m.amname = 'btree'
"""

_NULLS = "SELECT count(*) FROM {table} WHERE NOT {there}"

_LAST = "SELECT {values} FROM {table} WHERE {there} ORDER BY {downwards} LIMIT 1"

_FATTEST = """
SELECT {values}, count(*) FROM {table} WHERE {there} GROUP BY {columns}
HAVING count(*) > %(most)s ORDER BY count(*) DESC LIMIT 1
"""

_RANGE = """
WITH keys AS MATERIALIZED (
    SELECT {columns} FROM {table} WHERE {row} <= {last} AND {after}
    ORDER BY {columns} LIMIT %(size)s
)
SELECT (SELECT {values} FROM keys ORDER BY {columns} LIMIT 1),
    (SELECT {values} FROM keys ORDER BY {downwards} LIMIT 1),
    (SELECT count(*) FROM keys)
"""

_COUNT = "SELECT count(*) FROM {table} WHERE {there}"

_NTH = """
SELECT {values} FROM {table} WHERE {row} < {last} AND {after}
ORDER BY {columns} OFFSET %(size)s - 1 LIMIT 1
"""

_WITHIN = "SELECT count(*) FROM {table} WHERE {row} >= {start} AND {row} <= {end}"

_FEW = 100_000
_SMALL = "SELECT count(*) FROM (SELECT 1 FROM {table} LIMIT %(few)s) AS few"

_TOO_MANY = 1_000_000
"""Rows under one key, which are one transaction whatever the size of a range."""


@dataclass(frozen=True)
class Range:
    """Keys that exist, both included, and about how many rows they are on."""

    start: list[str]
    end: list[str]
    rows: int


def find(handle: Session, table: str, names: Sequence[str]) -> JSON:
    """Look the key up: what is to be journalled of it, but its `last`.

    Raises:
        OperationFailed: there is no such key, or it cannot be walked.
    """
    rows = handle.query(_COLUMNS, table=table)
    if not rows:
        todo = 'Correct "batch" in the JSON; write schema.table where it is needed'
        raise OperationFailed(f"there is no table {table}", todo)
    there = {row[2]: row[3:] for row in rows}
    columns = [_column(table, name, there) for name in names]
    quoted, numbers, collations, oids, _, types, not_null = zip(*columns, strict=True)
    ((indexed, unique),) = handle.query(
        _INDEXED, table=table, count=len(names), columns=[*numbers], collations=[*collations]
    )
    if not indexed:
        what = f"{table}.{shown(names)} has no btree index that begins with it"
        todo = "Each range would read the whole table: make one in a migration before this"
        raise OperationFailed(what, todo)
    return {
        "table": rows[0][0],
        "key": _few([*quoted]),
        "oid": _few([*oids]),
        # The type itself: `character` is char(1).
        "type": _few([f"pg_catalog.{each}" for each in types]),
        "not_null": all(not_null),
        "estimated": rows[0][1],
        "unique": unique,
    }


def _column(table: str, name: str, there: dict[str, tuple[Any, ...]]) -> tuple[Any, ...]:
    if name not in there:
        what = f"{table} has no column {name}; it has {', '.join(there)}"
        raise OperationFailed(what, 'Correct "batch" in the JSON')
    found = there[name]
    if (kind := found[4]) not in _TYPES:
        what = f"{table}.{name} is of type {kind}, which cannot be walked"
        raise OperationFailed(what, f"Name a column of one of: {', '.join(_TYPES)}")
    return found


def shown(names: Sequence[str]) -> str:
    """A column, or several as SQL writes them."""
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def nulls(handle: Session, walked: JSON) -> int:
    """How many rows have no key, which no range holds."""
    return 0 if walked["not_null"] else int(handle.query(_composed(_NULLS, walked))[0][0])


def last(handle: Session, walked: JSON) -> Any:
    """The largest key; None in an empty table."""
    rows = handle.query(_composed(_LAST, walked))
    return _few(rows[0][0]) if rows else None


def refuse_skew(handle: Session, walked: JSON) -> str | None:
    """Where many rows have the same key: say which, and how many.

    Raises:
        OperationFailed: there are so many that they cannot be one transaction.
    """
    if walked["unique"]:
        return None
    fattest = handle.query(_composed(_FATTEST, walked), most=LARGEST)
    if not fattest:
        return None
    values, rows = fattest[0]
    what = (
        f"{rows} rows of {walked['table']} have the same {shown(_many(walked['key']))}, "
        f"{shown(values)}: a range ends behind them, so they are one transaction"
    )
    if rows < _TOO_MANY:
        return what
    todo = 'Walk by more columns, with an index on them: "key": ["org", "id"]'
    raise OperationFailed(what, todo)


def total(handle: Session, walked: JSON) -> int | None:
    """The server's estimate; a table that was never analysed is counted if it is small."""
    if walked["estimated"] > 0:
        return int(walked["estimated"])
    counted = int(handle.query(_composed(_SMALL, walked), few=_FEW)[0][0])
    return counted if counted < _FEW else None


def count(handle: Session, walked: JSON) -> int:
    """How many rows have a key."""
    return int(handle.query(_composed(_COUNT, walked))[0][0])


def ends(handle: Session, walked: JSON, cuts: Sequence[int]) -> list[Any]:
    """The keys at which a table is cut after so many rows each, the same one only once."""
    found: list[Any] = []
    after, before = None, 0
    for cut in cuts:
        rows = _after(handle, _NTH, walked, after, cut - before)
        if not rows:
            break
        after, before = _few(rows[0][0]), cut
        found.append(after)
    return found


def _after(handle: Session, text: str, walked: JSON, after: Any, size: int) -> list[Any]:
    """What a query finds that looks at `size` rows above the key `after` (None: at all)."""
    values = _parameters("last", walked["last"]) | _parameters("after", after)
    above = "{row} > {after}" if after is not None else "true"
    return handle.query(_composed(text.replace("{after}", above), walked), size=size, **values)


def next_range(handle: Session, walked: JSON, after: Any, size: int) -> tuple[Range | None, bool]:
    """The next about `size` rows, if there are any; and whether they are the last ones."""
    if walked["last"] is None:
        return None, True
    start, end, count = _after(handle, _RANGE, walked, after, size)[0]
    if not count:
        return None, True
    rows = count
    if count == size and not walked.get("unique"):
        values = _parameters("start", start) | _parameters("end", end)
        rows = handle.query(_composed(_WITHIN, walked), **values)[0][0]
    return Range(start, end, rows), count < size or _few(end) == walked["last"]


def oids(walked: JSON) -> list[int]:
    """The types of a key's values."""
    return [int(each) for each in _many(walked["oid"])]


def cursor(reached: Range) -> Any:
    """What the next range begins after."""
    return _few(reached.end)


def _few(values: list[Any]) -> Any:
    """A key of one column stands for itself in the journal."""
    return values[0] if len(values) == 1 else values


def _many(values: Any) -> list[Any]:
    return values if isinstance(values, list) else [values]


def _parameters(name: str, values: Any) -> JSON:
    return {f"{name}{n}": each for n, each in enumerate(_many(values))}


def _composed(template: str, walked: JSON) -> str:
    """Put the names in; they come quoted from the server."""
    columns, types = _many(walked["key"]), _many(walked["type"])

    def row(parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else f"ROW({', '.join(parts)})"

    pieces = {
        name: row([f"%({name}{n})s::{kind}" for n, kind in enumerate(types)])
        for name in ("last", "after", "start", "end")
    }
    # to_json writes times in ISO 8601 whatever DateStyle says, and all else as ::text does.
    texts = [f"pg_catalog.to_json({each}) #>> '{{}}'" for each in columns]
    pieces |= {
        "table": walked["table"],
        "columns": ", ".join(columns),
        "downwards": ", ".join(f"{each} DESC" for each in columns),
        "row": row(columns),
        "there": f"({' AND '.join(f'{each} IS NOT NULL' for each in columns)})",
        "values": f"pg_catalog.json_build_array({', '.join(texts)})",
    }
    return (
        composing.SQL(template)
        .format(**{name: composing.SQL(piece) for name, piece in pieces.items()})
        .as_string()
    )
