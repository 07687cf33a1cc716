"""SQL files for the tools to apply: many small ones, and ones like those of a grown project."""

from __future__ import annotations

from collections.abc import Sequence
from string import Template

SMALL = Template("""\
CREATE TABLE t$n (id integer PRIMARY KEY, name text);
CREATE INDEX t${n}_name ON t$n (name);
INSERT INTO t$n VALUES (1, 'one'), (2, 'two');
""")

_TABLE = Template("""\
-- Orders of branch $n, and what they hold.
CREATE TYPE state_$n AS ENUM ('draft', 'placed', 'sent', 'returned');

CREATE TABLE orders_$n (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer    text NOT NULL CHECK (customer <> ''),
    state       state_$n NOT NULL DEFAULT 'draft',
    total       numeric(12, 2) NOT NULL DEFAULT 0 CHECK (total >= 0),
    details     jsonb NOT NULL DEFAULT '{"source": "web"}',
    placed_at   timestamptz,
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE lines_$n (
    order_id    bigint NOT NULL REFERENCES orders_$n (id) ON DELETE CASCADE,
    position    integer NOT NULL,
    article     text NOT NULL,
    amount      integer NOT NULL CHECK (amount > 0),
    price       numeric(12, 2) NOT NULL,
    PRIMARY KEY (order_id, position)
);

CREATE INDEX orders_${n}_customer ON orders_$n (lower(customer));
CREATE INDEX orders_${n}_open ON orders_$n (placed_at) WHERE state IN ('draft', 'placed');
COMMENT ON TABLE orders_$n IS 'One row an order; its lines are in lines_$n.';
""")

_ROWS = Template("""\
INSERT INTO orders_$m (customer, state, total, placed_at)
SELECT 'customer ' || n, CASE WHEN n %2 = 0 THEN 'placed' ELSE 'draft' END::state_$m,
    n * 1.5, now() - make_interval(days => n)
FROM generate_series(1, 50) AS n;

INSERT INTO lines_$m (order_id, position, article, amount, price)
SELECT id, n, 'article; no. ' || n, n, 0.5 FROM orders_$m, generate_series(1, 3) AS n;
""")

_COLUMN = Template("""\
ALTER TABLE orders_$m ADD COLUMN note text, ADD COLUMN version integer NOT NULL DEFAULT 1;

UPDATE orders_$m SET note = 'It''s ' || state WHERE state <> 'draft';

ALTER TABLE orders_$m ADD CONSTRAINT orders_${m}_note CHECK (note IS NULL OR length(note) < 200);
""")

_FUNCTION = Template("""\
CREATE FUNCTION add_up_$m() RETURNS trigger LANGUAGE plpgsql AS $$$$
BEGIN
    UPDATE orders_$m SET total = (
        SELECT coalesce(sum(amount * price), 0) FROM lines_$m WHERE order_id = NEW.order_id
    ) WHERE id = NEW.order_id;
    RETURN NEW;
END;
$$$$;

CREATE TRIGGER add_up AFTER INSERT OR UPDATE ON lines_$m
    FOR EACH ROW EXECUTE FUNCTION add_up_$m();
""")

_VIEW = Template("""\
CREATE VIEW open_orders_$m AS
SELECT o.id, o.customer, o.total, count(l.position) AS lines
FROM orders_$m AS o LEFT JOIN lines_$m AS l ON l.order_id = o.id
WHERE o.state = 'placed'
GROUP BY o.id;

CREATE UNIQUE INDEX orders_${m}_placed ON orders_$m (customer, placed_at);
""")

_KINDS = (_TABLE, _ROWS, _COLUMN, _FUNCTION, _VIEW)


def small(count: int) -> Sequence[str]:
    """Three statements each."""
    return [SMALL.substitute(n=number) for number in range(1, count + 1)]


def grown(count: int) -> Sequence[str]:
    """Tables with types, constraints and comments; rows; columns; triggers; views, in turn."""
    files = []
    for number in range(count):
        kind = _KINDS[number % len(_KINDS)]
        table = number - number % len(_KINDS)
        files.append(kind.substitute(n=number, m=table))
    return files
