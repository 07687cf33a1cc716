"""`delete_index`: an index and its documents, for good."""

from __future__ import annotations

from typing import Any, ClassVar

from elasticsearch import Elasticsearch

from dharma_tasks.errors import Problem
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.elasticsearch.deletion import delete
from dharma_tasks.operations.elasticsearch.indices import (
    find,
    name_problems,
    require,
)
from dharma_tasks.work import Prepared, Step, Work


class DeleteIndex(Operation[Elasticsearch]):
    """Delete `index`. With `if_exists` a missing one is fine; else it is taken for a typo."""

    kind: ClassVar[str] = "delete_index"

    index: str
    """Which index."""
    if_exists: bool = False
    """Whether it is fine that it is not there."""

    @property
    def summary(self) -> str:
        """The index."""
        return self.index

    def problems(self) -> list[Problem]:
        """A name that is none, or a pattern."""
        return name_problems("index", self.index)

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record which index this is, and what it was."""
        look = find if self.if_exists else require
        found = look(work.handle, self.index)
        if found is None:
            return Prepared({"uuid": None}, total=1)
        definition = {"mapping": found.mapping, "settings": found.settings}
        return Prepared({"uuid": found.uuid, "definition": definition}, total=1)

    def step(self, work: Work[Elasticsearch]) -> Step:
        """Delete the recorded index, and no other that has its name by now."""
        delete(work, self.index, work.undo["uuid"])
        return Step(None, done=1, finished=True)

    def irreversible(self) -> Problem:
        """The documents are gone."""
        what = f'delete_index cannot be undone: the documents of "{self.index}" are gone with it'
        todo = (
            "Take a snapshot before, and write a NNN_name_rollback file that makes the index "
            "again; or delete it in a later version, when nobody will go back"
        )
        return Problem("", "index", what, todo)
