"""Elasticsearch, as one worker thread sees it. Nothing here depends on `GET /`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, ClassVar

from elasticsearch import BadRequestError, Elasticsearch, NotFoundError

from dharma_tasks.databases.base import Database, Fault
from dharma_tasks.databases.elasticsearch import errors
from dharma_tasks.databases.elasticsearch.client import connect
from dharma_tasks.databases.elasticsearch.examine import examine
from dharma_tasks.databases.elasticsearch.journal import ElasticsearchJournal
from dharma_tasks.databases.elasticsearch.strain import Strain
from dharma_tasks.findings import Finding
from dharma_tasks.migration import JSON
from dharma_tasks.records import Owner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount

__all__ = ["ElasticsearchDatabase", "database"]

_PART_OF_LEASE = 0.6
"""How much of a lease one request may take: see `watched`."""


class ElasticsearchDatabase(Database[Elasticsearch]):
    """One HTTP client and the journal behind it. The client connects on first use."""

    name: ClassVar[str] = "elasticsearch"

    def __init__(self, settings: Settings) -> None:
        """Remember where the server is.

        Raises:
            KeyError: the settings have no URL for Elasticsearch.
            Refused: the URL cannot be read.
        """
        if settings.url(self.name) is None:
            raise KeyError(self.name)
        self._client = connect(settings, settings.lease_seconds * _PART_OF_LEASE)
        self._namespace = settings.namespace
        self._strain = Strain(self._client)
        self._journal = ElasticsearchJournal(self._client, settings.namespace)

    @property
    def journal(self) -> ElasticsearchJournal:
        """The journal in this cluster."""
        return self._journal

    @property
    def handle(self) -> Elasticsearch:
        """The driver's client."""
        return self._client

    def whereabouts(self) -> str:
        """By the cluster's own id, and the process that is its master: nodes agree on both."""
        wanted = ["cluster_name", "cluster_uuid", "master_node", "nodes.*.ephemeral_id"]
        found = self._client.cluster.state(metric=["master_node", "nodes"], filter_path=wanted)
        cluster = f"{found['cluster_name']} ({found['cluster_uuid']})"
        return f"{cluster}, master process {found['nodes'][found['master_node']]['ephemeral_id']}"

    def resources(self) -> JSON:
        """Return nothing: what goes on without us is found by the operation itself.

        Only `reindex` starts tasks that outlive a worker. They carry an X-Opaque-Id whose first
        part was journalled with the operation's undo data before the first of them was started,
        so every owner, also one of a later run, finds them in each of its steps.
        """
        return {}

    def free(self, owner: Owner) -> None:
        """Do nothing: HTTP leaves neither session nor lock behind; see `resources`.

        A reindex task of the former owner is good work that goes on; the next step adopts it,
        or cancels it and waits until it is gone.
        """

    def count(self, names: Sequence[str]) -> dict[str, int | None]:
        """As searches see them. None for an index that is closed, or of which a part is away."""
        found: dict[str, int | None] = {}
        for name in names:
            with suppress(NotFoundError):
                found[name] = self._count(name)
        return found

    def _count(self, name: str) -> int | None:
        try:
            answer = self._client.count(index=name)
        except BadRequestError:
            return None
        return None if answer["_shards"]["failed"] else answer["count"]

    def strain(self, warn: Callable[[str], None]) -> str | None:  # noqa: ARG002
        """A red cluster, or writes that were refused."""
        return self._strain.look()

    def examine(self) -> list[Finding]:
        """The cluster, and what the user may do in it."""
        return list(examine(self._client, f"{self._namespace}_*"))

    def classify(self, error: BaseException) -> Fault:
        """Say what an exception of the driver means. Unknown ones are lasting."""
        return errors.classify(error)

    def describe(self, error: BaseException) -> str:
        """The server's own message, whole, with its status and type."""
        return errors.describe(error)

    def watched(
        self,
        alive: Callable[[Amount | None], None],  # noqa: ARG002
    ) -> AbstractContextManager[Any]:
        """Watch nothing: no request lasts as long as a lease.

        Each one fails after a part of `lease_seconds`, and what takes longer runs as a task on
        the server (`wait_for_completion=false`), which short steps ask for its progress.
        """
        return nullcontext()

    def recover(self) -> None:
        """Do nothing: a request is complete in itself, and the driver drops broken sockets."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def database(settings: Settings) -> ElasticsearchDatabase:
    """Make the database for this thread; it connects on first use."""
    return ElasticsearchDatabase(settings)
