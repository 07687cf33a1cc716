"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil

from dharma_tasks.local import LocalEngines

_PACKAGES = (
    *("celery", "redis", "pymongo", "psycopg", "elasticsearch"),
    *("alembic", "SQLAlchemy", "yoyo-migrations"),
)


def described() -> Iterator[str]:
    """The machine and the programs, a line each."""
    yield f"{os.cpu_count()} cores ({_processor()}), {_memory():.0f} GiB of memory"
    yield f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    yield ", ".join(f"{name} {metadata.version(name)}" for name in _PACKAGES)


def versions(engines: LocalEngines) -> dict[str, str]:
    """The servers that run, and their versions."""
    return {each.name: each.version for each in engines.status() if each.version}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory() -> float:
    return psutil.virtual_memory().total / 2**30
