"""The locks that `plan` tells of are those that the server really takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from dharma_tasks.operations.postgresql.burden import effects
from dharma_tasks.operations.postgresql.locks import Lock
from dharma_tasks.operations.postgresql.parsing import parse

SETUP = """
CREATE TABLE customers (id int PRIMARY KEY);
CREATE TABLE orders (id int PRIMARY KEY, customer int, total int NOT NULL, note text,
    CONSTRAINT positive CHECK (total >= 0));
ALTER TABLE orders ADD CONSTRAINT small CHECK (total < 10) NOT VALID;
CREATE INDEX by_customer ON orders (customer);
CREATE TABLE "Old Orders" (LIKE orders);
CREATE TABLE parted (id int, at date) PARTITION BY RANGE (at);
CREATE TABLE part (id int, at date);
CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM ('2001-01-01') TO ('2002-01-01');
CREATE MATERIALIZED VIEW sums AS SELECT customer, sum(id) FROM orders GROUP BY 1;
CREATE UNIQUE INDEX ON sums (customer);
CREATE VIEW seen AS SELECT 1 AS one;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER nothing AFTER INSERT ON orders EXECUTE FUNCTION nothing();
CREATE POLICY mine ON orders USING (true);
CREATE SCHEMA other;
"""

STATEMENTS = (
    "ALTER TABLE orders ADD COLUMN c int",
    "ALTER TABLE orders ADD COLUMN c int REFERENCES customers",
    "ALTER TABLE orders ALTER note SET DEFAULT 'x'",
    "ALTER TABLE orders ALTER note SET NOT NULL",
    "ALTER TABLE orders ALTER total DROP NOT NULL",
    "ALTER TABLE orders ALTER total TYPE bigint",
    "ALTER TABLE orders ALTER note SET STATISTICS 100",
    "ALTER TABLE orders ALTER note SET (n_distinct = 5)",
    "ALTER TABLE orders ALTER note SET STORAGE EXTERNAL",
    "ALTER TABLE orders ALTER note SET COMPRESSION pglz",
    "ALTER TABLE orders ALTER total ADD GENERATED ALWAYS AS IDENTITY",
    "ALTER TABLE orders SET (fillfactor = 70)",
    "ALTER TABLE orders RESET (autovacuum_enabled)",
    "ALTER TABLE orders CLUSTER ON by_customer",
    "ALTER TABLE orders SET UNLOGGED",
    "ALTER TABLE orders DROP COLUMN note",
    "ALTER TABLE orders ADD CONSTRAINT c CHECK (id > 0) NOT VALID",
    "ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers",
    "ALTER TABLE orders ADD FOREIGN KEY (customer) REFERENCES customers NOT VALID",
    "ALTER TABLE orders ADD UNIQUE (customer)",
    "ALTER TABLE orders DROP CONSTRAINT positive",
    "ALTER TABLE orders VALIDATE CONSTRAINT small",
    "ALTER TABLE orders VALIDATE CONSTRAINT small, ALTER note SET NOT NULL",
    "ALTER TABLE orders DISABLE TRIGGER ALL",
    "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE orders REPLICA IDENTITY FULL",
    "ALTER TABLE orders INHERIT customers",
    "ALTER TABLE orders OWNER TO CURRENT_USER",
    "ALTER TABLE orders SET SCHEMA other",
    "ALTER TABLE orders RENAME TO sales",
    "ALTER TABLE orders RENAME note TO notes",
    "ALTER TABLE orders RENAME CONSTRAINT positive TO above",
    "ALTER TRIGGER nothing ON orders RENAME TO nil",
    "ALTER POLICY mine ON orders RENAME TO ours",
    "ALTER POLICY mine ON orders USING (false)",
    "ALTER INDEX by_customer RENAME TO customers_index",
    "ALTER VIEW seen RENAME TO saw",
    'ALTER TABLE "Old Orders" ADD COLUMN c int',
    "ALTER TABLE parted ATTACH PARTITION part FOR VALUES FROM ('2003-01-01') TO ('2004-01-01')",
    "ALTER TABLE parted DETACH PARTITION part_1",
    "CREATE TABLE c (id int REFERENCES customers)",
    "CREATE TABLE c (id int, FOREIGN KEY (id) REFERENCES customers)",
    "CREATE TABLE c PARTITION OF parted FOR VALUES FROM ('2005-01-01') TO ('2006-01-01')",
    "CREATE TABLE c (x int) INHERITS (orders)",
    "CREATE INDEX c ON orders (total)",
    "CREATE UNIQUE INDEX c ON locks.orders (id, total)",
    "CREATE TRIGGER c AFTER DELETE ON orders EXECUTE FUNCTION nothing()",
    "CREATE POLICY c ON orders USING (true)",
    "CREATE RULE c AS ON INSERT TO orders DO ALSO NOTHING",
    "CREATE STATISTICS c ON id, total FROM orders",
    "CREATE VIEW c AS SELECT * FROM orders",
    "CREATE TABLE c AS SELECT * FROM orders",
    "COMMENT ON TABLE orders IS 'x'",
    "GRANT SELECT ON orders TO PUBLIC",
    "DROP TABLE part, customers",
    "DROP INDEX by_customer",
    "DROP VIEW seen",
    "DROP MATERIALIZED VIEW sums",
    "DROP TRIGGER nothing ON orders",
    "DROP POLICY mine ON orders",
    "TRUNCATE orders, customers",
    "LOCK TABLE orders IN SHARE ROW EXCLUSIVE MODE",
    "LOCK TABLE orders IN EXCLUSIVE MODE",
    "LOCK TABLE orders IN ROW EXCLUSIVE MODE",
    "LOCK orders",
    "REFRESH MATERIALIZED VIEW sums",
    "REINDEX TABLE orders",
    "REINDEX INDEX by_customer",
    "CLUSTER orders USING by_customer",
    "ANALYZE orders",
    "UPDATE orders SET total = 1",
    "DELETE FROM orders WHERE id = 1",
    "INSERT INTO customers SELECT id FROM orders",
    "SELECT 1 FROM orders",
)

HELD = """
SELECT l.relation, replace(l.mode, 'Lock', '') FROM pg_locks l
WHERE l.pid = pg_backend_pid() AND l.granted AND l.locktype = 'relation'
"""
MODES = {lock.value.title().replace(" ", ""): lock for lock in Lock if lock is not Lock.ROWS}
"""Without that of INSERT, UPDATE and DELETE, which conflicts with none of the four."""


class Ground:
    """A schema with a few tables, that are as before after each statement."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        connection.execute("CREATE SCHEMA locks; SET search_path = locks, public")
        connection.execute(SETUP)
        rows = connection.execute(
            "SELECT oid, relname FROM pg_class WHERE relnamespace = 'locks'::regnamespace"
            " AND relkind IN ('r', 'p', 'v', 'm')"
        )
        self.tables: dict[int, str] = dict(rows.fetchall())

    def held(self, statement: str) -> dict[str, Lock]:
        """The strictest lock that others notice, by table, while the statement has just run."""
        self.connection.execute("BEGIN")
        try:
            self.connection.execute(statement.encode())
            found = self.connection.execute(HELD).fetchall()
        finally:
            self.connection.execute("ROLLBACK")
        noticed = [
            (self.tables[oid], MODES[mode])
            for oid, mode in found
            if oid in self.tables and mode in MODES
        ]
        order = list(Lock)
        return dict(sorted(noticed, key=lambda each: order.index(each[1]), reverse=True))


@pytest.fixture(scope="module")
def ground(one_database: str) -> Iterator[Ground]:
    """Made once for all statements."""
    with psycopg.connect(one_database, autocommit=True) as connection:
        yield Ground(connection)
        connection.execute("DROP SCHEMA locks CASCADE")


@pytest.mark.parametrize("text", STATEMENTS)
def test_the_locks_that_are_taken(ground: Ground, text: str) -> None:
    """No more, no fewer, and as strict as is told."""
    found = effects(parse(text)[0])
    told = {
        (each.relation or "orders").rpartition(".")[2].strip('"'): each.lock
        for each in reversed(found)
        if each.lock and each.lock is not Lock.ROWS
    }
    held = ground.held(text)
    assert told == held
