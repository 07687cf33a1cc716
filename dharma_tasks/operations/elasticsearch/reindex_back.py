"""The way back of `reindex`: stop what still copies, delete what was copied, page by page.

A step does one of these. A task that is found at any time, sent by an owner that was frozen, is
cancelled; it may have written behind the walk, which then begins anew.
"""

from __future__ import annotations

from elasticsearch import Elasticsearch

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import alias_move, server_tasks, write_block
from dharma_tasks.operations.elasticsearch.copied import Back, begin, delete_page
from dharma_tasks.operations.elasticsearch.destination import (
    is_loading,
    put_back,
    why_irreversible,
)
from dharma_tasks.operations.elasticsearch.indices import Index, recorded
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.operations.elasticsearch.ranges import count, refresh
from dharma_tasks.work import Step, Work

_LATE: JSON = {"late": True}
"""The cursor after tasks were ended: the walk has not begun."""


def undo(work: Work[Elasticsearch], pair: Pair) -> Step:
    """Undo one batch of what was copied."""
    dest = pair.dest
    if work.cursor in (None, _LATE):
        write_block.take_off(work)
        alias_move.move_back(work, pair)
    if server_tasks.stop(work):
        return Step(_LATE)
    there = recorded(work.handle, dest, pair.uuid)
    if there is None:
        work.warn(f"{dest} is gone, or another index by now; nothing is deleted from it")
        server_tasks.forget(work)
        return Step(None, finished=True)
    if work.cursor in (None, _LATE):
        return _begin(work, pair.source, there)
    back = Back.model_validate(work.cursor)
    if back.shard is None:
        return _end(work, pair.source, there, back)
    written = {} if back.late else server_tasks.walked(work).get("written") or {}
    done = delete_page(work, pair, written, back)
    return Step(back.model_dump(), done=done)


def put_back_load(work: Work[Elasticsearch], dest: str) -> None:
    """Put the destination's own settings back, where those of the load are still there."""
    there = recorded(work.handle, dest, work.undo["dest"])
    if there is not None and is_loading(there):
        work.confirm()
        put_back(work.handle, dest, work.undo["settings"])


def _begin(work: Work[Elasticsearch], source: str, dest: Index) -> Step:
    before = work.undo.get("marks")
    if before is None and work.undo["held"]:  # begun by an earlier version of this package
        what = f"{why_irreversible(dest, work.undo['held'])}, and which is not known"
        raise OperationFailed(what, "Write a NNN_name_rollback file")
    back = begin(work.handle, source, dest, before or {})
    back.late = work.cursor == _LATE
    return Step(back.model_dump(), total=count(work.handle, dest.name))


def _end(work: Work[Elasticsearch], source: str, dest: Index, back: Back) -> Step:
    put_back_load(work, dest.name)
    refresh(work.handle, dest.name)
    server_tasks.forget(work)
    if back.left:
        more = ", ..." if back.left > len(back.named) else ""
        work.warn(
            f"{back.left} documents in {dest.name} have been changed since they were copied, "
            f"there or in {source}, and are left: {', '.join(back.named)}{more}"
        )
    return Step(None, finished=True)
