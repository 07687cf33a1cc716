"""What a person declares, as the journal's rows have it: see `Journal.declare`."""

from __future__ import annotations

import json

from dharma_tasks.databases.postgresql.rows import storable
from dharma_tasks.databases.postgresql.session import Session
from dharma_tasks.databases.postgresql.statements import rendered
from dharma_tasks.journal import Declaration
from dharma_tasks.records import MigrationState

_RAISE = """
WITH raised AS (
    UPDATE {operations} SET fence = fence + 1 WHERE state <> 'done'
), ranges AS (
    UPDATE {ranges} SET fence = fence + 1 WHERE state <> 'done'
)
UPDATE {head} SET run = %(run)s, generation = generation + 1, plan = NULL
"""

_TELL = """
INSERT INTO {history} (event, run, by, version, detail, name, checksum)
VALUES (%(event)s, %(run)s, %(by)s, %(version)s, %(reason)s, %(name)s, %(checksum)s)
"""

_NAME = """
UPDATE {migrations} SET name = %(name)s, checksum = %(checksum)s WHERE version = %(version)s
"""

_RESET = """
UPDATE {operations} SET {nothing}, updated = clock_timestamp()
WHERE version = %(version)s AND (state <> 'done' OR number > %(stay)s
    OR type <> (%(types)s::text[])[number] OR EXISTS (
    SELECT 1 FROM {migrations} WHERE version = %(version)s AND state = 'rolled_back'))
"""

_DONE = """
INSERT INTO {operations} AS o (version, number, type, state, fence, undo, updated)
SELECT %(version)s, kind.number, kind.type, 'done', 1, %(undo)s::json, clock_timestamp()
FROM unnest(%(types)s::text[]) WITH ORDINALITY AS kind (type, number)
ON CONFLICT (version, number) DO UPDATE SET state = 'done', type = excluded.type,
    undo = excluded.undo, updated = excluded.updated
    WHERE o.state = 'pending'
"""

_APPLIED = """
INSERT INTO {migrations} AS m
    (version, name, state, checksum, count, run, by, started, finished)
VALUES (%(version)s, %(name)s, 'applied', %(checksum)s, %(stay)s, %(run)s, %(by)s,
    statement_timestamp(), statement_timestamp())
ON CONFLICT (version) DO UPDATE SET name = excluded.name, state = excluded.state,
    checksum = excluded.checksum, count = excluded.count, run = excluded.run, by = excluded.by,
    finished = excluded.finished, seconds = NULL, error = NULL, turned = NULL
"""

_ROLLED_BACK = """
UPDATE {migrations} SET state = 'rolled_back', run = %(run)s, by = %(by)s, error = NULL,
    finished = clock_timestamp(), seconds = NULL
WHERE version = %(version)s
"""

_AGAIN = """
UPDATE {operations} SET state = CASE state WHEN 'failed' THEN 'running' ELSE state END,
    attempts = 0, error = NULL, worker = NULL, owner = NULL, updated = clock_timestamp()
WHERE version = %(version)s AND state IN ('failed', 'running', 'undoing')
"""

_RANGES_AGAIN = """
UPDATE {ranges} SET state = CASE state WHEN 'failed' THEN 'running' ELSE state END,
    attempts = 0, error = NULL, worker = NULL, owner = NULL, updated = clock_timestamp()
WHERE version = %(version)s AND state IN ('failed', 'running')
"""

_GOING = """
UPDATE {migrations} SET state = %(state)s, run = %(run)s, by = %(by)s, error = NULL,
    finished = NULL, seconds = NULL
WHERE version = %(version)s
"""

_STATEMENTS = {
    None: (_NAME,),
    MigrationState.APPLIED: (_RESET, _DONE, _APPLIED),
    MigrationState.ROLLED_BACK: (_RESET, _ROLLED_BACK),
    MigrationState.RUNNING: (_AGAIN, _RANGES_AGAIN, _GOING),
    MigrationState.ROLLING_BACK: (_AGAIN, _RANGES_AGAIN, _GOING),
}


def write(session: Session, namespace: str, declaration: Declaration) -> None:
    """Write all of it, in the open transaction that has locked the head."""
    said = {
        "run": declaration.run,
        "by": storable(declaration.by),
        "event": declaration.event,
        "reason": storable(declaration.reason),
        "undo": json.dumps({"irreversible": storable(declaration.reason)}),
    }
    session.connection.execute(rendered(_RAISE, namespace), said)
    for amendment in declaration.amendments:
        values = {
            **said,
            "version": amendment.version,
            "name": amendment.name,
            "checksum": amendment.checksum,
            "types": list(amendment.types),
            "stay": len(amendment.types) if amendment.state is MigrationState.APPLIED else 0,
            "state": amendment.state,
        }
        for statement in (*_STATEMENTS[amendment.state], _TELL):
            session.connection.execute(rendered(statement, namespace), values)
