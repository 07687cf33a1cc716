"""What a worker answers to whoever asks it about a database."""

from __future__ import annotations

import time

import pytest
from fake_run import NAMESPACE
from fakeredis import FakeRedis
from pydantic import SecretStr

from dharma_tasks import reading
from dharma_tasks.flow import asked
from dharma_tasks.flow.context import Context
from dharma_tasks.local.processes import free_port
from dharma_tasks.settings import Settings

REPLY = f"{NAMESPACE}:reply:1"
SLOWEST_TRY_SECONDS = 5
"""As long as the drivers try to connect."""


def test_who_asks_hears_that_the_database_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """And why, before it gives up waiting and takes the workers for busy."""
    assert asked.TELL_SECONDS + SLOWEST_TRY_SECONDS < reading.ANSWER_SECONDS
    monkeypatch.setattr(asked, "TELL_SECONDS", 0.1)
    redis = FakeRedis(decode_responses=True)
    nowhere = SecretStr(f"postgresql://127.0.0.1:{free_port(set())}/app")
    settings = Settings(_env_file=None, namespace=NAMESPACE, postgresql_url=nowhere)  # type: ignore[call-arg]
    context = Context(settings, redis, worker="w@here", shutting_down=lambda: False)
    began = time.monotonic()
    asked.read(context, "postgresql", REPLY)
    context.close()
    assert time.monotonic() - began < 5
    (answer,) = redis.lrange(REPLY, 0, -1)
    assert answer.startswith("error postgresql cannot be used")
    assert "refused" in answer
