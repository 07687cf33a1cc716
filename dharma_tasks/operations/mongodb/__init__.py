"""The operations of MongoDB, one file an operation."""

from __future__ import annotations

from typing import Any

from dharma_tasks.errors import Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Catalogue, Operation
from dharma_tasks.operations.mongodb.add_field import AddField
from dharma_tasks.operations.mongodb.create_collection import CreateCollection
from dharma_tasks.operations.mongodb.create_index import CreateIndex
from dharma_tasks.operations.mongodb.drop_collection import DropCollection
from dharma_tasks.operations.mongodb.drop_index import DropIndex
from dharma_tasks.operations.mongodb.insert_documents import InsertDocuments
from dharma_tasks.operations.mongodb.modify_collection import ModifyCollection
from dharma_tasks.operations.mongodb.remove_field import RemoveField
from dharma_tasks.operations.mongodb.rename_field import RenameField
from dharma_tasks.operations.mongodb.update_documents import UpdateDocuments

__all__ = ["catalogue"]

_ALL: tuple[type[Operation[Any]], ...] = (
    CreateCollection,
    ModifyCollection,
    DropCollection,
    CreateIndex,
    DropIndex,
    InsertDocuments,
    AddField,
    RemoveField,
    RenameField,
    UpdateDocuments,
)


def _read(content: JSON, _beside: bytes) -> tuple[list[JSON], list[Problem]]:
    return content["operations"], []


catalogue = Catalogue(
    database="mongodb",
    operations={operation.kind: operation for operation in _ALL},
    keys=frozenset({"operations"}),
    read=_read,
    backup='mongodump --uri="$DHARMA_MONGODB_URL" --gzip --archive=before.gz',
)
