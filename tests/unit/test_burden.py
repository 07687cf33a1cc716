"""What an operation means for others: whether it is heavy, who waits, what it goes through."""

from __future__ import annotations

import pytest

from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Burden
from dharma_tasks.records import Direction


def burden(database: str, operation: JSON, direction: Direction = Direction.FORWARD) -> Burden:
    """That of an operation, by its JSON."""
    return catalogue(database).parse(operation).burden(direction)


def sql(text: str) -> Burden:
    """That of a .sql file."""
    return burden("postgresql", {"type": "sql", "sql": text})


# -- .sql files ----------------------------------------------------------------------------


def test_each_statement_is_named_with_its_line() -> None:
    """And who waits for it."""
    found = sql("-- a comment\nALTER TABLE orders ADD COLUMN c int;\n\nDELETE FROM s.old;")
    assert found.blocking == (
        "line 2: ALTER TABLE locks orders (ACCESS EXCLUSIVE): reads and writes of it wait",
        "line 4: DELETE locks the rows of s.old that it changes: other writes of these wait",
    )
    assert (found.heavy, found.targets, found.partly) == (True, ("s.old",), False)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            'CREATE UNIQUE INDEX i ON "My Orders" (a)',
            'CREATE INDEX locks "My Orders" (SHARE), and goes through its rows: writes to it wait',
        ),
        (
            "DROP INDEX s.i",
            "DROP INDEX locks the table of s.i (ACCESS EXCLUSIVE): reads and writes of it wait",
        ),
        (
            "ALTER TABLE a DISABLE TRIGGER t",
            "ALTER TABLE locks a (SHARE ROW EXCLUSIVE): writes to it wait",
        ),
        ("TRUNCATE a", "TRUNCATE locks a (ACCESS EXCLUSIVE): reads and writes of it wait"),
        (
            "UPDATE a SET b = 1",
            "UPDATE locks the rows of a that it changes: other writes of these wait",
        ),
    ],
)
def test_who_waits(text: str, says: str) -> None:
    """In words for people."""
    assert sql(text).blocking == (f"line 1: {says}",)


@pytest.mark.parametrize(
    "text",
    [
        "CREATE INDEX CONCURRENTLY i ON a (b)",
        "ALTER TABLE a VALIDATE CONSTRAINT c",
        "VACUUM (FULL off) a",
        "REINDEX (CONCURRENTLY) TABLE a",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY a",
        "INSERT INTO b SELECT * FROM a",
        "CREATE TABLE b AS SELECT * FROM a",
        "SELECT * INTO b FROM a",
        "WITH c AS (SELECT * FROM a) INSERT INTO b SELECT * FROM c",
        "INSERT INTO b WITH c AS (SELECT * FROM a) SELECT * FROM c",
    ],
)
def test_heavy_and_nobody_waits(text: str) -> None:
    """It goes through the table, and lets others read and write."""
    found = sql(text)
    assert (found.heavy, found.targets, found.blocking) == (True, ("a",), ())


@pytest.mark.parametrize(
    "change",
    [
        "ALTER b TYPE bigint",
        "ALTER b SET NOT NULL",
        "ADD COLUMN c serial",
        "ADD COLUMN c uuid DEFAULT gen_random_uuid()",
        "ADD COLUMN c text DEFAULT md5(random()::text)",
        "ADD COLUMN c int GENERATED ALWAYS AS (b + 1) STORED",
        "ADD COLUMN c int UNIQUE",
        "ADD CHECK (b > 0)",
        "ADD FOREIGN KEY (b) REFERENCES d",
        "ADD PRIMARY KEY (b)",
        "SET UNLOGGED",
    ],
)
def test_an_alter_table_that_goes_through_the_rows(change: str) -> None:
    """It reads or writes every one of them, and others wait for as long."""
    found = sql(f"ALTER TABLE a {change}")
    assert (found.heavy, found.targets) == (True, ("a",))
    assert "goes through its rows" in found.blocking[0]


@pytest.mark.parametrize(
    "change",
    [
        "ADD COLUMN c int DEFAULT 7",
        "ADD COLUMN c timestamptz NOT NULL DEFAULT now()",
        "ADD COLUMN c int REFERENCES d",
        "ALTER b SET DEFAULT gen_random_uuid()",
        "ALTER b DROP NOT NULL",
        "DROP COLUMN b",
        "ADD CHECK (b > 0) NOT VALID",
        "ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d NOT VALID",
        "ADD CONSTRAINT c PRIMARY KEY USING INDEX i",
    ],
)
def test_an_alter_table_that_is_over_at_once(change: str) -> None:
    """As soon as it has its lock."""
    found = sql(f"ALTER TABLE a {change}")
    assert not found.heavy
    assert found.blocking


def test_what_the_file_makes_itself_is_nobodys_yet() -> None:
    """A table is usually made with its indexes and its first rows."""
    text = "CREATE TABLE a (b int);\nCREATE INDEX ON a (b);\nALTER TABLE a ADD c int;\n"
    assert sql(text + "UPDATE a SET b = 1;") == Burden()
    later = sql("CREATE INDEX ON a (b);\nCREATE TABLE a (b int);")
    assert later.targets == ("a",)
    maybe = sql("CREATE TABLE IF NOT EXISTS a (b int);\nCREATE INDEX ON a (b);")
    assert maybe.targets == ("a",)


@pytest.mark.parametrize(
    "text",
    ["", "SELECT 1", "INSERT INTO a VALUES (1)", "ANALYZE a", "DO $$ BEGIN END $$", "SET x.y = 1"],
)
def test_what_is_over_at_once(text: str) -> None:
    """Or cannot be told from the text."""
    assert sql(text) == Burden()


def test_what_one_statement_moves_elsewhere() -> None:
    """A change within a WITH is one too; a join goes through both of its tables."""
    found = sql("WITH gone AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM gone")
    assert found.targets == ("a",)
    assert "the rows of a that it changes" in found.blocking[0]
    joined = sql("INSERT INTO c SELECT a.x FROM a JOIN b USING (x) UNION SELECT x FROM s.d")
    assert joined == Burden(heavy=True, targets=("a", "b", "s.d"), partly=True)


def test_a_file_in_batches() -> None:
    """Each range is a short transaction: it is heavy, and nobody waits for long."""
    text = "UPDATE a SET b = 1 WHERE id BETWEEN :batch_start AND :batch_end"
    operation = {"type": "sql_batch", "sql": text, "table": "a", "key": "id"}
    assert burden("postgresql", operation) == Burden(heavy=True, targets=("a",), counted=True)


# -- MongoDB and Elasticsearch -------------------------------------------------------------

FIELD = {"type": "add_field", "collection": "a", "field": "f", "value": 1}
UPDATE = {"type": "update_documents", "collection": "a", "filter": {}, "update": {"$inc": {"n": 1}}}
COPY = {"type": "reindex", "source": "a", "dest": "b"}


@pytest.mark.parametrize(
    ("operation", "partly"),
    [(FIELD, True), (UPDATE, False), (UPDATE | {"filter": {"b": 1}}, True)],
)
def test_a_walk(operation: JSON, *, partly: bool) -> None:
    """The journal says how many there are to be undone."""
    forward = burden("mongodb", operation)
    assert forward == Burden(heavy=True, targets=("a",), partly=partly, counted=True)
    back = burden("mongodb", operation, Direction.BACK)
    assert back == Burden(heavy=True, partly=True)


def test_an_index_is_built_over_the_whole_collection() -> None:
    """On one of the two ways."""
    made = {"type": "create_index", "collection": "a", "index": [["b", 1]]}
    dropped = {"type": "drop_index", "collection": "a", "index": "b_1"}
    heavy = Burden(heavy=True, targets=("a",))
    for direction in Direction:
        built = made if direction is Direction.FORWARD else dropped
        gone = dropped if direction is Direction.FORWARD else made
        assert burden("mongodb", built, direction) == heavy
        assert burden("mongodb", gone, direction) == Burden()


def test_a_reindex() -> None:
    """It goes through the source; back, through the destination."""
    assert burden("elasticsearch", COPY) == Burden(heavy=True, targets=("a",), counted=True)
    some = COPY | {"source": {"index": "a", "query": {"match_all": {}}}}
    assert burden("elasticsearch", some).partly
    (refused,) = burden("elasticsearch", COPY | {"move_aliases": ["c"]}).blocking
    assert refused.startswith("writes to a are refused")
    assert not burden(
        "elasticsearch", COPY | {"move_aliases": ["c"], "block_source": False}
    ).blocking
    back = burden("elasticsearch", COPY, Direction.BACK)
    assert back == Burden(heavy=True, targets=("b",))


def test_an_update_by_query() -> None:
    """It goes through its index; back, there is nothing to do."""
    every = {"type": "update_by_query", "index": "a"}
    assert burden("elasticsearch", every) == Burden(heavy=True, targets=("a",), counted=True)
    assert burden("elasticsearch", every | {"query": {"match_all": {}}}).partly
    assert burden("elasticsearch", every, Direction.BACK) == Burden()


def test_what_changes_no_document() -> None:
    """It is over at once, and nobody waits for it."""
    alias = {"type": "create_alias", "index": "a", "alias": "b"}
    assert burden("elasticsearch", alias) == Burden()
    assert burden("mongodb", {"type": "create_collection", "collection": "a"}) == Burden()
