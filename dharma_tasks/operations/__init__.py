"""The operations, by database. Each database's folder fills in its own `catalogue`."""

from __future__ import annotations

from functools import cache
from importlib import import_module

from dharma_tasks.databases import NAMES
from dharma_tasks.operations.base import Catalogue

__all__ = ["catalogue"]


@cache
def catalogue(database: str) -> Catalogue:
    """The operations of `database`, a name in `dharma_tasks.databases.NAMES`."""
    if database not in NAMES:
        raise KeyError(database)
    found: Catalogue = import_module(f"dharma_tasks.operations.{database}").catalogue
    return found
