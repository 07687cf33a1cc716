"""The audit trail as it is read: in the words that every journal has for it."""

from __future__ import annotations

from elasticsearch import Elasticsearch

from dharma_tasks.journal import HistoryRecord, MigrationState
from dharma_tasks.migration import JSON

_WORDS = {"begin": "run", "take": "taken"}
_ENDS = {MigrationState.APPLIED, MigrationState.ROLLED_BACK}


def read(client: Elasticsearch, index: str, limit: int) -> list[HistoryRecord]:
    """Return the last `limit` entries, oldest first; none where nobody has made the index.

    A refresh goes before, because searches see refreshed writes only.
    """
    if not client.indices.exists(index=index):
        return []
    client.indices.refresh(index=index)
    # An operation and the migration that it ends have the same time: `applied` and `rolled_back`
    # are after `done` and `undone`, and in the alphabet before them.
    newest_first = [{"at": "desc"}, {"event": "asc"}]
    hits = client.search(index=index, sort=newest_first, size=limit)["hits"]["hits"]
    found = [_record(hit["_source"]) for hit in hits]
    return sorted(found, key=lambda told: (told.at, told.event in _ENDS))


def _record(source: JSON) -> HistoryRecord:
    fields = {name: source.get(name) for name in HistoryRecord.model_fields}
    event = _WORDS.get(source["event"], source["event"])
    fields["event"] = event
    if event == "run" or (event in _ENDS and not fields["error"]):  # about no one operation
        fields["number"] = None
    if event != "taken":
        fields["worker"] = None
    return HistoryRecord.model_validate(fields)
