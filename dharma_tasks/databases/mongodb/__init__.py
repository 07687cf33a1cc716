"""MongoDB: one session for the work and the journal, so that both are one transaction."""

from __future__ import annotations

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.databases.mongodb.database import MongodbDatabase
from dharma_tasks.settings import Settings

__all__ = ["Document", "Handle", "MongodbDatabase", "database"]


def database(settings: Settings) -> MongodbDatabase:
    """Make the database for this thread; it connects on first use."""
    return MongodbDatabase(settings)
