"""`update_by_query`: write documents again as they are, so that they follow the mapping of now.

A field that a mapping has got later is found only in documents that were written after that. The
server's own `_update_by_query`, without a script, writes the others again, shard by shard in
ranges of sequence numbers (`in_ranges.py`). What is written gets a number above its shard's mark
of the start, so no range finds it a second time: each document is written once, however often a
range runs. What the application writes meanwhile is above the marks too, and follows the mapping
already.
"""

from __future__ import annotations

from typing import Any, ClassVar

from elastic_transport import ApiResponse
from elasticsearch import Elasticsearch

from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Burden
from dharma_tasks.operations.elasticsearch import server_tasks
from dharma_tasks.operations.elasticsearch.in_ranges import InRanges, Source, tag
from dharma_tasks.operations.elasticsearch.indices import (
    Index,
    name_problems,
    require,
    unchanged,
)
from dharma_tasks.operations.elasticsearch.ranges import (
    Progress,
    Range,
    count,
    marks,
    matching,
    on,
    refresh,
)
from dharma_tasks.records import Direction
from dharma_tasks.work import Prepared, Step, Work


class UpdateByQuery(InRanges):
    """Write the documents of `index`, or those that match `query`, again as they are."""

    kind: ClassVar[str] = "update_by_query"

    index: str
    """Which index."""
    query: JSON | None = None
    """Which documents; without it all."""

    @property
    def summary(self) -> str:
        """The index."""
        return self.index

    def problems(self) -> list[Problem]:
        """A name that is none, or a pattern."""
        return name_problems("index", self.index)

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record which index this is; it must keep its documents whole."""
        found = require(work.handle, self.index)
        _check_source(found)
        undo: JSON = {"tag": tag(work), "source": found.uuid}
        if found.settings.get("index.final_pipeline", "_none") != "_none":
            reason = f"the final ingest pipeline of {self.index} changes its documents"
            undo["irreversible"] = reason
        return Prepared(undo)

    # --- each step ---

    def origin(self, work: Work[Elasticsearch]) -> Source:  # noqa: ARG002
        """The index itself."""
        return Source(index=self.index, query=self.query)

    @property
    def advice(self) -> tuple[str, str]:
        """Documents that do not fit into the mapping of now."""
        return f"updating {self.index}", f"Correct these documents, or the mapping of {self.index}"

    def begin(self, work: Work[Elasticsearch]) -> Step:
        """Note how far each shard is: the largest number that was given to any write so far."""
        found = unchanged(work.handle, self.index, work.undo["source"])
        now = marks(work.handle, found, "max_seq_no")
        refresh(work.handle, self.index)  # after the marks
        total = self.estimate(work, 0, max(now.values()))
        progress = Progress(marks=now, shards=sorted(now), end=-1, source=total)
        return Step(progress.model_dump(), total=total)

    def send(self, work: Work[Elasticsearch], one: Range, header: str) -> ApiResponse[Any]:
        """Write a range again. A late one finds nothing: its documents have other numbers."""
        unchanged(work.handle, self.index, work.undo["source"])
        refresh(work.handle, self.index)  # what a lost task has written is not found again
        work.confirm()
        return work.handle.options(opaque_id=header).update_by_query(
            index=self.index,
            query=matching(self.query, one.low, one.high),
            preference=on(one.shard),
            pipeline="_none",  # the index's default pipeline is for what is new
            conflicts="proceed",
            scroll_size=self.at_once(work),
            requests_per_second=work.rate,
            wait_for_completion=False,
        )

    def end(self, work: Work[Elasticsearch], progress: Progress) -> Step:
        """Finish where no document is below the marks any more; else begin a further pass.

        One that was on its way at the start may have been found by no range.
        """
        unchanged(work.handle, self.index, work.undo["source"])
        refresh(work.handle, self.index)
        left = sum(self._below(work, shard, mark) for shard, mark in progress.marks.items())
        if left and progress.extended == work.label:
            what = f"{left} documents of {self.index} are still not updated, after two passes"
            raise OperationFailed(what, "Look at the logs of Elasticsearch's nodes; submit again")
        if left:
            progress.shards, progress.extended = sorted(progress.marks), work.label
            return Step(progress.model_dump())
        self.forget(work.handle, progress)
        if progress.conflicts:
            work.warn(
                f"{progress.conflicts} documents of {self.index} were written by somebody else at "
                "the same moment, and are left so: they follow the mapping already"
            )
        return self._finished(progress)

    def _below(self, work: Work[Elasticsearch], shard: str, mark: int) -> int:
        return count(work.handle, self.index, matching(self.query, 0, mark), shard)

    def _finished(self, progress: Progress) -> Step:
        """All there was is done, by lost tasks and by the application too."""
        left = max(0, max(progress.copied, progress.source or 0) - progress.shown)
        progress.shown += left
        return Step(progress.model_dump(), done=left, finished=True)

    def burden(self, direction: Direction) -> Burden:
        """It writes every document that matches again; back, there is nothing to do."""
        if direction is Direction.BACK:
            return Burden()
        partly = self.query is not None
        return Burden(heavy=True, targets=(self.index,), partly=partly, counted=True)

    # --- the way back ---

    def irreversible(self) -> None:
        """The documents are as they were, unless a pipeline has changed them: see `prepare`."""

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def undo(self, work: Work[Elasticsearch]) -> Step:
        """End what still runs. Nothing else is to do: no document has changed."""
        if work.undo and server_tasks.stop(work):
            return Step(None)
        server_tasks.forget(work)
        return Step(None, finished=True)


def _check_source(index: Index) -> None:
    """Refuse to write again from less than was written: the rest would not be found any more."""
    source = index.mapping.get("_source", {})
    if source.get("enabled") is False or source.get("includes") or source.get("excludes"):
        what = (
            f"{index.name} does not keep its documents whole (_source), so they cannot be updated"
        )
        raise OperationFailed(what, "Create a new index, and fill it from where they come from")
