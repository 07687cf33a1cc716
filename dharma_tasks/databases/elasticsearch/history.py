"""The audit trail: documents are only ever added, each of them once.

The ids are made from what is told, so that telling it again, after a crash in between, adds
nothing.
"""

from __future__ import annotations

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch.documents import create, now
from dharma_tasks.journal import Amendment, Declaration, Entry
from dharma_tasks.migration import JSON
from dharma_tasks.records import HistoryRecord, MigrationState

_KEPT = (
    *("run", "version", "number", "fence", "generation", "by", "worker", "error", "detail"),
    *("name", "checksum", "seconds"),
)
_NAMING = ("run", "version", "number", "fence")
_WORDS = {"begin": "run", "take": "taken"}
"""In the words that every journal has for it."""
_ENDS = {MigrationState.APPLIED, MigrationState.FAILED, MigrationState.ROLLED_BACK}


class History:
    """The index of the history."""

    def __init__(self, client: Elasticsearch, index: str) -> None:
        """Remember where it is."""
        self._client = client
        self._index = index

    def tell(self, event: str, source: JSON) -> None:
        """Tell what has happened to an operation (its document is `source`), or to a run."""
        told = {name: source[name] for name in _KEPT if source.get(name) is not None}
        key = ":".join(str(told.get(name, "")) for name in _NAMING)
        at = source.get("updated") or now()
        create(self._client, self._index, f"{key}:{event}", {**told, "event": event, "at": at})

    def audit(self, entry: Entry) -> None:
        """Tell what a person did."""
        told = {
            "event": entry.event,
            "run": entry.run,
            "by": entry.by,
            "version": entry.key.version,
            "number": entry.key.number,
            "detail": entry.detail,
            "at": now(),
        }
        create(self._client, self._index, entry.id, told)

    def declared(self, declaration: Declaration, amendment: Amendment) -> None:
        """Tell what a person has declared of a migration."""
        said = {
            "run": declaration.run,
            "by": declaration.by,
            "version": amendment.version,
            "name": amendment.name,
            "checksum": amendment.checksum,
            "detail": declaration.reason,
        }
        self.tell(declaration.event, said)

    def last(self, limit: int) -> list[HistoryRecord]:
        """Return the last `limit` entries, oldest first; none where nobody has made the index.

        A refresh goes before, because searches see refreshed writes only.
        """
        if not self._client.indices.exists(index=self._index):
            return []
        self._client.indices.refresh(index=self._index)
        # An operation and the migration that it ends have the same time: `applied`, `failed` and
        # `rolled_back` are after `done` and `undone`, and in the alphabet not all are.
        newest_first = [{"at": "desc"}, {"event": "asc"}]
        found = self._client.search(index=self._index, sort=newest_first, size=limit)
        records = [_record(hit["_source"]) for hit in found["hits"]["hits"]]
        return sorted(records, key=lambda told: (told.at, told.event in _ENDS))


def _record(source: JSON) -> HistoryRecord:
    fields = {name: source.get(name) for name in HistoryRecord.model_fields}
    event = _WORDS.get(source["event"], source["event"])
    fields["event"] = event
    if event == "run" or (event in _ENDS and not fields["error"]):  # about no one operation
        fields["number"] = None
    if event != "taken":
        fields["worker"] = None
    return HistoryRecord.model_validate(fields)
