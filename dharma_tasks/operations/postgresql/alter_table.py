"""ALTER TABLE: the strictest lock of its parts, and whether one goes through every row.

See https://www.postgresql.org/docs/current/sql-altertable.html: ACCESS EXCLUSIVE, unless
something else is said there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import postgast
from postgast import pg_query_pb2 as tree

from dharma_tasks.operations.postgresql.locks import RELATIONS, Effect, Lock, named

__all__ = ["alter_table"]

_WEAK = (
    *(tree.AT_SetStatistics, tree.AT_ClusterOn, tree.AT_DropCluster),
    *(tree.AT_SetOptions, tree.AT_ResetOptions, tree.AT_SetRelOptions, tree.AT_ResetRelOptions),
    *(tree.AT_ValidateConstraint, tree.AT_AttachPartition, tree.AT_DetachPartitionFinalize),
)
"""SHARE UPDATE EXCLUSIVE, which lets others read and write."""

_TRIGGERS = (
    *(tree.AT_EnableTrig, tree.AT_EnableAlwaysTrig, tree.AT_EnableReplicaTrig),
    *(tree.AT_DisableTrig, tree.AT_EnableTrigAll, tree.AT_DisableTrigAll),
    *(tree.AT_EnableTrigUser, tree.AT_DisableTrigUser),
)
_LONG = (
    *(tree.AT_AlterColumnType, tree.AT_SetNotNull, tree.AT_SetExpression),
    *(tree.AT_SetLogged, tree.AT_SetUnLogged, tree.AT_SetTableSpace, tree.AT_SetAccessMethod),
    tree.AT_ValidateConstraint,
)
"""Rewrite or read the table, save where the server finds that it need not."""

_PARTITIONS = (tree.AT_AttachPartition, tree.AT_DetachPartition, tree.AT_DetachPartitionFinalize)
_INDEXED = (tree.CONSTR_PRIMARY, tree.CONSTR_UNIQUE, tree.CONSTR_EXCLUSION)
_CHECKED = (*_INDEXED, tree.CONSTR_CHECK, tree.CONSTR_FOREIGN, tree.CONSTR_NOTNULL)
_FILLED = (*_INDEXED, tree.CONSTR_CHECK, tree.CONSTR_GENERATED, tree.CONSTR_IDENTITY)
_SERIAL = {f"{size}serial" for size in ("", "big", "small")} | {"serial2", "serial4", "serial8"}
_STABLE = {"now", "transaction_timestamp", "statement_timestamp"}
"""Functions that give each row the same, so that the row need not be written."""


def alter_table(node: Any) -> Iterator[Effect]:
    """The effects on the table, and on those that it refers to or takes in."""
    if node.objtype not in RELATIONS:
        return
    commands = [command.alter_table_cmd for command in node.cmds]
    locks = {_lock(command) for command in commands}
    strictest = next((lock for lock in Lock if lock in locks), None)
    long = any(_is_long(command) for command in commands)
    yield Effect(named(node.relation), strictest, long)
    for command in commands:
        definition = getattr(command, "def")
        for constraint in _constraints(definition):
            if constraint.contype == tree.CONSTR_FOREIGN:
                yield Effect(named(constraint.pktable), Lock.WRITES)
        if command.subtype in _PARTITIONS and not definition.partition_cmd.concurrent:
            attached = command.subtype == tree.AT_AttachPartition  # its rows must fit
            yield Effect(named(definition.partition_cmd.name), Lock.ALL, long=attached)


def _lock(command: Any) -> Lock | None:
    definition = getattr(command, "def")
    if command.subtype in _WEAK or definition.partition_cmd.concurrent:
        return None
    foreign = definition.constraint.contype == tree.CONSTR_FOREIGN
    if command.subtype in _TRIGGERS or (command.subtype == tree.AT_AddConstraint and foreign):
        return Lock.WRITES
    return Lock.ALL


def _is_long(command: Any) -> bool:
    definition = getattr(command, "def")
    if command.subtype == tree.AT_AddColumn:
        return _fills(definition.column_def)
    if command.subtype == tree.AT_AddConstraint:
        constraint = definition.constraint
        ready = constraint.skip_validation or constraint.indexname
        return constraint.contype in _CHECKED and not ready
    return command.subtype in _LONG


def _constraints(definition: Any) -> list[Any]:
    return [definition.constraint, *(each.constraint for each in definition.column_def.constraints)]


def _fills(column: Any) -> bool:
    """Whether the rows that are there get a value each, or are looked at."""
    if {name.string.sval for name in column.type_name.names} & _SERIAL:
        return True
    constraints = [each.constraint for each in column.constraints]
    return any(each.contype in _FILLED or _varies(each) for each in constraints)


def _varies(constraint: Any) -> bool:
    """Whether a default may be another one for each row. Of most functions nobody can tell."""
    if constraint.contype != tree.CONSTR_DEFAULT:
        return False
    calls = postgast.find_nodes(constraint.raw_expr, tree.FuncCall)
    return any(call.funcname[-1].string.sval not in _STABLE for call in calls)
