"""The server's own tasks: found by header, judged by their stored result.

A task's number proves nothing: after a restart of its node numbers begin again, under the same
node id, and a stored result may be another task's (FAULTS 5). What tells a task is the
X-Opaque-Id of the request that started it, which the server keeps with the task and its result.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

from elasticsearch import ApiError, Elasticsearch, NotFoundError

from dharma_tasks.databases.elasticsearch.errors import Interrupted, explain
from dharma_tasks.migration import JSON
from dharma_tasks.work import Work

_TASKS = ("indices:data/write/reindex", "indices:data/write/update/byquery")
# The searches of a task end with it; its writes might still be on their way.
_WRITES = "indices:data/write/*"
_WAIT_SECONDS = 0.8
_POLL_SECONDS = 0.1


@dataclass
class Running:
    """What goes on under one X-Opaque-Id. `ids` are whole tasks; their single writes have none."""

    ids: list[str]
    done: int = 0


def running(client: Elasticsearch, tag: str) -> dict[str, Running]:
    """List what goes on now under headers that begin with `tag`, by header.

    Raises:
        Interrupted: a node did not answer, so the list may lack something.
    """
    answer = client.tasks.list(actions=_WRITES, detailed=True)
    silent = [*answer.get("node_failures", ()), *answer.get("task_failures", ())]
    if silent:
        raise Interrupted("; ".join(explain(each) for each in silent))
    found: dict[str, Running] = {}
    for node in answer["nodes"].values():
        for number, task in node["tasks"].items():
            header = _header(task)
            if header.startswith(f"{tag}/"):
                _add(found.setdefault(header, Running([])), number, task)
    return found


def _add(to: Running, number: str, task: JSON) -> None:
    if task["action"] in _TASKS:
        to.ids.append(number)
        to.done += worked_through(task["status"])


def cancel(client: Elasticsearch, found: Running) -> None:
    """Ask the server to end tasks; they are gone when `running` lists them no more."""
    for number in found.ids:
        client.tasks.cancel(task_id=number)


def stop(work: Work[Elasticsearch]) -> bool:
    """Cancel the tasks that still run; whether there were any. Waits for a moment."""
    left = running(work.handle, work.undo["tag"])
    stopped = bool(left)
    until = time.monotonic() + _WAIT_SECONDS
    while left and time.monotonic() < until:
        work.confirm()
        for each in left.values():
            cancel(work.handle, each)
        time.sleep(_POLL_SECONDS)
        left = running(work.handle, work.undo["tag"])
    return stopped


def walked(work: Work[Elasticsearch]) -> JSON:
    """The last cursor of the way forward, on the way back."""
    return (work.walked.cursor if work.walked else None) or {}


def forget(work: Work[Elasticsearch]) -> None:
    """Delete the results of the way forward, which nobody will read any more, where they are ours.

    Newer servers may refuse it.
    """
    client, cursor = work.handle, walked(work)
    ended = {each["task"]: each["header"] for each in cursor.get("running", ())}
    ours = [task for task, header in ended.items() if result(client, task, header) is not None]
    with suppress(ApiError):
        for task in {*ours, *cursor.get("used", ())}:
            client.options(ignore_status=404).delete(index=".tasks", id=task)


def result(client: Elasticsearch, number: str, header: str) -> JSON | None:
    """Read the stored result of a task that is gone; None where there is none of this header.

    The server stores the result before it takes the task off its list, so a task that is not
    listed and has no result did not come to its end.
    """
    try:
        found: JSON = client.tasks.get(task_id=number).body
    except NotFoundError:
        return None
    return found if found["completed"] and _header(found["task"]) == header else None


def is_complete(response: JSON) -> bool:
    """Whether a result says that every document of the range was worked through."""
    if response.get("canceled") or response["timed_out"] or response["failures"]:
        return False
    return worked_through(response) == int(response["total"])


def worked_through(status: JSON) -> int:
    """How many documents a task has dealt with, in one way or another."""
    ways = ("created", "updated", "deleted", "noops", "version_conflicts")
    return sum(int(status.get(way) or 0) for way in ways)


def _header(task: JSON) -> str:
    return str(task.get("headers", {}).get("X-Opaque-Id", ""))
