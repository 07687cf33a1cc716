"""A file that is not one transaction, as the parts that run one after the other.

A part is a statement that runs in a transaction with its checkpoint, or a BEGIN … COMMIT
block, or a statement that refuses transactions and whose effect can be recognised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from postgast import pg_query_pb2 as tree

from dharma_tasks.errors import Problem
from dharma_tasks.operations.postgresql import rules
from dharma_tasks.operations.postgresql.parsing import Statement, parse, tokenize

_RECOGNISED = {
    "index_stmt",
    "drop_stmt",
    "reindex_stmt",
    "vacuum_stmt",
    "cluster_stmt",
    "alter_system_stmt",
}
"""Statements outside of transactions whose effect can be seen, or that may run twice."""

_INSTEAD = {
    "DISCARD ALL": rules.CLEAN,
    "DETACH PARTITION CONCURRENTLY": "Write DETACH PARTITION without CONCURRENTLY.",
    "CREATE SUBSCRIPTION that makes a slot": "Make the slot apart: WITH (create_slot = false).",
    "ALTER SUBSCRIPTION that refreshes": "Write WITH (refresh = false), and refresh by hand.",
}
_BY_HAND = "Do it by hand, or with the tool that sets up the server."


@dataclass(frozen=True)
class Part:
    """The file's characters from `start` to `end`, and the statements in them.

    `outside` is set for a statement that refuses transactions. `modes` are those of a
    block's BEGIN: `ISOLATION LEVEL SERIALIZABLE`.
    """

    start: int
    end: int
    statements: tuple[Statement, ...]
    outside: bool = False
    modes: str = ""

    @property
    def settings(self) -> list[bytes]:
        """What it sets for the rest of the session, to be replayed on resume (FAULTS 15)."""
        return [each.text.encode() for each in self.statements if _lasts(each)]


@lru_cache(maxsize=4)
def split(sql: str) -> tuple[tuple[Part, ...], tuple[Problem, ...]]:
    """The parts of `sql`, and what may not be in such a file.

    Raises:
        NotSql: it does not parse.
    """
    parts: list[Part] = []
    problems: list[Problem] = []
    statements = iter(parse(sql))
    for statement in statements:
        problems += rules.never(statement)
        if rules.begins(statement):
            inside, end = _block(statements)
            problems += _block_problems(statement, inside, end)
            start = sql.find(";", statement.end) + 1 or statement.end
            until = end.start if end else len(sql)
            parts.append(Part(start, until, tuple(inside), modes=_modes(statement)))
        else:
            outside = rules.outside(statement) is not None
            problems += _problems(statement)
            parts.append(Part(statement.start, statement.end, (statement,), outside=outside))
    return tuple(parts), tuple(problems)


def _block(statements: Iterator[Statement]) -> tuple[list[Statement], Statement | None]:
    inside: list[Statement] = []
    for statement in statements:
        if rules.ends(statement):
            return inside, statement
        inside.append(statement)
    return inside, None


def _modes(begin: Statement) -> str:
    """What stands behind BEGIN [WORK | TRANSACTION]."""
    for token in tokenize(begin.text):
        word = begin.text[token.start : token.end].upper()
        if word not in ("BEGIN", "START", "WORK", "TRANSACTION"):
            return begin.text[token.start :]
    return ""


# --- what may not be there ---


def _problems(statement: Statement) -> Iterator[Problem]:
    """Of a statement by itself."""
    end = rules.ends(statement)
    if end and "PREPARE" not in end:
        yield rules.problem(statement, f"{end} without a BEGIN before it", "Remove it.")
    yield from _temporary(statement, in_block=False)
    name = rules.outside(statement)
    if name and statement.kind not in _RECOGNISED:
        what = f"{name} has an effect that cannot be taken up again after a crash"
        yield rules.problem(statement, what, _INSTEAD.get(name, _BY_HAND))
    elif name and statement.kind == "index_stmt" and not statement.node.idxname:
        what = "an index without a name cannot be recognised after a crash"
        yield rules.problem(statement, what, "Name it: CREATE INDEX CONCURRENTLY name ON …")
    elif name and statement.kind == "drop_stmt" and len(statement.node.objects) > 1:
        what = "DROP INDEX CONCURRENTLY takes one index at a time"
        yield rules.problem(statement, what, "Write a statement for each.")


def _block_problems(
    begin: Statement, inside: list[Statement], end: Statement | None
) -> Iterator[Problem]:
    if end is None:
        yield rules.problem(begin, "BEGIN without a COMMIT after it", "Write the COMMIT.")
    elif end.node.kind != tree.TRANS_STMT_COMMIT or end.node.chain:
        what = f"a block that ends with {end.words(3)}"
        yield rules.problem(end, what, "End it with COMMIT, or remove the block.")
    if any(option.def_elem.defname == "transaction_read_only" for option in begin.node.options):
        what = "a block with an access mode"
        yield rules.problem(begin, what, "Remove READ ONLY or READ WRITE: it has to write.")
    for statement in inside:
        yield from rules.never(statement)
        yield from _temporary(statement, in_block=True)
        if rules.begins(statement):
            yield rules.problem(statement, "BEGIN inside a block", "Remove it.")
        if name := rules.outside(statement):
            what = f"{name} cannot run in a transaction"
            yield rules.problem(statement, what, "Write it outside of BEGIN … COMMIT.")


def _temporary(statement: Statement, *, in_block: bool) -> Iterator[Problem]:
    """A temporary object would be gone when the work is taken up again in another session."""
    node = statement.node
    match statement.kind:
        case "create_stmt":
            relation, on_commit = node.relation, node.oncommit
        case "create_table_as_stmt":
            relation, on_commit = node.into.rel, node.into.on_commit
        case "select_stmt":
            relation, on_commit = node.into_clause.rel, node.into_clause.on_commit
        case "view_stmt":
            relation, on_commit = node.view, None
        case "create_seq_stmt":
            relation, on_commit = node.sequence, None
        case _:
            return
    if relation.relpersistence != "t" or (in_block and on_commit == tree.ONCOMMIT_DROP):
        return
    what = "a temporary object does not outlive a crash, and the statements after it run alone"
    todo = "Use BEGIN … COMMIT with ON COMMIT DROP, or an ordinary table that you drop."
    yield rules.problem(statement, what, todo)


# --- settings ---


def _lasts(statement: Statement) -> bool:
    """Whether the session is another one after it."""
    node = statement.node
    if statement.kind == "variable_set_stmt":
        transaction = node.kind == tree.VAR_SET_MULTI and node.name.startswith("TRANSACTION")
        return not node.is_local and not transaction
    if statement.kind == "select_stmt":
        return _sets_config(statement)
    return statement.kind in ("prepare_stmt", "deallocate_stmt", "load_stmt")


def _sets_config(statement: Statement) -> bool:
    """SELECT set_config('name', 'value', false), as pg_dump writes it."""
    if statement.node.from_clause or not statement.node.target_list:
        return False
    calls = [target.res_target.val.func_call for target in statement.node.target_list]
    return all(
        call.funcname and call.funcname[-1].string.sval == "set_config" for call in calls
    ) and not all(call.args[-1].a_const.boolval.boolval for call in calls)


def without_effect(statement: Statement) -> bool:
    """SET LOCAL and SET TRANSACTION, where the transaction is over at once."""
    if statement.kind != "variable_set_stmt":
        return False
    name, kind = statement.node.name, statement.node.kind
    return bool(statement.node.is_local) or (
        kind == tree.VAR_SET_MULTI and name.startswith("TRANSACTION")
    )
