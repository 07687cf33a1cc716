"""How far an index is, for those who may see it and for those who may not."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from guarded import url_of
from pydantic import SecretStr
from pymongo import MongoClient

from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.settings import Settings
from dharma_tasks.work import Amount

HANGS = "hangIndexBuildDuringCollectionScanPhaseBeforeInsertion"


@pytest.mark.parametrize("user", ["plain", "monitor"])
def test_an_index_shows_how_far_it_is(guarded: MongoClient[Any], user: str) -> None:
    """Who may not see the server's own operations gets a sign of life all the same."""
    things = guarded["guarded"]["things"]
    things.drop()
    things.insert_many([{"_id": n, "a": n} for n in range(1000)])
    url = SecretStr(url_of(guarded, user))
    settings = Settings(_env_file=None, mongodb_url=url, namespace="n")
    database = MongodbDatabase(settings)
    command = {"createIndexes": "things", "indexes": [{"key": {"a": 1}, "name": "a_1"}]}
    seen: list[Amount | None] = []
    looked = threading.Event()

    def alive(amount: Amount | None) -> None:
        seen.append(amount)
        if len(seen) == 2:
            looked.set()

    try:
        data = {"fieldsToMatch": {"a": 600}}
        guarded.admin.command({"configureFailPoint": HANGS, "mode": "alwaysOn", "data": data})
        with database.watched(alive):
            builder = threading.Thread(target=database.handle.patient, args=[command])
            builder.start()
            assert looked.wait(10)
            guarded.admin.command({"configureFailPoint": HANGS, "mode": "off"})
            builder.join(10)
    finally:
        guarded.admin.command({"configureFailPoint": HANGS, "mode": "off"})
        database.close()
    assert "a_1" in things.index_information()
    if user == "monitor":
        assert seen[-1] is not None
        assert seen[-1].total == 2000
        assert 0 < seen[-1].done <= 1000
    else:
        assert set(seen) == {None}
