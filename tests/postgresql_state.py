"""What is in the schemas that tests work in, from the catalogue: definitions and every row."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql

_OBJECTS = """
SELECT 'relation', c.oid::regclass::text, c.relkind::text, c.relpersistence::text,
    coalesce(c.reloptions::text, ''), coalesce(obj_description(c.oid, 'pg_class'), ''),
    c.relacl::text
FROM pg_class c WHERE c.relnamespace = ANY (%(schemas)s) AND c.relname <> ALL (%(journal)s)
UNION ALL
SELECT 'column', a.attrelid::regclass::text || '.' || a.attname,
    format_type(a.atttypid, a.atttypmod), a.attnotnull::text, concat(a.attidentity, a.attgenerated),
    coalesce(pg_get_expr(d.adbin, d.adrelid), ''), coalesce(a.attcollation::regcollation::text, '')
FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE c.relnamespace = ANY (%(schemas)s) AND c.relname <> ALL (%(journal)s)
    AND a.attnum > 0 AND NOT a.attisdropped
UNION ALL
SELECT 'index', i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid),
    i.indisvalid::text, i.indisunique::text, i.indisprimary::text, i.indisready::text
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
WHERE c.relnamespace = ANY (%(schemas)s) AND c.relname <> ALL (%(journal)s)
UNION ALL
SELECT 'constraint', coalesce(conrelid::regclass::text, '') || '.' || conname,
    pg_get_constraintdef(o.oid), convalidated::text, '', '', ''
FROM pg_constraint o LEFT JOIN pg_class c ON c.oid = conrelid
WHERE connamespace = ANY (%(schemas)s) AND c.relname <> ALL (%(journal)s)
UNION ALL
SELECT 'function', p.oid::regprocedure::text, pg_get_functiondef(p.oid), '', '', '', ''
FROM pg_proc p WHERE pronamespace = ANY (%(schemas)s) AND prokind <> 'a'
UNION ALL
SELECT 'trigger', tgname, pg_get_triggerdef(t.oid), tgenabled::text, '', '', ''
FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
WHERE relnamespace = ANY (%(schemas)s) AND NOT tgisinternal
UNION ALL
SELECT 'view', c.oid::regclass::text, pg_get_viewdef(c.oid), '', '', '', ''
FROM pg_class c WHERE relnamespace = ANY (%(schemas)s) AND relkind IN ('v', 'm')
UNION ALL
SELECT 'label', enumtypid::regtype::text, enumlabel, enumsortorder::text, '', '', ''
FROM pg_enum e JOIN pg_type t ON t.oid = enumtypid WHERE typnamespace = ANY (%(schemas)s)
UNION ALL
SELECT 'schema', nspname, nspowner::regrole::text, nspacl::text, '', '', ''
FROM pg_namespace WHERE oid = ANY (%(schemas)s)
ORDER BY 1, 2, 3
"""

_SCHEMAS = "SELECT array_agg(oid::bigint) FROM pg_namespace WHERE nspname IN ('public', 's')"

_TABLES = """
SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE n.oid = ANY (%(schemas)s) AND relkind IN ('r', 'm') AND relname <> ALL (%(journal)s)
ORDER BY 1, 2
"""


def state(connection: psycopg.Connection[Any], namespace: str) -> list[Any]:
    """Everything but the journal `namespace`: equal where nothing differs.

    Without oids and places on the disk, which are new in whatever was made anew.
    """
    journal = [
        f"{namespace}_{table}{more}"
        for table in ("head", "migrations", "operations", "ranges", "history")
        for more in ("", "_pkey", "_id_seq")
    ]
    schemas = connection.execute(_SCHEMAS).fetchone()
    values = {"schemas": schemas[0] if schemas else [], "journal": journal}
    found = [list(row) for row in connection.execute(_OBJECTS, values)]
    for schema, table in connection.execute(_TABLES, values).fetchall():
        name = sql.Identifier(schema, table)
        text = sql.SQL("SELECT t::text FROM {} t ORDER BY 1").format(name)
        rows = [row for (row,) in connection.execute(text)]
        found.append(["rows", f"{schema}.{table}", rows])
    return found
