"""Whether the cluster's disks have room for the destination of a reindex.

What Elasticsearch itself does when a disk gets full is decided by three watermarks. Above `low` it
places no more shards on that node, so replicas may not come back; above `flood_stage` it refuses
writes to every index that has a shard there. Where the cluster does not look at its disks
(`threshold_enabled`), only their end is in the way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from elasticsearch import ApiError, Elasticsearch

from dharma_tasks.databases.elasticsearch.errors import describe
from dharma_tasks.migration import JSON
from dharma_tasks.operations.disk_space import Room, compare, unseen
from dharma_tasks.operations.elasticsearch import ranges
from dharma_tasks.operations.elasticsearch.indices import Index
from dharma_tasks.words import several
from dharma_tasks.work import Work

_DISK = "cluster.routing.allocation.disk"
_NODES = ["nodes.*.roles", "nodes.*.fs.total"]
_HIDDEN = (401, 403, 404, 405, 410)
"""Not allowed, or not there: a service that is run by others may keep its nodes to itself."""

_MARKS = ("flood_stage", "low")
_BEYOND = 'above the watermark "low" Elasticsearch places no more shards, replicas neither'
_UNITS = {unit: 1024**power for power, unit in enumerate(("b", "kb", "mb", "gb", "tb", "pb"))}


def confirm_room(
    work: Work[Elasticsearch],
    sources: Sequence[Index],
    query: JSON | None,
    dest: Index,
    *,
    whole: bool,
) -> None:
    """Compare what the copies will need with what is free; `whole` where all fields are copied.

    Raises:
        OperationFailed: there is not enough room.
    """
    client = work.handle
    try:
        disks = _disks(client)
        room = _room(disks, _settings(client))
        size, certain = _size(client, [each.name for each in sources], query)
    except ApiError as error:
        if error.status_code not in _HIDDEN:
            raise
        work.warn(unseen(describe(error)))
        return
    if not disks:
        work.warn(unseen("the nodes do not tell it"))
        return
    replicas = min(int(dest.settings["index.number_of_replicas"]), len(disks) - 1)
    what = f"{dest.name} with {several(replicas, 'replica')}" if replicas else dest.name
    compare(room, size * (1 + replicas), what, work.warn, certain=certain and whole)


def _size(client: Elasticsearch, names: list[str], query: JSON | None) -> tuple[int, bool]:
    """Bytes that the documents to copy take in one copy, and whether that is about right.

    Without those that are deleted and not yet gone. Of what matches a query it is the part by
    number, or where counting takes too long, all.
    """
    index = ",".join(names)
    ranges.refresh(client, index)
    found = client.indices.stats(index=names, metric="store,docs")["_all"]["primaries"]
    store, docs = found["store"], found["docs"]
    stored = store.get("total_data_set_size_in_bytes", store["size_in_bytes"])
    size = stored * docs["count"] / max(1, docs["count"] + docs["deleted"])
    if query is None:
        return int(size), True
    matching = ranges.estimate(client, index, query)
    total = ranges.estimate(client, index, {"match_all": {}})
    if matching is None or total is None:
        return int(size), False
    return int(size * matching / max(1, total)), True


def _disks(client: Elasticsearch) -> list[JSON]:
    """The disks of the nodes on which an index may have its shards."""
    nodes = client.nodes.stats(metric="fs", filter_path=_NODES).get("nodes", {}).values()
    return [
        each["fs"]["total"] for each in nodes if _holds(each.get("roles", ())) and each.get("fs")
    ]


def _holds(roles: Sequence[str]) -> bool:
    """Frozen shards have their data elsewhere."""
    return any(each == "data" or each.startswith("data_") for each in {*roles} - {"data_frozen"})


def _settings(client: Elasticsearch) -> JSON:
    """How the cluster looks at its disks, without what the names have in common."""
    answer = client.cluster.get_settings(
        include_defaults=True, flat_settings=True, filter_path="*.*disk*"
    )
    sections = [answer.get(each, {}) for each in ("defaults", "persistent", "transient")]
    return {key.removeprefix(f"{_DISK}."): each[key] for each in sections for key in each}


def _room(disks: list[JSON], settings: JSON) -> Room:
    """Of all disks together: shards move from one that gets full to another."""
    free = sum(each["available_in_bytes"] for each in disks)
    if settings.get("threshold_enabled") == "false":
        return Room.of(free)
    most, easily = (
        int(sum(max(0, d["available_in_bytes"] - _kept_free(settings, mark, d)) for d in disks))
        for mark in _MARKS
    )
    return Room(free, most, min(most, easily), _BEYOND)


def _kept_free(settings: JSON, mark: str, disk: JSON) -> float:
    """How many bytes stay free below a watermark: `85%`, `0.85`, or `500mb` of free space."""
    text = settings.get(f"watermark.{mark}", "100%")
    kept = _bytes(text)
    if kept is not None:
        return kept
    used = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    left = float(disk["total_in_bytes"]) * (1 - used)
    headroom = _bytes(settings.get(f"watermark.{mark}.max_headroom", "-1"))  # 8.5 and newer
    return left if headroom is None else min(left, headroom)


def _bytes(text: str) -> float | None:
    found = re.fullmatch(r"([\d.]+)([kmgtp]?b)", text.lower())
    return float(found[1]) * _UNITS[found[2]] if found else None
