"""The journal's SQL. Names are always qualified: files set `search_path` (FAULTS 14).

Every write is one statement, so that it is whole or not at all, costs one round trip, and
its parts see the same moment. `%(fence)s` and the like are the driver's parameters.
"""

from __future__ import annotations

from psycopg import sql

TABLES = """
CREATE TABLE IF NOT EXISTS {head} (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    identity text NOT NULL,
    schema_version integer NOT NULL,
    run text,
    generation bigint NOT NULL DEFAULT 0,
    direction text NOT NULL DEFAULT 'forward',
    plan text
);
CREATE TABLE IF NOT EXISTS {migrations} (
    version text PRIMARY KEY,
    name text NOT NULL,
    state text NOT NULL,
    checksum text NOT NULL,
    count integer NOT NULL,
    run text NOT NULL,
    by text NOT NULL,
    started timestamptz NOT NULL,
    finished timestamptz,
    seconds double precision,
    error text
);
CREATE TABLE IF NOT EXISTS {operations} (
    version text,
    number integer,
    type text NOT NULL,
    state text NOT NULL,
    fence bigint NOT NULL,
    cursor json,
    undo json,
    done bigint NOT NULL DEFAULT 0,
    total bigint,
    attempts integer NOT NULL DEFAULT 0,
    error text,
    worker text,
    owner json,
    former json,
    updated timestamptz NOT NULL,
    PRIMARY KEY (version, number)
);
CREATE TABLE IF NOT EXISTS {history} (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    event text NOT NULL,
    run text NOT NULL,
    by text NOT NULL,
    version text,
    number integer,
    fence bigint,
    detail text
)
"""
"""`owner` is who has the operation now, NULL after its end and after an orderly stop; `former`
is who had it before the present owner. `worker` is only shown. A later `attempts` counts the
takings that ended without a word, and the present one, since the cursor last moved."""

EXISTS = "SELECT to_regclass({head_name}) IS NOT NULL"

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended({head_name}, 0))"
"""CREATE TABLE IF NOT EXISTS fails when two sessions do it at once."""

FIRST_HEAD = """
INSERT INTO {head} (identity, schema_version) VALUES (%(identity)s, %(schema)s)
ON CONFLICT DO NOTHING
"""

HEAD = "SELECT identity, schema_version, run, generation, direction, plan FROM {head}"

HEAD_LOCKED = "SELECT run, generation FROM {head} FOR UPDATE"

OPEN = """
WITH raised AS (
    UPDATE {operations} SET fence = fence + 1 WHERE state <> 'done'
), history AS (
    INSERT INTO {history} (event, run, by, detail)
    VALUES ('run', %(run)s, %(by)s, %(detail)s)
)
UPDATE {head} SET run = %(run)s, generation = generation + 1, direction = %(direction)s,
    plan = %(plan)s
RETURNING generation
"""

OWNERS = "SELECT owner FROM {operations} WHERE state = 'running' AND owner IS NOT NULL"

MIGRATIONS = """
SELECT version, name, state, checksum, run, by, started, finished, seconds, error
FROM {migrations}
"""

OPERATIONS = """
SELECT o.version, o.number, o.type, o.state, o.done, o.total, o.attempts, o.error, o.worker,
    o.updated
FROM {operations} o JOIN {migrations} m ON o.version = m.version AND o.number <= m.count
ORDER BY o.number
"""

HISTORY = """
SELECT at, event, run, by, version,
    CASE WHEN event NOT IN ('applied', 'rolled_back') OR detail IS NOT NULL THEN number END,
    CASE WHEN event = 'taken' THEN detail END,
    CASE WHEN event = 'run' THEN split_part(detail, ' ', 1)
        WHEN event NOT IN ('taken', 'failed', 'rolled_back') THEN detail END,
    CASE WHEN event IN ('failed', 'rolled_back') THEN detail END
FROM {history} ORDER BY id DESC LIMIT %(limit)s
"""
"""As `HistoryRecord` has it; `detail` holds a worker, an error, or a direction and a checksum."""

OWNER = """
SELECT owner FROM {operations}
WHERE version = %(version)s AND number = %(number)s AND owner IS NOT NULL
"""

TAKE = """
WITH head AS (
    SELECT 1 FROM {head} WHERE generation = %(generation)s FOR SHARE
), anew AS (
    SELECT 1 FROM {migrations} WHERE version = %(version)s AND state = 'rolled_back'
    FOR UPDATE
), taken AS (
    INSERT INTO {operations} AS o
        (version, number, type, state, fence, attempts, worker, owner, updated)
    SELECT %(version)s, %(number)s, %(type)s, 'running', 1, 1, %(worker)s, %(owner)s::json,
        clock_timestamp()
    FROM head
    WHERE %(number)s = 1 OR (NOT EXISTS (SELECT 1 FROM anew) AND EXISTS (
        SELECT 1 FROM {operations}
        WHERE version = %(version)s AND number = %(number)s - 1 AND state = 'done'))
    ON CONFLICT (version, number) DO UPDATE SET
        state = 'running',
        fence = o.fence + 1,
        type = excluded.type,
        worker = excluded.worker,
        former = o.owner,
        owner = excluded.owner,
        updated = excluded.updated,
        error = %(error)s,
        attempts = CASE WHEN EXISTS (SELECT 1 FROM anew) OR o.state = 'failed' THEN 1
            WHEN o.owner IS NULL OR %(counted)s THEN o.attempts + 1 ELSE o.attempts END,
        cursor = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN NULL ELSE o.cursor END,
        undo = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN NULL ELSE o.undo END,
        done = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN 0 ELSE o.done END,
        total = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN NULL ELSE o.total END
        WHERE o.state <> 'done' OR EXISTS (SELECT 1 FROM anew)
    RETURNING fence, state, cursor, undo, done, total, attempts, former
), others AS (
    UPDATE {operations} SET state = 'pending', fence = fence + 1, attempts = 0, cursor = NULL,
        undo = NULL, done = 0, total = NULL, error = NULL, worker = NULL, owner = NULL
    WHERE version = %(version)s AND number <> %(number)s
        AND EXISTS (SELECT 1 FROM anew) AND EXISTS (SELECT 1 FROM taken)
), migration AS (
    INSERT INTO {migrations} AS m (version, name, state, checksum, count, run, by, started)
    SELECT %(version)s, %(name)s, 'running', %(checksum)s, %(count)s, %(run)s, %(by)s,
        clock_timestamp()
    FROM taken
    ON CONFLICT (version) DO UPDATE SET
        name = excluded.name, state = 'running', count = excluded.count, run = excluded.run,
        by = excluded.by, finished = NULL, seconds = NULL, error = NULL,
        checksum = CASE m.state WHEN 'rolled_back' THEN excluded.checksum ELSE m.checksum END,
        started = CASE m.state WHEN 'rolled_back' THEN excluded.started ELSE m.started END
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence, detail)
    SELECT 'taken', %(run)s, %(by)s, %(version)s, %(number)s, fence, %(worker)s FROM taken
)
SELECT fence, state, cursor, undo, done, total, attempts, former FROM taken
UNION ALL
SELECT o.fence, o.state, o.cursor, o.undo, o.done, o.total, o.attempts, NULL::json
FROM {operations} o, head
WHERE o.version = %(version)s AND o.number = %(number)s AND o.state = 'done'
    AND NOT EXISTS (SELECT 1 FROM taken)
"""
"""The lock on the head makes it wait for a run that begins, and makes that run wait for it.
ON CONFLICT works on the newest version of the row, so two at once get different fences; FOR
UPDATE makes `anew` see the newest too, or a late one would begin a migration anew that another
has applied meanwhile (FAULTS 7). An orderly stop has given its attempt back and left no owner:
that taking always counts."""

PREPARE = """
UPDATE {operations} SET undo = %(undo)s::json, total = %(total)s, updated = clock_timestamp()
WHERE version = %(version)s AND number = %(number)s AND fence = %(fence)s AND state = 'running'
RETURNING 1
"""

STEP = """
UPDATE {operations} SET cursor = %(cursor)s::json, done = done + %(done)s,
    total = coalesce(%(total)s, total), attempts = 0, error = NULL, updated = clock_timestamp()
WHERE version = %(version)s AND number = %(number)s AND fence = %(fence)s AND state = 'running'
RETURNING 1
"""

FINISH = """
WITH finished AS (
    UPDATE {operations} SET cursor = %(cursor)s::json, done = done + %(done)s,
        total = coalesce(%(total)s, total), attempts = 0, error = NULL, state = 'done',
        owner = NULL, updated = clock_timestamp()
    WHERE version = %(version)s AND number = %(number)s AND fence = %(fence)s
        AND state = 'running'
    RETURNING 1
), applied AS (
    UPDATE {migrations} SET state = 'applied', finished = clock_timestamp(),
        seconds = extract(epoch FROM clock_timestamp() - started)
    WHERE version = %(version)s AND count = %(number)s AND EXISTS (SELECT 1 FROM finished)
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence)
    SELECT CASE WHEN %(last)s THEN 'applied' ELSE 'done' END, %(run)s, %(by)s, %(version)s,
        %(number)s, %(fence)s
    FROM finished
)
SELECT 1 FROM finished
"""

FAIL = """
WITH failed AS (
    UPDATE {operations} SET state = 'failed', error = %(error)s, owner = NULL,
        updated = clock_timestamp()
    WHERE version = %(version)s AND number = %(number)s AND fence = %(fence)s
        AND state = 'running'
    RETURNING 1
), migration AS (
    UPDATE {migrations} SET state = %(state)s, error = %(error)s, finished = clock_timestamp(),
        seconds = extract(epoch FROM clock_timestamp() - started)
    WHERE version = %(version)s AND EXISTS (SELECT 1 FROM failed)
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence, detail)
    SELECT %(state)s, %(run)s, %(by)s, %(version)s, %(number)s, %(fence)s, %(error)s FROM failed
)
SELECT 1 FROM failed
"""

NOTE = """
UPDATE {operations} SET error = %(error)s, attempts = greatest(attempts - 1, 0), owner = NULL,
    updated = clock_timestamp()
WHERE version = %(version)s AND number = %(number)s AND fence = %(fence)s AND state = 'running'
RETURNING 1
"""

AUDIT = """
INSERT INTO {history} (event, run, by, version, number, detail)
SELECT %(event)s::text, %(run)s::text, %(by)s::text, %(version)s::text, %(number)s::integer,
    %(detail)s::text
WHERE NOT EXISTS (
    SELECT 1 FROM {history}
    WHERE event = %(event)s AND run = %(run)s AND by = %(by)s AND version = %(version)s
        AND number = %(number)s AND detail = %(detail)s)
"""
"""To be run under `LOCK`: of two at once the second must see the first one's entry."""

FENCE = "SELECT fence FROM {operations} WHERE version = %(version)s AND number = %(number)s"


def rendered(template: str, namespace: str) -> str:
    """Put the names of the journal `namespace` into a statement."""
    tables = {
        table: sql.Identifier("public", f"{namespace}_{table}")
        for table in ("head", "migrations", "operations", "history")
    }
    head = sql.Literal(f"public.{namespace}_head")
    return sql.SQL(template).format(**tables, head_name=head).as_string()
