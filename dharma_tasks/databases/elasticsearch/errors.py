"""What Elasticsearch's errors mean, and how they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from elasticsearch import ApiError, ConnectionTimeout, TransportError
from elasticsearch import ConnectionError as NotConnected

from dharma_tasks.certificates import Trust
from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import DharmaError
from dharma_tasks.migration import JSON

PASSING_STATUS = frozenset({408, 429, 502, 503, 504})
"""Too many requests, no master, a shard without its primary, a proxy without its server."""

PASSING_TYPES = frozenset(
    {
        "circuit_breaking_exception",
        "connect_transport_exception",
        "es_rejected_execution_exception",
        "master_not_discovered_exception",
        "no_shard_available_action_exception",
        "node_closed_exception",
        "node_disconnected_exception",
        "node_not_connected_exception",
        "process_cluster_event_timeout_exception",
        "receive_timeout_transport_exception",
        "search_context_missing_exception",
        "task_cancelled_exception",
        "unavailable_shards_exception",
    }
)
"""For errors without a status (a task's result), and for those that come as a plain 500."""

_TRUST = Trust(
    setting="DHARMA_ELASTICSEARCH_URL",
    authority="DHARMA_ELASTICSEARCH_CA_CERTS=FILE, or DHARMA_ELASTICSEARCH_FINGERPRINT",
    client="DHARMA_ELASTICSEARCH_CLIENT_CERT=FILE and DHARMA_ELASTICSEARCH_CLIENT_KEY=FILE",
)


class Interrupted(Exception):
    """The server has not done, or not finished, what was asked; asking again may help."""


def classify(error: BaseException) -> Fault:
    """Say what an exception means (Law 10). Unknown ones are lasting."""
    if isinstance(error, Interrupted):
        return Fault.PASSING
    # With TLS too: a server that is killed, or whose certificate is renewed, comes back.
    if isinstance(error, (NotConnected, ConnectionTimeout)):
        return Fault.PASSING
    if isinstance(error, ApiError) and passes(error.status_code, _body(error)):
        return Fault.PASSING
    return Fault.LASTING


def passes(status: int | None, cause: JSON) -> bool:
    """Whether an answer of this status, or an error with this cause, is worth a retry."""
    if status in PASSING_STATUS or _has_no_shards(cause):
        return True
    return any(each in PASSING_TYPES for each, _ in _chain(cause))


def _has_no_shards(cause: JSON) -> bool:
    """Whether a search found no copy of a shard to ask, as right after a start of the server.

    A search that was refused lists the shards that refused it, with their reasons.
    """
    return cause.get("type") == "search_phase_execution_exception" and not (
        cause.get("failed_shards") or cause.get("caused_by")
    )


def describe(error: BaseException) -> str:
    """The server's own message, whole, with its status and type."""
    if isinstance(error, (DharmaError, Interrupted)):
        return str(error)
    if isinstance(error, ApiError):
        told = explain(_body(error)) or str(error.message)
        return f"{error.status_code} {told}"
    if isinstance(error, TransportError):
        causes = [str(each) for each in error.errors]
        return _TRUST.explained(": ".join([type(error).__name__, error.message, *causes]))
    return f"{type(error).__name__}: {error}"


def explain(cause: JSON) -> str:
    """An error as Elasticsearch writes it into answers and results, in one line."""
    seen: list[str] = []
    for kind, reason in _chain(cause):
        text = f"{kind}: {reason}" if kind else reason
        if text and text not in seen:
            seen.append(text)
    return "; caused by: ".join(seen)


def _body(error: ApiError) -> JSON:
    body = error.body if isinstance(error.body, dict) else {}
    cause = body.get("error", {})
    return cause if isinstance(cause, dict) else {"type": "", "reason": str(cause)}


def _chain(cause: JSON) -> Iterator[tuple[str, str]]:
    """The error, its root causes, and what caused each, as (type, reason)."""
    pending: list[Any] = [cause]
    while pending:
        each = pending.pop(0)
        if not isinstance(each, dict):
            continue
        if "type" in each or "reason" in each:
            yield str(each.get("type") or ""), " ".join(str(each.get("reason") or "").split())
        pending += [each.get("caused_by"), *each.get("root_cause", ())]
        pending += [shard.get("reason") for shard in each.get("failed_shards", ())]
