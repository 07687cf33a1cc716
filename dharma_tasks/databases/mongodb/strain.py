"""Why bulk work should wait: secondaries that do not keep up."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pymongo import MongoClient

_PRIMARY, _SECONDARY = 1, 2
"""States of a member; others (it is away, or recovering) are not waited for."""


def strain(client: MongoClient[dict[str, Any]], most: float) -> str | None:
    """The secondary that is furthest behind, if that is more than `most` seconds."""
    members = client.admin.command("replSetGetStatus")["members"]
    written = [each["optimeDate"] for each in members if each["state"] == _PRIMARY]
    if not written:
        return None
    lags = {each["name"]: _lag(each, max(written)) for each in members if _counts(each)}
    if max(lags.values(), default=0) <= most:
        return None
    delays = _delays(client)
    lag, name = max((lag - delays.get(name, 0), name) for name, lag in lags.items())
    if lag <= most:
        return None
    return f"the secondary {name} is {lag:.0f} s behind (DHARMA_MAX_LAG_SECONDS: {most:g})"


def _counts(member: dict[str, Any]) -> bool:
    return bool(member["state"] == _SECONDARY and member.get("health"))


def _lag(member: dict[str, Any], written: datetime) -> float:
    return float((written - member["optimeDate"]).total_seconds())


def _delays(client: MongoClient[dict[str, Any]]) -> dict[str, float]:
    """How many seconds members are meant to be behind."""
    members = client.admin.command("replSetGetConfig")["config"]["members"]
    names = ("secondaryDelaySecs", "slaveDelay")  # the latter before MongoDB 5.0
    return {each["host"]: max(each.get(name, 0) for name in names) for each in members}
