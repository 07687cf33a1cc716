"""The indices that hold the journal."""

from __future__ import annotations

from dataclasses import dataclass

from elasticsearch import BadRequestError, Elasticsearch, NotFoundError

from dharma_tasks.migration import JSON

_KEYWORD: JSON = {"type": "keyword"}
_LONG: JSON = {"type": "long"}
_DATE: JSON = {"type": "date"}
# Kept, never searched, of any length. JSON goes in here as text: as an object its keys would
# become fields, and one with a dot in it another structure.
_TEXT: JSON = {"type": "keyword", "index": False, "doc_values": False}

_FIELDS: dict[str, JSON] = {
    "head": {
        **dict.fromkeys(("identity", "run", "direction", "plan", "by"), _KEYWORD),
        **dict.fromkeys(("schema_version", "generation"), _LONG),
        "declaration": _TEXT,
        "updated": _DATE,
    },
    "migrations": {
        **dict.fromkeys(("version", "state", "checksum", "run", "by"), _KEYWORD),
        **dict.fromkeys(("name", "error"), _TEXT),
        **dict.fromkeys(("started", "finished", "turned"), _DATE),
        **dict.fromkeys(("era", "generation"), _LONG),
        "seconds": {"type": "double"},
    },
    "operations": {
        **dict.fromkeys(("version", "type", "state", "run", "by", "worker"), _KEYWORD),
        **dict.fromkeys(("number", "era", "fence", "generation"), _LONG),
        **dict.fromkeys(("done", "total", "attempts"), _LONG),
        **dict.fromkeys(("cursor", "undo", "walked", "owner", "error"), _TEXT),
        "updated": _DATE,
    },
    "history": {
        **dict.fromkeys(("event", "run", "version", "checksum", "by", "worker"), _KEYWORD),
        **dict.fromkeys(("number", "fence", "generation"), _LONG),
        **dict.fromkeys(("name", "error", "detail"), _TEXT),
        "seconds": {"type": "double"},
        "at": _DATE,
    },
}


@dataclass(frozen=True)
class Names:
    """The journal's indices, told apart from another project's by the namespace."""

    namespace: str

    @property
    def head(self) -> str:
        """One document: identity, run, generation."""
        return f"{self.namespace}_head"

    @property
    def migrations(self) -> str:
        """One document a migration; its id is the version."""
        return f"{self.namespace}_migrations"

    @property
    def operations(self) -> str:
        """One document an operation; its id is `version#number`."""
        return f"{self.namespace}_operations"

    @property
    def history(self) -> str:
        """The audit trail: documents are only ever added."""
        return f"{self.namespace}_history"


def make(client: Elasticsearch, names: Names) -> None:
    """Make the indices that are missing. Harmless when repeated, and when others do it too.

    Those of an earlier version of this package get the fields that have been added since.
    """
    for kind, fields in _FIELDS.items():
        index = f"{names.namespace}_{kind}"
        if not _is_there(client, index, fields):
            _create(client, index, fields)


def _is_there(client: Elasticsearch, index: str, fields: dict[str, JSON]) -> bool:
    try:
        (found,) = client.indices.get_mapping(index=index).values()
    except NotFoundError:
        return False
    known = found["mappings"]["properties"]
    missing = {name: field for name, field in fields.items() if name not in known}
    if missing:
        client.indices.put_mapping(index=index, properties=missing)
    return True


def _create(client: Elasticsearch, index: str, fields: dict[str, JSON]) -> None:
    try:
        client.indices.create(
            index=index,
            mappings={"dynamic": "strict", "properties": fields},
            settings={"number_of_shards": 1, "auto_expand_replicas": "0-1"},
        )
    except BadRequestError as error:
        if error.error != "resource_already_exists_exception":
            raise
