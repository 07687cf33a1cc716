"""Dharma Tasks: migrations for MongoDB, PostgreSQL and Elasticsearch, carried out by Celery.

`celery -A dharma_tasks worker` finds the Celery application here, as `app`; programs find
`DatabaseMigrationManager` and what it takes, returns and raises. Each is imported on first use,
so that the command line starts without Celery, and a program without any database's driver.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dharma_tasks.celery_app import app
    from dharma_tasks.database_managers import (
        ElasticsearchManager,
        MongoDBManager,
        PostgreSQLManager,
    )
    from dharma_tasks.errors import DharmaError, Refused, RunCancelled, RunFailed, Unreachable
    from dharma_tasks.limits import Limits, Window
    from dharma_tasks.manager import DatabaseMigrationManager
    from dharma_tasks.results import RunProgress, RunResult
    from dharma_tasks.run import RunState
    from dharma_tasks.status import Status

__all__ = [
    "DatabaseMigrationManager",
    "DharmaError",
    "ElasticsearchManager",
    "Limits",
    "MongoDBManager",
    "PostgreSQLManager",
    "Refused",
    "RunCancelled",
    "RunFailed",
    "RunProgress",
    "RunResult",
    "RunState",
    "Status",
    "Unreachable",
    "Window",
    "app",
]

_NAMES = {
    "celery_app": ("app",),
    "database_managers": ("ElasticsearchManager", "MongoDBManager", "PostgreSQLManager"),
    "errors": ("DharmaError", "Refused", "RunCancelled", "RunFailed", "Unreachable"),
    "limits": ("Limits", "Window"),
    "manager": ("DatabaseMigrationManager",),
    "results": ("RunProgress", "RunResult"),
    "run": ("RunState",),
    "status": ("Status",),
}
"""By module what it has for others."""
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
