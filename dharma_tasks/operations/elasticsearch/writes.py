"""What a reindex writes by itself: documents under the number of their last change, deletions.

A document's external version in the destination is its `_seq_no` in the source and two more: an
older state never replaces a newer one, however late it arrives, and what the first pass has
written has version 1. The source's own `_version` would begin again after a delete (FAULTS 4).

It is taken all the same where the versions are the application's and are to be kept (`keeps`). Then
a document that begins again has to wait until Elasticsearch has forgotten that it was deleted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from elasticsearch import Elasticsearch
from elasticsearch.helpers import streaming_bulk

from dharma_tasks.databases.elasticsearch.errors import Interrupted, explain, passes
from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.work import Work

_BAD = 400
_CONFLICT = 409
_MISSING = 404
_BYTES = 10_000_000


@dataclass
class Outcome:
    """How many documents an ingest pipeline has dropped, and which do not fit, by id, and why."""

    dropped: int = 0
    unfit: dict[str, str] = field(default_factory=dict)


def follow(work: Work[Elasticsearch], pair: Pair, wanted: list[JSON], gone: list[JSON]) -> Outcome:
    """Write documents as they were read from the source, and delete others; a replay is harmless.

    What was dropped is deleted, so that no older state is left.
    """
    copies = [{**_versioned(each, "index", pair), "_source": each["_source"]} for each in wanted]
    return _write(work, pair, [*copies, *(_versioned(each, "delete", pair) for each in gone)])


def _write(work: Work[Elasticsearch], pair: Pair, actions: list[JSON]) -> Outcome:
    dest = pair.dest
    outcome = Outcome()
    refused: list[JSON] = []
    dropped: list[JSON] = []
    for action, result in _sent(work, dest, actions):
        if result["status"] == _CONFLICT:
            refused.append(action)
        elif result.get("result") == "noop":
            dropped.append(action)
        elif result["status"] == _BAD:
            outcome.unfit[result["_id"]] = explain(result["error"])
        else:
            _check(dest, result)
    outcome.dropped = len(dropped)
    if dropped:
        _write(
            work, pair, [{**_without(each, "_source"), "_op_type": "delete"} for each in dropped]
        )
    if refused:
        _insist(work, pair, refused)
    return outcome


def delete_as_read(work: Work[Elasticsearch], dest: str, read: list[JSON]) -> list[str]:
    """Delete documents, unless somebody changes them at this moment; returns which those were."""
    changed = []
    for _, result in _sent(work, dest, [_aimed(each, each, "delete") for each in read]):
        if result["status"] == _CONFLICT:
            changed.append(result["_id"])
        else:
            _check(dest, result)
    return changed


def _insist(work: Work[Elasticsearch], pair: Pair, refused: list[JSON]) -> None:
    """What the destination has at the same version is this one already, as after a crash.

    A higher one is no newer state: nobody else has read a later number of the source than we
    have. It comes from deletions, each of which raises it by one, or from somebody else.
    """
    dest = pair.dest
    asked: list[JSON] = [
        {key: each[key] for key in ("_id", "routing") if key in each} for each in refused
    ]
    found = work.handle.mget(index=dest, docs=asked, source=False)["docs"]
    actions = []
    for action, there in zip(refused, found, strict=True):
        if "error" in there:
            raise Interrupted(explain(there["error"]))
        if there["found"] and (pair.keeps or there["_version"] != action["version"]):
            actions.append(_aimed(action, there, "delete" if pair.keeps else action["_op_type"]))
        elif not there["found"] and action["_op_type"] == "index" and not pair.keeps:
            actions.append({**_plain(action), "_op_type": "create"})
    for _, result in _sent(work, dest, actions):
        if result["status"] == _CONFLICT:
            message = f'document "{result["_id"]}" of {dest} is written by somebody else'
            raise Interrupted(message)
        _check(dest, result)
    late = [each["_id"] for each in refused if each["_op_type"] == "index"]
    if pair.keeps and late:
        message = (
            f'document "{late[0]}" of {dest} can have its version when Elasticsearch has forgotten '
            "that it was deleted (index.gc_deletes, a minute)"
        )
        raise Interrupted(message)


def _sent(work: Work[Elasticsearch], dest: str, actions: list[JSON]) -> Iterable[tuple[JSON, JSON]]:
    if not actions:
        return []
    work.confirm()
    sent = streaming_bulk(
        work.handle,
        actions,
        index=dest,
        chunk_size=len(actions),
        max_chunk_bytes=_BYTES,
        raise_on_error=False,
    )
    results = [next(iter(item.values())) for _, item in sent]
    return zip(actions, results, strict=True)


def _check(dest: str, result: JSON) -> None:
    if "error" not in result or result["status"] == _MISSING:
        return
    message = f'document "{result["_id"]}" of {dest}: {explain(result["error"])}'
    if passes(result["status"], result["error"]):
        raise Interrupted(message)
    raise OperationFailed(message, f"Correct it, or the mapping of {dest}; then go on")


def _versioned(hit: JSON, kind: str, pair: Pair) -> JSON:
    version: JSON = {"version": hit["_seq_no"] + 2, "version_type": "external"}
    if pair.keeps:
        version = {"version": hit["_version"], "version_type": "external_gte"}
    return {"_op_type": kind, "_id": hit["_id"], **_routing(hit), **version}


def _aimed(hit: JSON, there: JSON, kind: str) -> JSON:
    """The same, for exactly the state that was read."""
    aim = {"if_seq_no": there["_seq_no"], "if_primary_term": there["_primary_term"]}
    return {**_plain(hit), "_op_type": kind, **aim}


def _plain(hit: JSON) -> JSON:
    source = {"_source": hit["_source"]} if "_source" in hit else {}
    return {"_id": hit["_id"], **_routing(hit), **source}


def _without(action: JSON, key: str) -> JSON:
    return {name: value for name, value in action.items() if name != key}


def _routing(hit: JSON) -> JSON:
    routing = hit.get("_routing", hit.get("routing"))
    return {} if routing is None else {"routing": routing}
