"""Which statements cannot run in a transaction, and which cannot be in a migration at all.

After the server's own checks: `PreventInTransactionBlock` in PostgreSQL's source and the
manual's pages of the commands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from postgast import pg_query_pb2 as tree

from dharma_tasks.errors import Problem
from dharma_tasks.operations.postgresql.parsing import Statement

REINDEX = "REINDEX CONCURRENTLY"
_ON = {"", "on", "true", "1"}


def problem(statement: Statement, what: str, todo: str) -> Problem:
    """A problem at the statement's line."""
    return Problem("", f"line {statement.line}", what, todo)


# --- transactions ---

BEGINS = (tree.TRANS_STMT_BEGIN, tree.TRANS_STMT_START)
_ENDS = {
    tree.TRANS_STMT_COMMIT: "COMMIT",
    tree.TRANS_STMT_ROLLBACK: "ROLLBACK",
    tree.TRANS_STMT_PREPARE: "PREPARE TRANSACTION",
    tree.TRANS_STMT_COMMIT_PREPARED: "COMMIT PREPARED",
    tree.TRANS_STMT_ROLLBACK_PREPARED: "ROLLBACK PREPARED",
}


def begins(statement: Statement) -> bool:
    """Whether it is BEGIN or START TRANSACTION."""
    return statement.kind == "transaction_stmt" and statement.node.kind in BEGINS


def ends(statement: Statement) -> str | None:
    """How it ends a transaction, if it does. Savepoints do not."""
    if statement.kind != "transaction_stmt":
        return None
    return _ENDS.get(statement.node.kind)


# --- statements that refuse to run in a transaction ---


def option(options: Any, name: str, *, default: bool = False) -> bool:
    """A Boolean option, in the ways in which PostgreSQL lets it be written."""
    for option in options:
        element = option.def_elem
        if element.defname == name:
            return _word(element.arg) in _ON
    return default


def _word(argument: Any) -> str:
    """How an option's value is written; OFF is parsed as the name of a type."""
    kind = argument.WhichOneof("node")
    if kind is None:
        return ""
    if kind == "type_name":
        return str(argument.type_name.names[-1].string.sval)
    written = {"string": "sval", "boolean": "boolval", "integer": "ival"}[kind]
    return str(getattr(getattr(argument, kind), written)).lower()


def _index(node: Any) -> str | None:
    return "CREATE INDEX CONCURRENTLY" if node.concurrent else None


def _drop(node: Any) -> str | None:
    return "DROP INDEX CONCURRENTLY" if node.concurrent else None


def _reindex(node: Any) -> str | None:
    if option(node.params, "concurrently"):
        return REINDEX
    whole = {
        tree.REINDEX_OBJECT_SCHEMA: "REINDEX SCHEMA",
        tree.REINDEX_OBJECT_DATABASE: "REINDEX DATABASE",
        tree.REINDEX_OBJECT_SYSTEM: "REINDEX SYSTEM",
    }
    return whole.get(node.kind)


def _vacuum(node: Any) -> str | None:
    return "VACUUM" if node.is_vacuumcmd else None  # else ANALYZE


def _cluster(node: Any) -> str | None:
    return None if node.HasField("relation") else "CLUSTER without a table"


def _discard(node: Any) -> str | None:
    return "DISCARD ALL" if node.target == tree.DISCARD_ALL else None


def _alter_table(node: Any) -> str | None:
    for command in node.cmds:
        definition = getattr(command.alter_table_cmd, "def")
        if definition.partition_cmd.concurrent:
            return "DETACH PARTITION CONCURRENTLY"
    return None


def _alter_database(node: Any) -> str | None:
    moves = any(option.def_elem.defname == "tablespace" for option in node.options)
    return "ALTER DATABASE SET TABLESPACE" if moves else None


def _create_subscription(node: Any) -> str | None:
    connects = option(node.options, "connect", default=True)
    slot = option(node.options, "create_slot", default=True)
    return "CREATE SUBSCRIPTION that makes a slot" if connects and slot else None


def _alter_subscription(node: Any) -> str | None:
    publications = (
        tree.ALTER_SUBSCRIPTION_SET_PUBLICATION,
        tree.ALTER_SUBSCRIPTION_ADD_PUBLICATION,
        tree.ALTER_SUBSCRIPTION_DROP_PUBLICATION,
    )
    refreshes = node.kind in publications and option(node.options, "refresh", default=True)
    if refreshes or node.kind == tree.ALTER_SUBSCRIPTION_REFRESH:
        return "ALTER SUBSCRIPTION that refreshes"
    return None


def _always(name: str) -> Callable[[Any], str | None]:
    return lambda _node: name


_OUTSIDE: dict[str, Callable[[Any], str | None]] = {
    "index_stmt": _index,
    "drop_stmt": _drop,
    "reindex_stmt": _reindex,
    "vacuum_stmt": _vacuum,
    "cluster_stmt": _cluster,
    "discard_stmt": _discard,
    "alter_table_stmt": _alter_table,
    "alter_database_stmt": _alter_database,
    "create_subscription_stmt": _create_subscription,
    "alter_subscription_stmt": _alter_subscription,
    "drop_subscription_stmt": _always("DROP SUBSCRIPTION"),
    "alter_system_stmt": _always("ALTER SYSTEM"),
    "createdb_stmt": _always("CREATE DATABASE"),
    "dropdb_stmt": _always("DROP DATABASE"),
    "create_table_space_stmt": _always("CREATE TABLESPACE"),
    "drop_table_space_stmt": _always("DROP TABLESPACE"),
}


def outside(statement: Statement) -> str | None:
    """The name of a command that cannot run in a transaction; None for all others."""
    rule = _OUTSIDE.get(statement.kind)
    return rule(statement.node) if rule else None


# --- statements that no migration may hold ---


def never(statement: Statement) -> Iterator[Problem]:
    """COPY that needs a client; two-phase commits, which outlive their session."""
    if statement.kind == "copy_stmt" and not statement.node.filename:
        if statement.node.is_from:
            what = "COPY … FROM STDIN needs data from a client, and a migration has none"
            yield problem(statement, what, "Write INSERT, or COPY from a file on the server.")
        else:
            what = "COPY … TO STDOUT sends rows to nobody"
            yield problem(statement, what, "Remove it.")
    end = ends(statement)
    if end and "PREPARE" in end:
        what = f"{end} is a transaction that outlives its session"
        yield problem(statement, what, "Leave two-phase commits to their coordinator.")


def needs_transaction(statement: Statement) -> Iterator[Problem]:
    """What a file that is one transaction must not hold."""
    name = outside(statement)
    if name == "DISCARD ALL":
        yield problem(statement, f"{name} cannot run in a transaction", CLEAN)
    elif name:
        todo = 'Put it in a migration of its own with "transactional": false in the JSON.'
        yield problem(statement, f"{name} cannot run in a transaction", todo)
    end = "BEGIN" if begins(statement) else ends(statement)
    if end and "PREPARE" not in end:
        what = f"{end} of its own: the file runs in one transaction, with its journal write"
        todo = 'Remove it, or write "transactional": false in the JSON.'
        yield problem(statement, what, todo)


CLEAN = "Remove it: each migration begins in a clean session."
