"""Why bulk work waits on MongoDB, as the server itself says it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from pymongo import MongoClient
from pymongo.errors import OperationFailure
from three_members import Three, until

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.settings import Settings


def strain(settings: Settings, **limits: float) -> str | None:
    """What a worker with these limits sees."""
    database = MongodbDatabase(settings.model_copy(update=limits))
    try:
        return database.strain(lambda _: None)
    finally:
        database.close()


def test_a_set_of_one_member(settings: Settings) -> None:
    """Nobody can lag."""
    assert strain(settings, max_lag_seconds=0) is None


def test_who_may_not_see_it(settings: Settings) -> None:
    """That is no passing error, which would be retried for ever: see `Health`."""
    text = "not authorized on admin to execute command { replSetGetStatus: 1 }"
    error = OperationFailure(text, code=13)
    assert MongodbDatabase(settings).classify(error) is Fault.LASTING


@pytest.mark.campaign
def test_a_secondary_that_lags(three: Three) -> None:
    """It is named, with its lag, while a majority goes on; a delay that is meant is none."""
    second = three.ports[1]
    settings = Settings(_env_file=None, mongodb_url=SecretStr(three.url))  # type: ignore[call-arg]
    until(lambda: strain(settings, max_lag_seconds=2) is None)
    with MongoClient[Any](three.url, w="majority") as client, three.member(1) as locked:
        locked.admin.command({"fsync": 1, "lock": True})

        def written() -> str | None:
            """For a moment the other one may be further behind."""
            client.app.things.insert_one({})
            said = strain(settings, max_lag_seconds=2)
            return said if said and f"the secondary 127.0.0.1:{second} is " in said else None

        said = until(written)
        assert "s behind (DHARMA_MAX_LAG_SECONDS: 2)" in said
        assert strain(settings, max_lag_seconds=600) is None
        config = client.admin.command("replSetGetConfig")["config"]
        config["members"][1]["secondaryDelaySecs"] = 600
        config["version"] += 1
        client.admin.command("replSetReconfig", config)
        until(lambda: strain(settings, max_lag_seconds=2) is None)
        config["members"][1]["secondaryDelaySecs"] = 0
        config["version"] += 1
        client.admin.command("replSetReconfig", config)
        assert written() is not None
        locked.admin.command("fsyncUnlock")
        until(lambda: strain(settings, max_lag_seconds=2) is None)
