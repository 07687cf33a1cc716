"""`create_index`: a new index with its mapping and settings."""

from __future__ import annotations

from typing import Any, ClassVar

from elasticsearch import BadRequestError, Elasticsearch
from pydantic import Field

from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.journal import Prepared, Step, Work
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.elasticsearch.definitions import differences, mapping_problems
from dharma_tasks.operations.elasticsearch.indices import Index, find, name_problems, require, told


class CreateIndex(Operation[Elasticsearch]):
    """Create `index` with `mapping` (`{"properties": …}`) and `settings`.

    An equal index that is there already is accepted with a warning; a different one is refused.
    """

    kind: ClassVar[str] = "create_index"

    index: str
    mapping: JSON = Field(default_factory=dict)
    settings: JSON = Field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The index."""
        return self.index

    def problems(self) -> list[Problem]:
        """A name that is none, and fields outside of `properties`."""
        return name_problems("index", self.index) + mapping_problems(self.mapping)

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record whether the index is there already: then undoing this must not delete it."""
        found = find(work.handle, self.index)
        if found is None:
            return Prepared({"existed": False}, total=1)
        # Before us, so it must be just what is asked for.
        self._accept(work, found, exactly=True)
        return Prepared({"existed": True, "uuid": found.uuid}, total=1)

    def step(self, work: Work[Elasticsearch]) -> Step:
        """Create the index, unless it is there: before a crash this may have been done."""
        found = find(work.handle, self.index)
        if found is None:
            found = self._create(work)
        else:
            # If it is our own of before a crash, it may be in use and have got fields since.
            self._accept(work, found, exactly=work.undo["existed"])
            if work.undo["existed"]:
                work.warn(f'index "{self.index}" is there already, and equal; nothing was done')
        return Step(None, done=1, finished=True)

    def _create(self, work: Work[Elasticsearch]) -> Index:
        work.confirm()
        try:
            answer = work.handle.indices.create(
                index=self.index, mappings=self.mapping, settings=self.settings
            )
        except BadRequestError as error:
            if error.error != "resource_already_exists_exception":
                raise
            found = require(work.handle, self.index)
            self._accept(work, found, exactly=False)
            return found
        told(work, answer)
        return require(work.handle, self.index)

    def _accept(self, work: Work[Elasticsearch], found: Index, *, exactly: bool) -> None:
        wrong = differences(work.handle, self.mapping, self.settings, found, exactly=exactly)
        if wrong:
            what = f'index "{self.index}" is there already, and different: {"; ".join(wrong)}'
            todo = "Make the file say what is there, or delete the index, or choose another name"
            raise OperationFailed(what, todo)
