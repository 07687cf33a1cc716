"""The databases, each in a folder of its own, imported (with its driver) on first use."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dharma_tasks.databases.base import Database
from dharma_tasks.settings import Settings

__all__ = ["NAMES", "Database", "connect"]

NAMES = ("mongodb", "postgresql", "elasticsearch")
"""Every database that can be migrated: the folder's name, the queue's and the JSON's word."""


def connect(name: str, settings: Settings) -> Database[Any]:
    """Make the database `name` for this thread; it connects on first use.

    Raises:
        KeyError: no such database, or the settings have no URL for it.
    """
    if name not in NAMES or settings.url(name) is None:
        raise KeyError(name)
    made: Database[Any] = import_module(f"dharma_tasks.databases.{name}").database(settings)
    return made
