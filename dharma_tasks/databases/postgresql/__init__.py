"""PostgreSQL: one connection for the work and the journal, so that both are one transaction."""

from __future__ import annotations

from dharma_tasks.databases.postgresql.database import PostgresqlDatabase
from dharma_tasks.settings import Settings

__all__ = ["PostgresqlDatabase", "database"]


def database(settings: Settings) -> PostgresqlDatabase:
    """Make the database for this thread; it connects on first use."""
    return PostgresqlDatabase(settings)
