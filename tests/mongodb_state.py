"""All that a test sees of a database of MongoDB: to compare it before and after, byte by byte."""

from __future__ import annotations

from typing import Any

from bson import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

_RAW: Any = CodecOptions(document_class=RawBSONDocument)


def state(documents: Database[Any]) -> dict[str, Any]:
    """Options, indexes and documents of each collection, but for the journal's."""
    return {
        listed["name"]: (
            listed["options"],
            [] if listed["type"] == "view" else indexes(documents, listed["name"]),
            [] if listed["type"] != "collection" else raw(documents, listed["name"]),
        )
        for listed in documents.list_collections()
        if not listed["name"].startswith((documents.name, "system."))
    }


def indexes(documents: Database[Any], name: str) -> list[str]:
    """The whole definitions; `repr` tells 1 from 1.0, and one order of keys from another."""
    return sorted(repr(sorted(each.items())) for each in documents[name].list_indexes())


def raw(documents: Database[Any], name: str) -> list[bytes]:
    """Every document's bytes."""
    found = documents.get_collection(name, codec_options=_RAW).find().sort("_id", 1)
    return [bytes(each.raw) for each in found]


def kept(documents: Database[Any]) -> int:
    """How many documents are kept for the way back."""
    return documents[f"{documents.name}_undo"].count_documents({})
