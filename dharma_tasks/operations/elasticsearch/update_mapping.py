"""`update_mapping`: new fields, and those parameters of fields that may change."""

from __future__ import annotations

from typing import Any, ClassVar

from elasticsearch import BadRequestError, Elasticsearch

from dharma_tasks.databases.elasticsearch.errors import Interrupted, describe
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.elasticsearch.definitions import mapping_problems
from dharma_tasks.operations.elasticsearch.indices import (
    name_problems,
    require,
    told,
    unchanged,
)
from dharma_tasks.work import Prepared, Step, Work

_IN_PLACE = "cannot be changed from type"
_NEW_INDEX = (
    "A field's type cannot be changed in place: create an index with the new mapping, "
    "reindex into it, and move the alias"
)


class UpdateMapping(Operation[Elasticsearch]):
    """Merge `mapping` (`{"properties": …}`) into that of `index`. Repeating it changes nothing."""

    kind: ClassVar[str] = "update_mapping"

    index: str
    """Which index."""
    mapping: JSON
    """What comes to its fields: `{"properties": {…}}`."""

    @property
    def summary(self) -> str:
        """The index and the new fields."""
        return f"{self.index}({', '.join(self.mapping.get('properties', self.mapping))})"

    def problems(self) -> list[Problem]:
        """A name that is none, and fields outside of `properties`."""
        return name_problems("index", self.index) + mapping_problems(self.mapping)

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record which index this is, and its mapping before."""
        found = require(work.handle, self.index)
        return Prepared({"uuid": found.uuid, "mapping": found.mapping}, total=1)

    def step(self, work: Work[Elasticsearch]) -> Step:
        """Send the mapping; the server merges it, all of it or nothing."""
        unchanged(work.handle, self.index, work.undo["uuid"])
        work.confirm()
        try:
            answer = work.handle.indices.put_mapping(index=self.index, body=self.mapping)
        except BadRequestError as error:
            message = describe(error)
            todo = _NEW_INDEX if _IN_PLACE in message.lower() else "Correct the mapping in the file"
            raise OperationFailed(message, todo) from error
        told(work, answer)
        if not answer["acknowledged"]:
            message = f'the new mapping of "{self.index}" is not everywhere yet'
            raise Interrupted(message)
        unchanged(work.handle, self.index, work.undo["uuid"])
        return Step(None, done=1, finished=True)

    def irreversible(self) -> Problem:
        """Elasticsearch takes no field away."""
        what = f'update_mapping cannot be undone: fields cannot be taken away from "{self.index}"'
        todo = (
            "Write a NNN_name_rollback file that creates an index with the former mapping, "
            "reindexes into it and moves the alias; fields that are not used do no harm"
        )
        return Problem("", "mapping", what, todo)
