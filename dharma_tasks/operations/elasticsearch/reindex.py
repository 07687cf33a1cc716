"""`reindex`: copy the documents of one index into another, on the server.

This is the first pass of what DESIGN.md describes. What is added to the source meanwhile is
copied by one further pass; updates and deletes of what was copied are not followed, which is a
warning. The server's own `_reindex` copies ranges of sequence numbers, two at a time, as
tasks that go on without us (`in_ranges.py`). A range may run twice; `op_type: create` makes that
harmless: what is there already counts as a conflict and stays as it is.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from elastic_transport import ApiResponse
from elasticsearch import Elasticsearch
from pydantic import BaseModel, BeforeValidator, ConfigDict

from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.operations.base import Burden
from dharma_tasks.operations.elasticsearch.destination import (
    original,
    prepare_load,
    put_back,
    why_irreversible,
)
from dharma_tasks.operations.elasticsearch.in_ranges import InRanges, Source, tag
from dharma_tasks.operations.elasticsearch.indices import (
    find,
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
    refresh,
)
from dharma_tasks.operations.elasticsearch.reindex_back import put_back_load, undo
from dharma_tasks.records import Direction
from dharma_tasks.work import Prepared, Step, Work


def _index(value: object) -> object:
    return {"index": value} if isinstance(value, str) else value


class Destination(BaseModel):
    """Where to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str


class Reindex(InRanges):
    """Copy `source` (a name or `{index, query}`) into `dest` (a name or `{index}`).

    `dest` must exist, made by `create_index`; documents that it held before are never touched.
    """

    kind: ClassVar[str] = "reindex"

    source: Annotated[Source, BeforeValidator(_index)]
    dest: Annotated[Destination, BeforeValidator(_index)]

    @property
    def summary(self) -> str:
        """Both indices."""
        return f"{self.source.index} -> {self.dest.index}"

    def problems(self) -> list[Problem]:
        """Names that are none, and an index that would be copied into itself."""
        found = name_problems("source", self.source.index) + name_problems("dest", self.dest.index)
        if self.source.index == self.dest.index:
            todo = "Create a new index with create_index and copy into that"
            found.append(Problem("", "dest", "source and dest are the same index", todo))
        return found

    # --- before the first change ---

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record both indices, the destination's settings, and what it holds."""
        client = work.handle
        source = require(client, self.source.index)
        dest = find(client, self.dest.index)
        if dest is None:
            what = f'there is no index "{self.dest.index}" to copy into'
            todo = "Put a create_index with its mapping before this; else every type is a guess"
            raise OperationFailed(what, todo)
        refresh(client, dest.name)
        held = count(client, dest.name)
        undo = {
            "tag": tag(work),
            "source": source.uuid,
            "dest": dest.uuid,
            "settings": {} if held else original(dest),
            "held": held,
            "marks": marks(client, dest, "max_seq_no"),
        }
        reason = why_irreversible(dest, 0 if _was_empty(work, dest.uuid) else held)
        return Prepared(undo if reason is None else {**undo, "irreversible": reason})

    # --- each step ---

    @property
    def origin(self) -> Source:
        """The source."""
        return self.source

    @property
    def advice(self) -> tuple[str, str]:
        """Documents that do not fit into the destination."""
        todo = (
            f"Correct these documents in {self.source.index}, or the mapping of {self.dest.index}"
        )
        return f"copying to {self.dest.index}", todo

    def begin(self, work: Work[Elasticsearch]) -> Step:
        """Note how far the source is, all shards together."""
        now = self.marks(work)
        end = max(now.values())
        total = self.estimate(work, 0, end)
        return Step(Progress(marks=now, end=end, source=total).model_dump(), total=total)

    def send(self, work: Work[Elasticsearch], one: Range, header: str) -> ApiResponse[Any]:
        """Copy what is not there yet. A late one can add documents, but change none."""
        # Without its destination the server would make one, and guess the types.
        unchanged(work.handle, self.source.index, work.undo["source"])
        dest = unchanged(work.handle, self.dest.index, work.undo["dest"])
        if work.undo["settings"]:
            work.confirm()
            prepare_load(work.handle, dest)
        work.confirm()
        return work.handle.options(opaque_id=header).reindex(
            source={
                "index": self.source.index,
                "query": matching(self.source.query, one.low, one.high),
                "size": self.at_once(work),
            },
            dest={"index": self.dest.index, "op_type": "create"},
            conflicts="proceed",
            requests_per_second=work.rate,
            wait_for_completion=False,
        )

    # --- the end ---

    def end(self, work: Work[Elasticsearch], progress: Progress) -> Step:
        """Begin a further pass where there is more by now, or finish."""
        return self._extend(work, progress) or self._end(work, progress)

    def _extend(self, work: Work[Elasticsearch], progress: Progress) -> Step | None:
        """Begin a further pass for what was added since, documents that were corrected included.

        Only once for each owner: a source that is always written to must not keep us for ever.
        The ranges begin at the smallest mark, as shards count apart (FAULTS 1).
        """
        if progress.extended == work.label:
            return None
        now = self.marks(work)
        if now == progress.marks:
            return None
        progress.next, progress.end = min(progress.marks.values()) + 1, max(now.values())
        progress.marks, progress.extended = now, work.label
        progress.source = self.estimate(work, 0, progress.end)
        more = self.estimate(work, progress.next, progress.end)
        return Step(progress.model_dump(), total=None if more is None else progress.copied + more)

    def _end(self, work: Work[Elasticsearch], progress: Progress) -> Step:
        """Every range is done and no task is left: put the settings back, and count."""
        dest = unchanged(work.handle, self.dest.index, work.undo["dest"])
        progress.written = marks(work.handle, dest, "max_seq_no")
        work.confirm()
        put_back(work.handle, self.dest.index, work.undo["settings"])
        refresh(work.handle, self.dest.index)
        self._verify(work, progress)
        left = max(0, progress.copied - progress.shown)
        progress.shown += left
        return Step(progress.model_dump(), done=left, finished=True)

    def _verify(self, work: Work[Elasticsearch], progress: Progress) -> None:
        """Compare the counts; where the source was written to meanwhile they prove nothing."""
        still = self.marks(work) == progress.marks
        there = count(work.handle, self.dest.index)
        expected = progress.copied if progress.source is None else progress.source
        unread = expected != progress.copied and progress.extended is None
        held = work.undo["held"]
        missing = expected - progress.dropped - (there - held)
        if progress.extended or not still:
            work.warn(
                f"{self.source.index} was written to while it was copied: updates and deletes of "
                f"copied documents are not in {self.dest.index}, nor are the last additions"
            )
        if still and (unread or (missing > 0 and not held)):
            what = (
                f"{self.source.index} has {expected} documents to copy, of which "
                f"{progress.copied} were read; {self.dest.index} has {there}"
            )
            todo = f"See whether somebody deletes from {self.dest.index}; then submit again"
            raise OperationFailed(what, todo)
        if still and missing > 0:
            work.warn(
                f"{self.dest.index} held {held} documents before; {missing} of "
                f"{self.source.index} have the id of one of these and were not copied"
            )

    def halt(self, work: Work[Elasticsearch]) -> None:
        """Cancel the server's tasks, wait until they are gone, and put the settings back.

        Their ranges are copied again, and the settings turned off again, by whoever goes on.

        Raises:
            Interrupted: one is still there.
        """
        put_back_load(work, self.dest.index)
        super().halt(work)

    # --- the way back ---

    def irreversible(self) -> None:
        """It depends on what the destination is: see `prepare`."""

    def burden(self, direction: Direction) -> Burden:
        """It copies every document that matches; back, it goes through all of the destination."""
        if direction is Direction.BACK:
            return Burden(heavy=True, targets=(self.dest.index,))
        partly = self.source.query is not None
        return Burden(heavy=True, targets=(self.source.index,), partly=partly, counted=True)

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def undo(self, work: Work[Elasticsearch]) -> Step:
        """Make what was copied gone, where the application has not changed it since."""
        return undo(work, self.source.index, self.source.query, self.dest.index)


def _was_empty(work: Work[Elasticsearch], dest: str) -> bool:
    """Whether the destination was made by this migration, or empty when that first copied to it.

    Then what is in it comes from this migration, or from the application since.
    """
    return any(
        each.cursor == {"made": dest}
        or (each.undo.get("dest") == dest and "irreversible" not in each.undo)
        for each in work.earlier()
    )
