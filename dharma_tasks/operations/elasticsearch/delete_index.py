"""`delete_index`: an index and its documents, for good."""

from __future__ import annotations

from typing import Any, ClassVar

from elasticsearch import Elasticsearch, NotFoundError

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.errors import Problem
from dharma_tasks.journal import Prepared, Step, Work
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.elasticsearch.indices import find, name_problems, require, told


class DeleteIndex(Operation[Elasticsearch]):
    """Delete `index`. With `if_exists` a missing one is fine; else it is taken for a typo."""

    kind: ClassVar[str] = "delete_index"

    index: str
    if_exists: bool = False

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
        """Delete the recorded index, and no other that has its name by now (FAULTS 11).

        Elasticsearch deletes by name only. So its UUID is compared just before, and what is left
        of the window is the time between the two requests: an index that somebody else deletes
        and creates again within it would be deleted (docs/reliability.md).
        """
        if self._is_there(work):
            work.confirm()
            self._delete(work)
            if self._is_there(work):
                message = f'index "{self.index}" is not deleted yet'
                raise Interrupted(message)
        return Step(None, done=1, finished=True)

    def _is_there(self, work: Work[Elasticsearch]) -> bool:
        found = find(work.handle, self.index)
        if found is not None and found.uuid != work.undo["uuid"]:
            work.warn(f'index "{self.index}" was created anew by somebody else; it is left alone')
            return False
        return found is not None

    def _delete(self, work: Work[Elasticsearch]) -> None:
        try:
            told(work, work.handle.indices.delete(index=self.index))
        except NotFoundError:
            return  # somebody was faster
