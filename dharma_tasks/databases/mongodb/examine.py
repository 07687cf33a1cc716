"""What `dharma doctor` looks at in MongoDB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pymongo import MongoClient

from dharma_tasks.findings import Finding, problem, warning

_OLDEST = (5, 0)
_NEEDED = {
    *("find", "insert", "update", "remove", "listCollections", "listIndexes", "createCollection"),
    *("createIndex", "dropCollection", "dropIndex", "collMod"),
}
"""On the database; the roles `readWrite` and `dbAdmin` have them."""
_SEEN = {"replSetGetStatus", "replSetGetConfig", "inprog"}
"""On the cluster, to see how it is and how far an index build is; `clusterMonitor` has them."""

_Client = MongoClient[dict[str, Any]]


def examine(client: _Client, name: str) -> Iterator[Finding]:
    """Look at the servers behind `client`, and at what may be done in the database `name`."""
    hello = client.admin.command("hello")
    client[name].list_collection_names()  # fails where a login is asked for and none was given
    host, port = client.address or ("?", 0)
    yield Finding(check="connection", what=f"the database {name} at {host}:{port}")
    yield _version(client.server_info()["version"])
    yield _replica_set(hello)
    yield from _permission(client, name)


def _version(found: str) -> Finding:
    if tuple(int(part) for part in found.split(".")[:2]) < _OLDEST:
        return warning("version", f"{found} is older than what is promised", "Upgrade to 5.0.")
    return Finding(check="version", what=found)


def _replica_set(hello: dict[str, Any]) -> Finding:
    if hello.get("msg") == "isdbgrid":
        return Finding(check="replica set", what="a sharded cluster, which has transactions")
    if "setName" in hello:
        members = len(hello.get("hosts", ()))
        return Finding(check="replica set", what=f"{hello['setName']}, members: {members}")
    return warning(
        "replica set",
        "none, so there are no transactions: updates that may not be repeated are refused, and "
        "before-images too",
        "Start mongod with --replSet rs0 and call rs.initiate(), a single one too.",
    )


def _permission(client: _Client, name: str) -> Iterator[Finding]:
    login = client.admin.command({"connectionStatus": 1, "showPrivileges": True})["authInfo"]
    if not login["authenticatedUsers"]:
        yield Finding(check="permission", what="everything: this server asks for no login")
        return
    (who, *_) = login["authenticatedUsers"]
    yield from permission(f"{who['user']}@{who['db']}", login["authenticatedUserPrivileges"], name)


def permission(user: str, privileges: list[dict[str, Any]], name: str) -> Iterator[Finding]:
    """What these privileges, as `connectionStatus` shows them, lack in the database `name`."""
    held = _actions(privileges, db=name)
    if lacks := sorted(_NEEDED - held):
        yield problem(
            "permission",
            f"{user} may not {', '.join(lacks)} in {name}",
            f'Grant it "readWrite" and "dbAdmin" on {name}.',
        )
    else:
        yield Finding(check="permission", what=f"{user} may do what migrations do in {name}")
    if lacks := sorted(_SEEN - _actions(privileges, cluster=True)):
        yield warning(
            "monitoring",
            f"{user} may not {', '.join(lacks)}: bulk work waits for no secondary that lags, and "
            "an index build does not show how far it is",
            'Grant it "clusterMonitor" on admin.',
        )


def _actions(privileges: list[dict[str, Any]], **resource: Any) -> set[str]:
    """What is allowed on the whole database, or on the cluster."""
    return {
        action
        for each in privileges
        if _covers(each["resource"], resource)
        for action in each["actions"]
    }


def _covers(granted: dict[str, Any], wanted: dict[str, Any]) -> bool:
    if granted.get("anyResource"):
        return True
    if "db" in wanted:
        return granted.get("db") in ("", wanted["db"]) and granted.get("collection") == ""
    return bool(granted.get("cluster"))
