"""`dharma alive`: whom a health check believes."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from fake_run import NAMESPACE, without_settings
from fakeredis import FakeRedis

from dharma_tasks.cli import alive as command
from dharma_tasks.cli import common, main
from dharma_tasks.errors import Unreachable
from dharma_tasks.identity import node
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Worker, Workers


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Workers:
    """The announcements in a fake Redis."""
    without_settings(monkeypatch)
    redis = FakeRedis(decode_responses=True)
    settings = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
    monkeypatch.setattr(common, "read", lambda: settings)
    monkeypatch.setattr(command, "require_redis", lambda _settings: redis)
    return Workers(redis, NAMESPACE)


def ask(*arguments: str) -> Result:
    """Run `dharma alive`."""
    return CliRunner().invoke(main, ["alive", *arguments])


def test_the_worker_of_this_host(workers: Workers) -> None:
    """Another container's worker does not make this one healthy; its own does."""
    workers.announce(Worker(name="celery@elsewhere", databases=("mongodb",)), 100)
    silent = ask()
    assert silent.exit_code == 1
    assert f"any worker of {node()}" in silent.stderr
    assert "celery@elsewhere" in silent.stderr
    workers.announce(Worker(name=f"celery@{node()}", databases=("mongodb", "postgresql")), 100)
    found = ask()
    assert found.exit_code == 0
    assert found.stdout == f"celery@{node()} is alive and serves mongodb, postgresql\n"


def test_json(workers: Workers) -> None:
    """Those that are alive, of those that were asked for."""
    assert json.loads(ask("--json").stdout) == {"alive": []}
    workers.announce(Worker(name=f"celery@{node()}", databases=("mongodb",)), 100)
    (found,) = json.loads(ask("--json").stdout)["alive"]
    assert found == {"name": f"celery@{node()}", "databases": ["mongodb"]}


def test_a_worker_by_its_name(workers: Workers) -> None:
    """Of several workers on one host each is asked for by the name that it was started with."""
    workers.announce(Worker(name=f"mongodb@{node()}", databases=("mongodb",)), 100)
    assert ask(f"mongodb@{node()}").exit_code == 0
    assert ask(f"postgresql@{node()}").exit_code == 1


def test_who_has_left_is_not_alive(workers: Workers) -> None:
    """A worker that has ended is forgotten at once, and that nobody is left is said."""
    workers.announce(Worker(name=f"celery@{node()}", databases=("mongodb",)), 100)
    workers.leave(f"celery@{node()}")
    gone = ask()
    assert gone.exit_code == 1
    assert "No worker is" in gone.stderr


def test_redis_away_is_told_apart(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows then, and nobody should restart a worker for it: a status of its own."""

    def away(_settings: Settings) -> None:
        raise Unreachable("Redis at h:1 cannot be used")

    monkeypatch.setattr(command, "require_redis", away)
    found = ask()
    assert found.exit_code == 4
    assert found.stderr == "Redis at h:1 cannot be used\n"
