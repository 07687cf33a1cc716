"""The operations of Elasticsearch, one file each."""

from __future__ import annotations

from dharma_tasks.errors import Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Catalogue
from dharma_tasks.operations.elasticsearch.create_alias import CreateAlias
from dharma_tasks.operations.elasticsearch.create_index import CreateIndex
from dharma_tasks.operations.elasticsearch.delete_alias import DeleteAlias
from dharma_tasks.operations.elasticsearch.delete_index import DeleteIndex
from dharma_tasks.operations.elasticsearch.reindex import Reindex
from dharma_tasks.operations.elasticsearch.update_by_query import UpdateByQuery
from dharma_tasks.operations.elasticsearch.update_mapping import UpdateMapping
from dharma_tasks.operations.elasticsearch.update_settings import UpdateSettings

__all__ = ["catalogue"]

_OPERATIONS = (
    *(CreateIndex, DeleteIndex, UpdateMapping, UpdateSettings),
    *(CreateAlias, DeleteAlias, Reindex, UpdateByQuery),
)


def _read(migration: JSON, _beside: bytes) -> tuple[list[JSON], list[Problem]]:
    """The operations stand in the JSON itself; the loader has checked that they are a list."""
    return list(migration.get("operations", [])), []


catalogue = Catalogue(
    database="elasticsearch",
    operations={operation.kind: operation for operation in _OPERATIONS},
    keys=frozenset({"operations"}),
    read=_read,
    backup='curl -X PUT "$DHARMA_ELASTICSEARCH_URL/_snapshot/REPOSITORY/before"',
)
