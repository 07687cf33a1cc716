"""Dharma Tasks: migrations for MongoDB, PostgreSQL and Elasticsearch, carried out by Celery.

`celery -A dharma_tasks worker` finds the Celery application here, as `app`. It is imported
on first use, so that the command line starts without Celery.
"""

from __future__ import annotations

from typing import Any

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    if name == "app":
        from dharma_tasks.celery_app import app  # noqa: PLC0415 - see above

        return app
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)
