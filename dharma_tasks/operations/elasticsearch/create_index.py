"""`create_index`: a new index with its mapping and settings."""

from __future__ import annotations

from typing import Any, ClassVar

from elasticsearch import ApiError, BadRequestError, Elasticsearch
from pydantic import Field

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.elasticsearch.definitions import differences, mapping_problems
from dharma_tasks.operations.elasticsearch.deletion import delete
from dharma_tasks.operations.elasticsearch.indices import (
    Index,
    find,
    name_problems,
    recorded,
    require,
    told,
)
from dharma_tasks.operations.elasticsearch.ranges import count, refresh
from dharma_tasks.work import Prepared, Step, Work


class CreateIndex(Operation[Elasticsearch]):
    """Create `index` with `mapping` (`{"properties": …}`) and `settings`.

    An equal index that is there already is accepted with a warning; a different one is refused.
    """

    kind: ClassVar[str] = "create_index"

    index: str
    """Its name."""
    mapping: JSON = Field(default_factory=dict)
    """Its fields: `{"properties": {…}}`."""
    settings: JSON = Field(default_factory=dict)
    """Its settings: `{"number_of_replicas": 1}`. Those that are not named do not count."""

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
        """Create the index, unless it is there: before a crash this may have been done.

        The last cursor says which index it is, and whether it is certainly ours: one that we
        find after a crash might be somebody else's, made at the same moment.
        """
        found = find(work.handle, self.index)
        made = self._create(work) if found is None else None
        if found is not None:
            # If it is our own of before a crash, it may be in use and have got fields since.
            self._accept(work, found, exactly=work.undo["existed"])
            if work.undo["existed"]:
                work.warn(f'index "{self.index}" is there already, and equal; nothing was done')
        return Step({"made": made}, done=1, finished=True)

    def _create(self, work: Work[Elasticsearch]) -> str | None:
        """Create the index and return its UUID; None where somebody else was faster."""
        work.confirm()
        try:
            answer = work.handle.indices.create(
                index=self.index, mappings=self.mapping, settings=self.settings
            )
        except BadRequestError as error:
            if error.error != "resource_already_exists_exception":
                raise
            self._accept(work, require(work.handle, self.index), exactly=False)
            return None
        told(work, answer)
        return require(work.handle, self.index).uuid

    def _accept(self, work: Work[Elasticsearch], found: Index, *, exactly: bool) -> None:
        wrong = differences(work.handle, self.mapping, self.settings, found, exactly=exactly)
        if wrong:
            what = f'index "{self.index}" is there already, and different: {"; ".join(wrong)}'
            todo = "Make the file say what is there, or delete the index, or choose another name"
            raise OperationFailed(what, todo)

    def irreversible(self) -> None:
        """What was created can be deleted."""

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def undo(self, work: Work[Elasticsearch]) -> Step:
        """Delete the index, if it was created here. What was written into it is lost with it."""
        walked = work.walked.cursor if work.walked else None
        made = walked["made"] if walked else None
        if made is None and work.undo.get("existed") is False:
            made = self._probably_made(work)
        found = recorded(work.handle, self.index, made) if made else None
        if found is not None:
            there = _documents(work.handle, self.index)
            if there != 0:
                lost = "documents" if there is None else f"{there} documents"
                work.warn(f'index "{self.index}" is deleted, and the {lost} in it are lost')
        if made is not None:
            delete(work, self.index, made)
        return Step(None, done=1, finished=True)

    def _probably_made(self, work: Work[Elasticsearch]) -> str | None:
        """Find what a crash has left between the effect and its checkpoint.

        It was not there before, it is what was asked for, and it is empty: then nothing is lost
        even where somebody else made it. With documents in it, it is left for a person to judge.
        """
        try:
            found = find(work.handle, self.index)
        except OperationFailed:
            return None  # an alias has the name by now
        if found is None:
            return None
        wrong = differences(work.handle, self.mapping, self.settings, found, exactly=False)
        if not wrong and _documents(work.handle, self.index) == 0:
            return found.uuid
        work.warn(
            f'index "{self.index}" is left: it was not there before, but whether it was made '
            "here or by somebody else is not known, and it is in use. Delete it if it is not needed"
        )
        return None


def _documents(client: Elasticsearch, index: str) -> int | None:
    """How many documents there are; None where they cannot be counted, as in a closed index."""
    try:
        refresh(client, index)
        return count(client, index)
    except (ApiError, Interrupted):
        return None
