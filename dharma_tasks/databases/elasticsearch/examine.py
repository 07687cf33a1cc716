"""What `dharma doctor` looks at in Elasticsearch. Nothing here depends on `GET /`."""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from elasticsearch import ApiError, Elasticsearch

from dharma_tasks.findings import Finding, problem, warning

_OLDEST, _NEWEST = (7, 17), (8,)
_CLUSTER = ("monitor", "manage_index_templates", "cluster:admin/tasks/cancel")
"""To see how it is; to have a mapping read by the server; to end tasks of a reindex."""
_INDEX = ("read", "write", "manage")
_TODO = 'Give its role the cluster privilege "manage", and "read", "write" and "manage" on {}.'


def examine(client: Elasticsearch, journal: str) -> Iterator[Finding]:
    """Look at the cluster; `journal` is the pattern of the journal's indices."""
    health = client.cluster.health()
    nodes = client.nodes.info(filter_path="nodes.*.version,nodes.*.name")["nodes"].values()
    names = ", ".join(sorted(node["name"] for node in nodes))
    where = f"the cluster {health['cluster_name']}, nodes: {names}"
    yield Finding(check="connection", what=where)
    yield _version(sorted({str(node["version"]) for node in nodes}))
    yield _health(health["status"])
    yield from _permission(client, journal)


def _version(found: list[str]) -> Finding:
    shown = " and ".join(found)
    numbers = [tuple(int(part) for part in each.split(".")[:2]) for each in found]
    if min(numbers) < _OLDEST or max(numbers)[:1] > _NEWEST:
        return warning("version", f"{shown}: 7.17 and 8 are promised", "Use one of these.")
    return Finding(check="version", what=shown)


def _health(status: str) -> Finding:
    if status == "red":
        what = "red: not all data is there, and bulk work waits"
        return problem("health", what, "See GET _cluster/allocation/explain.")
    return Finding(check="health", what=status)


def _permission(client: Elasticsearch, journal: str) -> Iterator[Finding]:
    names = {journal: "all", "*": "every index"}
    index = [{"names": [name], "privileges": list(_INDEX)} for name in names]
    try:
        # Not by the driver's own method: it refuses privileges that are names of actions.
        answer: Any = client.perform_request(
            "POST",
            "/_security/user/_has_privileges",
            headers={"accept": "application/json", "content-type": "application/json"},
            body={"cluster": list(_CLUSTER), "index": index},
        )
    except ApiError as error:
        if error.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise
        yield Finding(check="permission", what="everything: this cluster asks for no login")
        return
    yield from permission(answer, journal)


def permission(answer: dict[str, Any], journal: str) -> Iterator[Finding]:
    """What the user of `_has_privileges` lacks; `journal` is the pattern of the journal's."""
    user = answer["username"]
    cluster = _lacks(answer["cluster"])
    own, every = (_lacks(answer["index"][pattern]) for pattern in (journal, "*"))
    if cluster or own:
        what = [*cluster, *(f"{each} on {journal}" for each in own)]
        yield problem("permission", f"{user} lacks {', '.join(what)}", _TODO.format(journal))
    elif every:
        yield warning(
            "permission",
            f"{user} lacks {', '.join(every)} on indices that it is not named for",
            _TODO.format("the indices that are migrated"),
        )
    else:
        yield Finding(check="permission", what=f"{user} may do what migrations do in every index")


def _lacks(held: dict[str, bool]) -> list[str]:
    return [name for name, has in held.items() if not has]
