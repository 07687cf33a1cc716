"""`reindex`: copy the documents of one index into another, on the server.

This is the first pass of what DESIGN.md describes. What is added to the source meanwhile is
copied by one further pass; updates and deletes of what was copied are not followed, which is a
warning. The server's own `_reindex` copies ranges of sequence numbers, two at a time, as
tasks that go on without us. A step is short: it asks how the tasks are, takes in what has ended,
and starts what is next; its cursor says which ranges are done and which tasks run.

Elasticsearch has no transactions, so a range may run twice: when its task is gone without a
result, and when a worker died between starting a task and writing its cursor. `op_type: create`
makes that harmless: what is there already counts as a conflict and stays as it is.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated, Any, ClassVar
from uuid import uuid4

from elasticsearch import ApiError, Elasticsearch
from pydantic import BaseModel, BeforeValidator, ConfigDict

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.elasticsearch.errors import Interrupted, classify, explain, passes
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.journal import Direction, Prepared, Step, Work
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Burden, Operation
from dharma_tasks.operations.elasticsearch import server_tasks
from dharma_tasks.operations.elasticsearch.destination import (
    original,
    prepare_load,
    put_back,
    why_irreversible,
)
from dharma_tasks.operations.elasticsearch.indices import (
    find,
    name_problems,
    require,
    told,
    unchanged,
)
from dharma_tasks.operations.elasticsearch.ranges import (
    Progress,
    Range,
    count,
    cut,
    estimate,
    marks,
    matching,
    refresh,
)
from dharma_tasks.operations.elasticsearch.reindex_back import put_back_load, stop, undo
from dharma_tasks.operations.elasticsearch.server_tasks import Running

_AT_ONCE = 2
"""More tasks were not faster (DESIGN.md, "Measured on real engines")."""
_STEP_SECONDS = 0.8
_POLL_SECONDS = 0.1
_TRIES = 20
"""How often a range may be lost with its task before somebody should look at the cluster."""
_SHOWN = 10


def _index(value: object) -> object:
    return {"index": value} if isinstance(value, str) else value


class Source(BaseModel):
    """Where from: an index, or those of its documents that match a query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str
    query: JSON | None = None


class Destination(BaseModel):
    """Where to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str


class Reindex(Operation[Elasticsearch]):
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

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    # --- before the first change ---

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record both indices, the destination's settings, and what it holds.

        `tag` begins the X-Opaque-Id of every task that this operation will ever start, whoever
        owns it then. It is in the journal before the first of them, so none can be overlooked.
        """
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
            "tag": f"{work.label}/{uuid4().hex[:8]}",
            "source": source.uuid,
            "dest": dest.uuid,
            "settings": {} if held else original(dest),
            "held": held,
            "marks": marks(client, dest, "max_seq_no"),
        }
        reason = why_irreversible(dest, 0 if _was_empty(work, dest.uuid) else held)
        return Prepared(undo if reason is None else {**undo, "irreversible": reason})

    # --- each step ---

    def step(self, work: Work[Elasticsearch]) -> Step:
        """Go on for at most a second. On a lasting error, leave nothing running or turned off."""
        try:
            if work.cursor is None:
                return self._begin(work)
            return self._go_on(work, Progress.model_validate(work.cursor))
        except (OperationFailed, ApiError) as error:
            if classify(error) is Fault.LASTING:
                with suppress(Exception):  # the error itself is what the user must see
                    self.halt(work)
            raise

    def _begin(self, work: Work[Elasticsearch]) -> Step:
        now = self._marks(work)
        end = max(now.values())
        total = self._estimate(work, 0, end)
        return Step(Progress(marks=now, end=end, source=total).model_dump(), total=total)

    def _marks(self, work: Work[Elasticsearch]) -> dict[str, int]:
        source = unchanged(work.handle, self.source.index, work.undo["source"])
        found = marks(work.handle, source)
        # After the marks: then every document up to them can be found.
        refresh(work.handle, self.source.index)
        return found

    def _estimate(self, work: Work[Elasticsearch], low: int, high: int) -> int | None:
        query = matching(self.source.query, low, high)
        return estimate(work.handle, self.source.index, query)

    def _go_on(self, work: Work[Elasticsearch], progress: Progress) -> Step:
        self._forget(work.handle, progress)
        until = time.monotonic() + _STEP_SECONDS
        while True:
            running = server_tasks.running(work.handle, work.undo["tag"])
            moved = self._take_in(work, progress, running)
            if self._no_strangers(work, progress, running):
                if progress.ended:
                    return self._extend(work, progress) or self._end(work, progress)
                moved = self._start(work, progress) or moved
            if moved or time.monotonic() > until:
                return self._stepped(progress, running)
            time.sleep(_POLL_SECONDS)

    def _stepped(self, progress: Progress, running: dict[str, Running]) -> Step:
        """The step's result: `done` is what was not reported yet, so that nothing counts twice."""
        live = sum(running[each.header].done for each in progress.running if each.header in running)
        done = max(0, progress.copied + live - progress.shown)
        progress.shown += done
        return Step(progress.model_dump(), done=done)

    def _forget(self, client: Elasticsearch, progress: Progress) -> None:
        """Delete stored results that the committed cursor holds; newer servers may refuse it."""
        for task in progress.used:
            with suppress(ApiError):
                client.delete(index=".tasks", id=task)
        progress.used = []

    # --- tasks that run, and tasks that have ended ---

    def _take_in(
        self, work: Work[Elasticsearch], progress: Progress, running: dict[str, Running]
    ) -> bool:
        """Move the ranges whose tasks are gone to where they belong now."""
        ended = [each for each in progress.running if each.header not in running]
        for each in ended:
            found = server_tasks.result(work.handle, each.task, each.header)
            response = (found or {}).get("response")
            if found and not (response and server_tasks.is_complete(response)):
                self._check_failure(work, each, found)
            progress.running.remove(each)
            if response and server_tasks.is_complete(response):
                progress.copied += response["total"]
                progress.dropped += response["noops"]
                progress.used.append(each.task)
            else:
                self._once_more(work, progress, each)
        return bool(ended)

    def _check_failure(self, work: Work[Elasticsearch], failed: Range, found: JSON) -> None:
        """Raise what a task's result says went wrong; return where it was only cut short.

        A failure under a former label was reported to somebody, who may have corrected the
        cause before submitting again: the range gets its new chance.
        """
        if failed.label != work.label:
            refresh(work.handle, self.source.index)
            return
        failures = found.get("response", {}).get("failures", [])
        causes = [found["error"]] if "error" in found else [_cause(each) for each in failures]
        if not causes:
            return
        statuses = [each.get("status") for each in failures] or [None]
        texts = [_named(each) for each in failures[:_SHOWN]] or [explain(causes[0])]
        passing = all(passes(*each) for each in zip(statuses, causes, strict=True))
        if passing and failed.tries < _TRIES:
            raise Interrupted("; ".join(texts))
        what = f"{len(causes)} failures while copying to {self.dest.index}: {'; '.join(texts)}"
        todo = (
            f"Correct these documents in {self.source.index}, or the mapping of "
            f"{self.dest.index}; then submit again, which goes on from here"
        )
        raise OperationFailed(what, todo)

    def _once_more(self, work: Work[Elasticsearch], progress: Progress, lost: Range) -> None:
        if lost.tries >= _TRIES and lost.label == work.label:
            what = f"the task for _seq_no {lost.low} to {lost.high} was lost {lost.tries} times"
            todo = "Look at the logs of Elasticsearch's nodes, then submit again"
            raise OperationFailed(what, todo)
        progress.again.append(lost)

    def _no_strangers(
        self, work: Work[Elasticsearch], progress: Progress, running: dict[str, Running]
    ) -> bool:
        """Cancel tasks of ours that no cursor knows; False until they are gone (FAULTS 3).

        Their owner died, or lost its fence, between starting them and writing its cursor. What
        is left of the window: a frozen owner whose lease was confirmed just before may send its
        request even after the end; then it can add documents, but change none.
        """
        known = {each.header for each in progress.running}
        strangers = [found for header, found in running.items() if header not in known]
        if strangers:
            work.confirm()  # to a frozen owner that wakes up, its successor's are strange
        for each in strangers:
            server_tasks.cancel(work.handle, each)
        return not strangers

    def _start(self, work: Work[Elasticsearch], progress: Progress) -> bool:
        """Start tasks until two run. Returns whether any was started."""
        started = False
        while len(progress.running) < _AT_ONCE:
            one = progress.again.pop(0) if progress.again else self._cut(work, progress)
            if one is None:
                break
            progress.running.append(self._send(work, one))
            started = True
        return started

    def _cut(self, work: Work[Elasticsearch], progress: Progress) -> Range | None:
        return cut(work.handle, self.source.index, self.source.query, progress)

    def _send(self, work: Work[Elasticsearch], one: Range) -> Range:
        # Without its destination the server would make one, and guess the types.
        unchanged(work.handle, self.source.index, work.undo["source"])
        dest = unchanged(work.handle, self.dest.index, work.undo["dest"])
        header = f"{work.undo['tag']}/{one.low}-{one.high}/{uuid4().hex[:8]}"
        if work.undo["settings"]:
            work.confirm()
            prepare_load(work.handle, dest)
        work.confirm()
        answer = work.handle.options(opaque_id=header).reindex(
            source={
                "index": self.source.index,
                "query": matching(self.source.query, one.low, one.high),
            },
            dest={"index": self.dest.index, "op_type": "create"},
            conflicts="proceed",
            wait_for_completion=False,
        )
        told(work, answer)
        changes = {"header": header, "task": answer["task"], "label": work.label}
        return one.model_copy(update={**changes, "tries": one.tries + 1})

    # --- the end ---

    def _extend(self, work: Work[Elasticsearch], progress: Progress) -> Step | None:
        """Begin a further pass for what was added since, documents that were corrected included.

        Only once for each owner: a source that is always written to must not keep us for ever.
        The ranges begin at the smallest mark, as shards count apart (FAULTS 1).
        """
        if progress.extended == work.label:
            return None
        now = self._marks(work)
        if now == progress.marks:
            return None
        progress.next, progress.end = min(progress.marks.values()) + 1, max(now.values())
        progress.marks, progress.extended = now, work.label
        progress.source = self._estimate(work, 0, progress.end)
        more = self._estimate(work, progress.next, progress.end)
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
        still = self._marks(work) == progress.marks
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
        stop(work)
        if server_tasks.running(work.handle, work.undo["tag"]):
            message = f"the copying to {self.dest.index} has not ended yet"
            raise Interrupted(message)

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


def _cause(failure: JSON) -> JSON:
    """The error in a failure: a document's is its `cause`, a search's its `reason`."""
    cause = failure.get("cause") or failure.get("reason") or {}
    return cause if isinstance(cause, dict) else {"reason": str(cause)}


def _named(failure: JSON) -> str:
    name = f'document "{failure["id"]}"' if "id" in failure else "search"
    return f"{name}: {explain(_cause(failure))}"
