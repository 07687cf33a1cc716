"""What the server does in ranges of `_seq_no`: tasks that go on without us, two at a time.

A step is short: it asks how the tasks are, takes in what has ended, and starts what is next; its
cursor says which ranges are done and which tasks run.

Elasticsearch has no transactions, so a range may run twice: when its task is gone without a
result, and when a worker died between starting a task and writing its cursor. Each operation
says why that is harmless.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from contextlib import suppress
from math import inf
from typing import Any
from uuid import uuid4

from elastic_transport import ApiResponse
from elasticsearch import ApiError, Elasticsearch
from pydantic import BaseModel, ConfigDict, Field

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.elasticsearch.errors import Interrupted, classify, explain, passes
from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import server_tasks
from dharma_tasks.operations.elasticsearch.indices import told
from dharma_tasks.operations.elasticsearch.ranges import (
    Progress,
    Range,
    cut,
    estimate,
    matching,
    refresh,
)
from dharma_tasks.operations.elasticsearch.server_tasks import Running
from dharma_tasks.operations.paced import Parallel, Throttled
from dharma_tasks.work import Step, Work

_RANGE_SECONDS = 20
"""How long a range may take where the rate is held down: it is what a lost task costs."""
_STEP_SECONDS = 0.8
_POLL_SECONDS = 0.1
_TRIES = 20
"""How often a range may be lost with its task before somebody should look at the cluster."""
_SHOWN = 10


class Source(BaseModel):
    """Where from: an index, those of its documents that match a query, some of their fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str
    """Its name, an alias or a pattern."""
    query: JSON | None = None
    """Which documents; without it all."""
    fields: list[str] | None = Field(default=None, alias="_source", min_length=1)
    """Which fields of them; without it all."""


class ServerBatch(BaseModel):
    """How many documents the server itself reads and writes at once, within a range."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max: int = Field(default=1_000, ge=1, le=10_000)
    """How many documents at once. Fewer where they are large."""


class InRanges(Throttled[Elasticsearch]):
    """Goes through an index. `prepare` records its UUID as `source`, and a `tag`: see `tag`.

    The server keeps the rate itself: a task that goes on without us is never far ahead of it.
    """

    batch: ServerBatch = ServerBatch()
    """How many documents the server reads and writes at once."""
    parallel: Parallel = 2
    """How many tasks run at once. On one node more were not faster."""

    @abstractmethod
    def origin(self, work: Work[Elasticsearch]) -> Source:
        """What is gone through, by the names of its indices."""

    @abstractmethod
    def begin(self, work: Work[Elasticsearch]) -> Step:
        """Note how far the index is, and how much there is to do."""

    @abstractmethod
    def send(self, work: Work[Elasticsearch], one: Range, header: str) -> ApiResponse[Any]:
        """Confirm the lease, and start a task for a range under this X-Opaque-Id."""

    @abstractmethod
    def end(self, work: Work[Elasticsearch], progress: Progress) -> Step:
        """Every range is done and no task is left: check it, and go on where that is needed."""

    @property
    @abstractmethod
    def advice(self) -> tuple[str, str]:
        """What fails where documents fail, and what to do then."""

    def leaves(self, progress: Progress, failed: Range, response: JSON) -> bool:  # noqa: ARG002
        """Whether a range in which documents failed is dealt with later. By default it is not."""
        return False

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def step(self, work: Work[Elasticsearch]) -> Step:
        """Go on for at most a second. On a lasting error, leave nothing running or turned off."""
        try:
            if work.cursor is None:
                return self.begin(work)
            return self._go_on(work, Progress.model_validate(work.cursor))
        except (OperationFailed, ApiError) as error:
            if classify(error) is Fault.LASTING:
                with suppress(Exception):  # the error itself is what the user must see
                    self.halt(work)
            raise

    def estimate(self, work: Work[Elasticsearch], low: int, high: int) -> int | None:
        """How many documents there are in a range; None where counting takes too long."""
        origin = self.origin(work)
        return estimate(work.handle, origin.index, matching(origin.query, low, high))

    def _go_on(self, work: Work[Elasticsearch], progress: Progress) -> Step:
        self.forget(work.handle, progress)
        until = time.monotonic() + _STEP_SECONDS
        while True:
            running = server_tasks.running(work.handle, work.undo["tag"])
            moved = self._take_in(work, progress, running)
            if self._no_strangers(work, progress, running):
                if progress.ended:
                    return self.end(work, progress)
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

    def forget(self, client: Elasticsearch, progress: Progress) -> None:
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
            if found and self.leaves(progress, each, response or {}):
                progress.running.remove(each)
                progress.used.append(each.task)
                continue
            if found and not (response and server_tasks.is_complete(response)):
                self._check_failure(work, each, found)
            progress.running.remove(each)
            if response and server_tasks.is_complete(response):
                progress.copied += response["total"]
                progress.dropped += response["noops"]
                progress.conflicts += response["version_conflicts"]
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
            refresh(work.handle, self.origin(work).index)
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
        doing, todo = self.advice
        what = f"{len(causes)} failures while {doing}: {'; '.join(texts)}"
        raise OperationFailed(what, f"{todo}; then submit again, which goes on from here")

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
        request even after the end (docs/reliability.md).
        """
        known = {each.header for each in progress.running}
        strangers = [found for header, found in running.items() if header not in known]
        if strangers:
            work.confirm()  # to a frozen owner that wakes up, its successor's are strange
        for each in strangers:
            server_tasks.cancel(work.handle, each)
        return not strangers

    def _start(self, work: Work[Elasticsearch], progress: Progress) -> bool:
        """Start tasks until enough run. Returns whether any was started."""
        started = False
        # A rate is kept by one task; two would each have to know of the other's end.
        while len(progress.running) < (self.parallel if work.rate is None else 1):
            one = progress.again.pop(0) if progress.again else self._cut(work, progress)
            if one is None:
                break
            progress.running.append(self._send(work, one))
            started = True
        return started

    def _cut(self, work: Work[Elasticsearch], progress: Progress) -> Range | None:
        most = inf if work.rate is None else max(1, work.rate * _RANGE_SECONDS)
        origin = self.origin(work)
        return cut(
            work.handle, origin.index, origin.query, progress, most=most, at_once=self.parallel
        )

    def at_once(self, work: Work[Elasticsearch]) -> int:
        """Documents in one of the server's own batches: after each it waits for its time."""
        return int(max(1, min(self.batch.max, work.rate or inf)))

    def _send(self, work: Work[Elasticsearch], one: Range) -> Range:
        header = f"{work.undo['tag']}/{one.low}-{one.high}/{uuid4().hex[:8]}"
        answer = self.send(work, one, header)
        told(work, answer)
        changes = {"header": header, "task": answer["task"], "label": work.label}
        return one.model_copy(update={**changes, "tries": one.tries + 1})

    def halt(self, work: Work[Elasticsearch]) -> None:
        """Cancel the server's tasks; their ranges are done again by whoever goes on.

        Raises:
            Interrupted: one is still there.
        """
        server_tasks.stop(work)
        if server_tasks.running(work.handle, work.undo["tag"]):
            message = f"{self.advice[0]} has not ended yet"
            raise Interrupted(message)


def tag(work: Work[Elasticsearch]) -> str:
    """What begins the X-Opaque-Id of each task of this operation, whoever will own it then.

    It is in the journal before the first of them, so that none can be overlooked.
    """
    return f"{work.label}/{uuid4().hex[:8]}"


def _cause(failure: JSON) -> JSON:
    """The error in a failure: a document's is its `cause`, a search's its `reason`."""
    cause = failure.get("cause") or failure.get("reason") or {}
    return cause if isinstance(cause, dict) else {"reason": str(cause)}


def _named(failure: JSON) -> str:
    name = f'document "{failure["id"]}"' if "id" in failure else "search"
    return f"{name}: {explain(_cause(failure))}"
