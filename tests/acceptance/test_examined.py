"""`dharma doctor` where only Redis is known: the databases are looked at by the workers."""

from __future__ import annotations

import json

from place import Place

DATABASES = ("mongodb", "postgresql", "elasticsearch")


def test_by_the_workers(place: Place) -> None:
    """A hook's place: no URL, and all the same every database is examined, and none is written to.

    One that no worker serves is named; that is status 4.
    """
    place.write("postgresql", "001_a", {"version": "1.0.0"}, "SELECT 1;")
    place.start_worker("-Q", "postgresql,mongodb")
    nothing = dict.fromkeys((f"DHARMA_{name.upper()}_URL" for name in DATABASES), "")

    def doctor(status: int, **others: str) -> dict[str, dict[str, object]]:
        done = place.dharma("doctor", "--json", status=status, **others)
        found: dict[str, dict[str, object]] = json.loads(done.stdout)["subjects"]
        return found

    before = place.status()
    found = doctor(0, **nothing)
    assert [*found] == ["redis", "workers", "migrations", "mongodb", "postgresql"]
    assert "a key is set" in json.dumps(found["redis"])
    for name in ("mongodb", "postgresql"):
        assert str(found[name]["worker"]).startswith("w1@")
    assert place.status() == before
    third = doctor(4)["elasticsearch"]
    assert third["worker"] is None
    assert "celery -A dharma_tasks worker -Q elasticsearch" in json.dumps(third)
