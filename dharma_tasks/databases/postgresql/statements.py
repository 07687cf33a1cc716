"""The journal's SQL. Names are always qualified: files set `search_path` (FAULTS 14).

Every write is one statement, so that it is whole or not at all, costs one round trip, and
its parts see the same moment. `%(fence)s` and the like are the driver's parameters. What serves
operations and ranges alike says `{rows}` and `{this}`.
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
    error text,
    turned timestamptz
);
ALTER TABLE {migrations} ADD COLUMN IF NOT EXISTS turned timestamptz;
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
    walked json,
    run text,
    PRIMARY KEY (version, number)
);
ALTER TABLE {operations} ADD COLUMN IF NOT EXISTS walked json,
    ADD COLUMN IF NOT EXISTS run text;
CREATE TABLE IF NOT EXISTS {ranges} (
    version text,
    number integer,
    range integer,
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
    PRIMARY KEY (version, number, range)
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
    detail text,
    name text,
    checksum text,
    seconds double precision
);
ALTER TABLE {history} ADD COLUMN IF NOT EXISTS name text,
    ADD COLUMN IF NOT EXISTS checksum text,
    ADD COLUMN IF NOT EXISTS seconds double precision
"""
"""`owner` is who has the operation now, NULL after its end and after an orderly stop; `former` is
who had it before the present owner. `worker` is only shown. A later `attempts` counts the takings
that ended without a word, and the present one, since the cursor last moved. `walked` is how far
an operation had come that is being undone: `{"cursor": …, "done": …}`; `run` took it last.
`turned` is when a migration began to be rolled back. The history's `name`, `checksum` and
`seconds` are those of the migration that the entry ends, the first two also where it is taken. A
journal of an older release lacks what is added by ALTER TABLE: it is brought up to date before it
is written to, and nothing that only reads may name that."""

NOTHING = """
state = 'pending', cursor = NULL, undo = NULL, walked = NULL, done = 0, total = NULL, attempts = 0,
    error = NULL, worker = NULL, owner = NULL, former = NULL
"""
"""An operation that was undone, or that begins again: nothing of it is recorded but its fence."""

TOOK = "extract(epoch FROM clock_timestamp() - coalesce(turned, started))"

EXISTS = "SELECT to_regclass({head_name}) IS NOT NULL"

CURRENT = "SELECT to_regclass({ranges_name}) IS NOT NULL"
"""Whether the table is there that was added last. Asked first, because ALTER TABLE … IF NOT EXISTS
locks everybody out to find the same."""

LOCK = "SELECT pg_advisory_xact_lock(hashtextextended({head_name}, 0))"
"""CREATE TABLE IF NOT EXISTS fails when two sessions do it at once."""

FIRST_HEAD = """
INSERT INTO {head} (identity, schema_version) VALUES (%(identity)s, %(schema)s)
ON CONFLICT DO NOTHING
"""

HEAD = "SELECT identity, schema_version, run, generation, direction, plan FROM {head}"

HEAD_LOCKED = "SELECT run, generation, schema_version FROM {head} FOR UPDATE"

OPEN = """
WITH raised AS (
    UPDATE {operations} SET fence = fence + 1 WHERE state <> 'done'
), ranges AS (
    UPDATE {ranges} SET fence = fence + 1 WHERE state <> 'done'
), history AS (
    INSERT INTO {history} (event, run, by, detail)
    VALUES ('run', %(run)s, %(by)s, %(detail)s)
)
UPDATE {head} SET run = %(run)s, generation = generation + 1, direction = %(direction)s,
    plan = %(plan)s
RETURNING generation
"""

OWNERS = """
SELECT owner FROM {operations} WHERE state IN ('running', 'undoing') AND owner IS NOT NULL
UNION ALL
SELECT owner FROM {ranges} WHERE state = 'running' AND owner IS NOT NULL
"""

STATE = "SELECT state FROM {migrations} WHERE version = %(version)s"

MIGRATIONS = """
SELECT version, name, state, checksum, run, by, started, finished, seconds, error
FROM {migrations}
"""

OPERATIONS = """
SELECT o.version, o.number, o.type, o.state, o.done, o.total, o.attempts, o.error, o.worker,
    o.updated, o.undo ->> 'irreversible'
FROM {operations} o JOIN {migrations} m ON o.version = m.version AND o.number <= m.count
WHERE o.state <> 'pending'
ORDER BY o.number
"""

HISTORY = """
SELECT at, event, run, by, version,
    CASE WHEN event NOT IN ('applied', 'failed', 'rolled_back') OR detail IS NOT NULL
        THEN number END,
    CASE WHEN event = 'taken' THEN detail END,
    CASE WHEN event = 'run' THEN regexp_replace(detail, ' [^ ]*$', '')
        WHEN event NOT IN ('taken', 'failed', 'rolled_back') THEN detail END,
    CASE WHEN event IN ('failed', 'rolled_back') THEN detail END,
    to_jsonb(h) ->> 'name', to_jsonb(h) ->> 'checksum', (to_jsonb(h) ->> 'seconds')::float8
FROM {history} h ORDER BY id DESC LIMIT %(limit)s
"""
"""As `HistoryRecord` has it; `detail` holds a worker, an error, or what a run is and, as its last
word, the plan's checksum. An older journal has not the last three: as keys they may be missing."""

OWNER = "SELECT owner FROM {rows} WHERE {this} AND owner IS NOT NULL"

RANGE_OWNERS = """
SELECT owner FROM {ranges}
WHERE version = %(version)s AND number = %(number)s AND owner IS NOT NULL
"""

EARLIER = """
SELECT undo, cursor FROM {operations}
WHERE version = %(version)s AND number < %(number)s AND state = 'done'
ORDER BY number
"""

TAKE = """
WITH head AS (
    SELECT 1 FROM {head} WHERE generation = %(generation)s AND run = %(run)s
        AND schema_version <= %(schema)s
    FOR SHARE
), anew AS (
    SELECT 1 FROM {migrations}
    WHERE version = %(version)s AND state = 'rolled_back' AND run <> %(run)s
        AND %(outcome)s = 'applied'
    FOR UPDATE
), given_up AS (
    SELECT 1 FROM {migrations}
    WHERE version = %(version)s AND state = 'rolled_back' AND run = %(run)s
        AND %(outcome)s = 'applied'
    FOR SHARE
), before AS (
    SELECT 1 FROM {operations}
    WHERE version = %(version)s AND number = %(number)s - 1 AND state = 'done'
    FOR SHARE
), taken AS (
    INSERT INTO {operations} AS o
        (version, number, type, state, fence, attempts, worker, owner, updated, run)
    SELECT %(version)s, %(number)s, %(type)s, 'running', 1, 1, %(worker)s, %(owner)s::json,
        clock_timestamp(), %(run)s
    FROM head
    WHERE NOT EXISTS (SELECT 1 FROM given_up) AND (%(number)s = 1
        OR (NOT EXISTS (SELECT 1 FROM anew) AND EXISTS (SELECT 1 FROM before)))
    ON CONFLICT (version, number) DO UPDATE SET
        state = 'running',
        fence = o.fence + 1,
        type = excluded.type,
        worker = excluded.worker,
        former = o.owner,
        owner = excluded.owner,
        updated = excluded.updated,
        run = excluded.run,
        error = %(error)s,
        attempts = CASE WHEN EXISTS (SELECT 1 FROM anew) OR o.state = 'failed' THEN 1
            WHEN o.owner IS NULL OR %(counted)s THEN o.attempts + 1 ELSE o.attempts END,
        cursor = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN NULL ELSE o.cursor END,
        undo = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN NULL ELSE o.undo END,
        done = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN 0 ELSE o.done END,
        total = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN NULL ELSE o.total END
        WHERE EXISTS (SELECT 1 FROM anew) OR (o.state NOT IN ('done', 'undoing')
            AND (o.state <> 'pending' OR o.run IS DISTINCT FROM excluded.run))
    RETURNING fence, state, cursor, undo, done, total, attempts, former
), others AS (
    UPDATE {operations} SET {nothing}, fence = fence + 1
    WHERE version = %(version)s AND number <> %(number)s
        AND EXISTS (SELECT 1 FROM anew) AND EXISTS (SELECT 1 FROM taken)
), migration AS (
    INSERT INTO {migrations} AS m (version, name, state, checksum, count, run, by, started)
    SELECT %(version)s, %(name)s, %(going)s, %(checksum)s, %(count)s, %(run)s, %(by)s,
        clock_timestamp()
    FROM taken
    ON CONFLICT (version) DO UPDATE SET
        name = excluded.name, state = excluded.state, count = excluded.count,
        run = excluded.run, by = excluded.by, finished = NULL, seconds = NULL,
        error = CASE WHEN %(outcome)s <> 'applied' AND NOT starts_with(m.error, %(way_back)s)
            THEN m.error END,
        turned = CASE WHEN %(outcome)s <> 'applied' THEN coalesce(m.turned, excluded.started) END,
        checksum = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN excluded.checksum
            ELSE m.checksum END,
        started = CASE WHEN EXISTS (SELECT 1 FROM anew) THEN excluded.started
            ELSE m.started END
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence, detail, name, checksum)
    SELECT 'taken', %(run)s, %(by)s, %(version)s, %(number)s, fence, %(worker)s, %(name)s,
        %(checksum)s
    FROM taken
)
SELECT fence, state, cursor, undo, done, total, attempts, former FROM taken
UNION ALL
SELECT o.fence, o.state, o.cursor, o.undo, o.done, o.total, o.attempts, NULL::json
FROM {operations} o JOIN {migrations} m USING (version), head
WHERE o.version = %(version)s AND o.number = %(number)s AND o.state = 'done'
    AND (NOT %(last)s OR m.state = %(outcome)s) AND NOT EXISTS (SELECT 1 FROM taken)
"""
"""The lock on the head makes it wait for a run that begins, and makes that run wait for it. ON
CONFLICT works on the newest version of the row, so two at once get different fences; FOR UPDATE
makes `anew` see the newest too, or a late one would begin a migration anew that another has
applied meanwhile (FAULTS 7). FOR SHARE does the same for the operation before, and keeps it done
until this one is taken: nobody begins to undo it meanwhile (Law 8). An orderly stop has given
its attempt back and left no owner: that taking always counts. What this very run has rolled
back, or undone, it never begins anew: whoever asks for that was frozen meanwhile. The end of the
last operation and the outcome are one write; where the last one is done and the outcome is
another, a rollback file has begun, and what is done may be half undone: then it takes nothing."""

TAKE_BACK = """
WITH head AS (
    SELECT 1 FROM {head} WHERE generation = %(generation)s AND run = %(run)s
        AND schema_version <= %(schema)s
    FOR SHARE
), own AS (
    SELECT 1 FROM {operations}
    WHERE version = %(version)s AND number = %(number)s AND state <> 'pending'
        AND EXISTS (SELECT 1 FROM head)
    FOR UPDATE
), after AS (
    INSERT INTO {operations} AS o (version, number, type, state, fence, updated)
    SELECT %(version)s, %(number)s + 1, '', 'pending', 1, clock_timestamp() FROM own
    ON CONFLICT (version, number) DO UPDATE SET fence = o.fence + 1 WHERE o.state = 'pending'
    RETURNING 1
), taken AS (
    UPDATE {operations} o SET
        state = 'undoing',
        fence = o.fence + 1,
        run = %(run)s,
        worker = %(worker)s,
        former = o.owner,
        owner = %(owner)s::json,
        updated = clock_timestamp(),
        error = %(error)s,
        attempts = CASE WHEN o.state <> 'undoing' THEN 1
            WHEN o.owner IS NULL OR %(counted)s THEN o.attempts + 1 ELSE o.attempts END,
        walked = CASE o.state WHEN 'undoing' THEN o.walked
            ELSE json_build_object('cursor', o.cursor, 'done', o.done) END,
        cursor = CASE o.state WHEN 'undoing' THEN o.cursor END,
        done = CASE o.state WHEN 'undoing' THEN o.done ELSE 0 END,
        total = CASE o.state WHEN 'undoing' THEN o.total END
    WHERE o.version = %(version)s AND o.number = %(number)s AND EXISTS (SELECT 1 FROM after)
    RETURNING fence, state, cursor, undo, done, total, attempts, former, walked
), undone AS (
    SELECT coalesce(o.fence, 0) AS fence
    FROM head LEFT JOIN {operations} o ON o.version = %(version)s AND o.number = %(number)s
    WHERE coalesce(o.state, 'pending') = 'pending' AND NOT EXISTS (SELECT 1 FROM taken)
), ranges AS (
    UPDATE {ranges} SET fence = fence + 1
    WHERE version = %(version)s AND number = %(number)s AND EXISTS (SELECT 1 FROM taken)
), going AS (
    UPDATE {migrations} SET state = 'rolling_back', run = %(run)s, by = %(by)s, finished = NULL,
        seconds = NULL, turned = coalesce(turned, clock_timestamp()),
        error = CASE WHEN NOT starts_with(error, %(way_back)s) THEN error END
    WHERE version = %(version)s AND EXISTS (SELECT 1 FROM taken)
), ended AS (
    UPDATE {migrations} SET state = %(outcome)s, finished = clock_timestamp(), seconds = {took}
    WHERE version = %(version)s AND %(last)s AND state <> %(outcome)s
        AND EXISTS (SELECT 1 FROM undone)
    RETURNING name, checksum, seconds
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence, detail, name, checksum, seconds)
    SELECT 'taken', %(run)s, %(by)s, %(version)s, %(number)s, fence, %(worker)s, %(name)s,
        %(checksum)s, NULL
    FROM taken
    UNION ALL
    SELECT %(outcome)s, %(run)s, %(by)s, %(version)s, NULL, NULL, NULL, name, checksum, seconds
    FROM ended
)
SELECT fence, state, cursor, undo, done, total, attempts, former, walked FROM taken
UNION ALL
SELECT fence, 'pending', NULL::json, NULL::json, 0, NULL, 0, NULL::json, NULL::json FROM undone
"""
"""The way back takes what is there; what is pending is undone already, and nobody becomes its
owner. Only the operation after it is looked at: none is taken before the one before it is done,
so where that one is pending, all behind it are. A look alone could miss one that is taken at
this very moment. So it is written to: ON CONFLICT meets the newest row, also one that this
statement does not see, and FOR UPDATE goes before it, as `TAKE` locks the rows in the same
order. `ended` is for a last operation that was never begun, and so has no end of its own."""

PREPARE = """
UPDATE {operations} SET undo = %(undo)s::json, cursor = %(cursor)s::json, total = %(total)s,
    updated = clock_timestamp()
WHERE {this} AND fence = %(fence)s AND state = 'running'
RETURNING 1
"""

STEP = """
UPDATE {rows} SET cursor = %(cursor)s::json, done = done + %(done)s,
    total = coalesce(%(total)s, total), attempts = 0, error = NULL, updated = clock_timestamp()
WHERE {this} AND fence = %(fence)s AND state = %(at_work)s
RETURNING 1
"""

FINISH = """
WITH ended AS (
    UPDATE {operations} SET cursor = %(cursor)s::json, done = done + %(done)s,
        total = coalesce(%(total)s, total), attempts = 0, error = NULL, state = 'done',
        owner = NULL, updated = clock_timestamp()
    WHERE version = %(version)s AND number = %(number)s AND fence = %(fence)s
        AND state = 'running'
    RETURNING 1
){ending}
"""

UNDONE = """
WITH ended AS (
    UPDATE {operations} SET {nothing}, updated = clock_timestamp()
    WHERE version = %(version)s AND number = %(number)s AND fence = %(fence)s
        AND state = 'undoing'
    RETURNING 1
){ending}
"""

ENDING = """, migration AS (
    UPDATE {migrations} SET state = %(outcome)s, finished = clock_timestamp(), seconds = {took}
    WHERE version = %(version)s AND %(last)s AND EXISTS (SELECT 1 FROM ended)
    RETURNING name, checksum, seconds
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence, name, checksum, seconds)
    SELECT CASE WHEN %(last)s THEN %(outcome)s ELSE %(ended)s END, %(run)s, %(by)s, %(version)s,
        %(number)s, %(fence)s, name, checksum, seconds
    FROM ended LEFT JOIN migration ON true
)
SELECT 1 FROM ended
"""

FAIL = """
WITH failed AS (
    UPDATE {operations} SET error = %(error)s, owner = NULL, updated = clock_timestamp(),
        state = CASE state WHEN 'undoing' THEN state ELSE 'failed' END,
        attempts = CASE state WHEN 'undoing' THEN 0 ELSE attempts END,
        fence = fence + 1
    WHERE {this} AND fence = %(fence)s AND state = %(at_work)s
    RETURNING 1
), ranges AS (
    UPDATE {ranges} SET fence = fence + 1, attempts = 0, owner = NULL,
        state = CASE state WHEN 'failed' THEN 'running' ELSE state END
    WHERE version = %(version)s AND number = %(number)s AND state <> 'done'
        AND EXISTS (SELECT 1 FROM failed)
), migration AS (
    UPDATE {migrations} SET state = %(state)s, error = coalesce(error, %(shown)s),
        finished = clock_timestamp(), seconds = {took}
    WHERE version = %(version)s AND EXISTS (SELECT 1 FROM failed)
    RETURNING name, checksum, seconds
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence, detail, name, checksum, seconds)
    SELECT %(state)s, %(run)s, %(by)s, %(version)s, %(number)s, %(fence)s, %(error)s, name,
        checksum, seconds
    FROM failed LEFT JOIN migration ON true
)
SELECT 1 FROM failed
"""
"""What was being undone stays so, without an owner: the fence alone ends its worker's right. An
error that is there already is the first one: going forward, the taking has removed it. A range that
has failed has told it now; whoever goes on with the operation goes on with that one too."""

SPARE = """
WITH failed AS (
    UPDATE {operations} SET {nothing}, fence = fence + 1, updated = clock_timestamp()
    WHERE version = %(version)s AND number = %(number)s AND fence = %(fence)s
        AND state = 'running'
    RETURNING 1
), migration AS (
    UPDATE {migrations} SET state = 'applied', error = NULL, finished = clock_timestamp(),
        seconds = NULL, turned = NULL
    WHERE version = %(version)s AND EXISTS (SELECT 1 FROM failed)
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence, detail, name, checksum, seconds)
    SELECT 'failed', %(run)s, %(by)s, %(version)s, %(number)s, %(fence)s, %(error)s, name,
        checksum, {took}
    FROM failed LEFT JOIN {migrations} ON version = %(version)s
)
SELECT 1 FROM failed
"""
"""A rollback file that has left nothing: the migration is applied, as it was. The history reads its
row as it was before the statement, with `turned`."""

NOTE = """
UPDATE {rows} SET error = %(error)s, attempts = greatest(attempts - 1, 0), owner = NULL,
    updated = clock_timestamp()
WHERE {this} AND fence = %(fence)s AND state = %(at_work)s
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

FENCE = "SELECT fence, state FROM {rows} WHERE {this}"

# --- ranges: {rows} are these here ---

RANGES = """
SELECT r.range, r.state, r.cursor, r.done, r.error
FROM {ranges} r JOIN {operations} o USING (version, number)
WHERE version = %(version)s AND number = %(number)s AND r.range <= (o.undo ->> 'ranges')::integer
ORDER BY r.range
"""
"""What is left of another time that had more is of no operation."""

MAKE_RANGES = """
INSERT INTO {ranges} AS r (version, number, range, state, fence, cursor, undo, updated)
SELECT %(version)s, %(number)s, made.range, 'pending', 1, made.each -> 'cursor',
    made.each -> 'undo', clock_timestamp()
FROM json_array_elements(%(ranges)s::json) WITH ORDINALITY AS made (each, range)
ON CONFLICT (version, number, range) DO UPDATE SET state = 'pending', fence = r.fence + 1,
    cursor = excluded.cursor, undo = excluded.undo, done = 0, total = NULL,
    attempts = 0, error = NULL, worker = NULL, owner = NULL, former = NULL,
    updated = excluded.updated
"""
"""A fence goes on rising: who was frozen since another time must not find its number."""

TAKE_RANGE = """
WITH head AS (
    SELECT 1 FROM {head} WHERE generation = %(generation)s AND run = %(run)s
        AND schema_version <= %(schema)s
    FOR SHARE
), operation AS (
    SELECT undo FROM {operations}
    WHERE version = %(version)s AND number = %(number)s AND state = 'running'
        AND %(range)s <= (undo ->> 'ranges')::integer AND EXISTS (SELECT 1 FROM head)
    FOR SHARE
), taken AS (
    UPDATE {ranges} r SET
        state = 'running',
        fence = r.fence + 1,
        worker = %(worker)s,
        former = r.owner,
        owner = %(owner)s::json,
        updated = clock_timestamp(),
        error = %(error)s,
        attempts = CASE WHEN r.state <> 'running' THEN 1
            WHEN r.owner IS NULL OR %(counted)s THEN r.attempts + 1 ELSE r.attempts END
    WHERE {this} AND r.state <> 'done' AND EXISTS (SELECT 1 FROM operation)
    RETURNING fence, state, cursor, undo, done, total, attempts, former
), history AS (
    INSERT INTO {history} (event, run, by, version, number, fence, detail, name, checksum)
    SELECT 'taken', %(run)s, %(by)s, %(version)s, %(number)s, fence,
        %(worker)s || ', range ' || %(range)s::text, %(name)s, %(checksum)s
    FROM taken
), found AS (
    SELECT fence, state, cursor, undo, done, total, attempts, former FROM taken
    UNION ALL
    SELECT fence, state, cursor, undo, done, total, attempts, NULL::json FROM {ranges}
    WHERE {this} AND state = 'done' AND NOT EXISTS (SELECT 1 FROM taken)
)
SELECT f.fence, f.state, f.cursor, f.undo, f.done, f.total, f.attempts, f.former, o.undo
FROM found f, operation o
"""
"""The lock on the operation makes it wait for one that fails or begins to be undone, and that one
for it: what has raised the fences of all ranges leaves none that is taken unseen (FAULTS 22)."""

FINISH_RANGE = """
UPDATE {rows} SET cursor = %(cursor)s::json, done = done + %(done)s,
    total = coalesce(%(total)s, total), attempts = 0, error = NULL, state = 'done', owner = NULL,
    updated = clock_timestamp()
WHERE {this} AND fence = %(fence)s AND state = 'running'
RETURNING 1
"""

FAIL_RANGE = """
UPDATE {rows} SET error = %(error)s, owner = NULL, state = 'failed', fence = fence + 1,
    updated = clock_timestamp()
WHERE {this} AND fence = %(fence)s AND state = 'running'
RETURNING 1
"""

_OPERATION = "version = %(version)s AND number = %(number)s"
_RANGE = f"{_OPERATION} AND range = %(range)s"


def rendered(template: str, namespace: str, rows: str = "operations") -> str:
    """Put the names of the journal `namespace` into a statement, which is about `rows`."""
    tables = {
        table: sql.Identifier("public", f"{namespace}_{table}")
        for table in ("head", "migrations", "operations", "ranges", "history")
    }
    names: dict[str, sql.Composable] = {
        f"{table}_name": sql.Literal(f"public.{namespace}_{table}") for table in ("head", "ranges")
    }
    this = sql.SQL(_OPERATION if rows == "operations" else _RANGE)
    parts = {"nothing": sql.SQL(NOTHING), "took": sql.SQL(TOOK), "this": this}
    ending = sql.SQL(ENDING).format(**tables, **parts)
    names |= {"rows": tables[rows]}
    return sql.SQL(template).format(**tables, **names, **parts, ending=ending).as_string()
