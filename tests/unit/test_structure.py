"""Who may import what: the rules of CONTRIBUTING.md, read from the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import dharma_tasks

PACKAGE = Path(dharma_tasks.__file__).parent

CELERY = {"celery_app.py", "tasks.py", "dispatch.py", "relay.py", "bootsteps.py", "transport.py"}
REDIS = {
    "redis_client.py",
    "lease.py",
    "runs.py",
    "runs_at_work.py",
    "workers.py",
    "replies.py",
    # They are given a client, and hand it on; or they live with its being away.
    *{"control.py", "context.py", "rescue.py", "submit.py", "bootsteps.py"},
    *{"conduct.py", "inline.py", "range_control.py"},
    *{"doctor.py", "redis_examine.py"},
    *{"reading.py", "trail.py", "status.py", "report.py", "transport.py"},
    *{"standing.py", "sight.py"},
}
DRIVERS = {"pymongo": "mongodb", "bson": "mongodb", "psycopg": "postgresql",
           "postgast": "postgresql", "elasticsearch": "elasticsearch",
           "elastic_transport": "elasticsearch"}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def files() -> list[Path]:
    """Return every module but those of the local engines, which know all of them."""
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p.parent.name != "local"]


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path: Path) -> None:
    """Celery, Redis, Flower, Prometheus and the drivers are known where they belong only."""
    found = imports(path)
    inside = path.relative_to(PACKAGE)
    if found & {"celery", "kombu"}:
        assert inside.name in CELERY
    if "redis" in found:
        assert inside.name in REDIS or inside.parts[0] == "cli"
    if found & {"flower", "tornado"}:
        assert inside.parts[0] == "page"
    if "prometheus_client" in found:
        assert inside.parts[0] == "metrics"
    for driver, database in DRIVERS.items():
        if driver in found:
            assert inside.parts[0] in {"databases", "operations"}
            assert inside.parts[1] == database


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_stacks_are_logged_as_text(path: Path) -> None:
    """By `stack_of`: structlog's own way may show local variables, and secrets in them."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)}
    options = {keyword.arg for node in calls for keyword in node.keywords}
    assert "exception" not in names
    assert "exc_info" not in options
