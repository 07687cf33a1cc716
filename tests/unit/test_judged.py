"""What is applied as it is in its file is not judged again; all that is yet to come is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fake_folder import Migrations
from fakeredis import FakeRedis

from dharma_tasks import conduct
from dharma_tasks.conduct import Conduct, Order
from dharma_tasks.errors import Refused, Unreachable
from dharma_tasks.loader import read_folder
from dharma_tasks.migration import Migration, Reference
from dharma_tasks.planner import Request
from dharma_tasks.records import Direction, MigrationRecord, MigrationState, Survey, applied
from dharma_tasks.settings import Settings
from dharma_tasks.submit import Checked
from dharma_tasks.workers import Worker, Workers

WRONG = [{"type": "create_index", "collection": "users", "index": []}]
"""As an older release may have taken it."""


def record(migration: Migration, state: MigrationState, checksum: str) -> MigrationRecord:
    """What a journal says of it."""
    return MigrationRecord(
        version=migration.version,
        name=migration.name,
        state=state,
        checksum=checksum,
        run="r",
        by="me",
        started=datetime(2026, 1, 1, tzinfo=UTC),
    )


def survey(*records: MigrationRecord) -> Survey:
    """A journal of these."""
    return Survey(database="mongodb", migrations=list(records))


def checksums(folder: Path) -> dict[Reference, str]:
    """Of everything, as if it were applied."""
    return {each.reference: each.checksum for each in read_folder(folder).migrations}


def test_what_is_applied_is_not_judged(migrations: Migrations, fake_catalogues: None) -> None:
    """It is read all the same, and known by its checksum."""
    del fake_catalogues
    migrations.write("mongodb/001_a.json", operations=WRONG)
    migrations.write("mongodb/002_b.json", "1.1.0")
    read = read_folder(migrations.path)
    with pytest.raises(Refused, match="has no key"):
        read.judged()
    known = checksums(migrations.path)
    assert [each.version for each in read.judged(known).migrations] == ["1.0.0", "1.1.0"]


def test_what_was_changed_is_judged(migrations: Migrations, fake_catalogues: None) -> None:
    """The journal knows another checksum."""
    del fake_catalogues
    migrations.write("mongodb/001_a.json")
    known = checksums(migrations.path)
    migrations.write("mongodb/001_a.json", operations=WRONG)
    with pytest.raises(Refused, match="has no key"):
        read_folder(migrations.path).judged(known)


def test_a_rollback_file_is_judged(migrations: Migrations, fake_catalogues: None) -> None:
    """It is yet to come."""
    del fake_catalogues
    migrations.write("mongodb/001_a.json")
    migrations.write("mongodb/001_a_rollback.json", operations=WRONG)
    with pytest.raises(Refused, match=r"001_a_rollback\.json"):
        read_folder(migrations.path).judged(checksums(migrations.path))


def test_what_cannot_be_read_is_refused_with_all_else(
    migrations: Migrations, refusal: Callable[[], list[str]]
) -> None:
    """Nobody asks a journal first."""
    migrations.write("mongodb/001_a.json", operations=WRONG)
    migrations.write("mongodb/002_b.json", "1.1.0", colour="red")
    one, other = refusal()
    assert "001_a.json" in one
    assert "unknown key 'colour'" in other


def test_only_what_is_applied_counts() -> None:
    """Not what is running, has failed or was rolled back."""
    made = Migration(
        database="mongodb",
        version="1.0.0",
        name="a",
        migration_type="schema",
        operations=({"type": "x"},),
        file="mongodb/001_a.json",
    )
    for state in MigrationState:
        there = state is MigrationState.APPLIED
        known = {made.reference: "c"} if there else {}
        assert applied([survey(record(made, state, "c"))]) == known


@pytest.mark.parametrize(
    ("direction", "state", "checked"),
    [
        (Direction.FORWARD, MigrationState.APPLIED, True),
        (Direction.FORWARD, MigrationState.ROLLED_BACK, False),
        (Direction.FORWARD, None, False),
        (Direction.BACK, MigrationState.APPLIED, False),
    ],
)
def test_a_submit_asks_the_journals_before_it_refuses(
    migrations: Migrations,
    fake_catalogues: None,
    monkeypatch: pytest.MonkeyPatch,
    direction: Direction,
    state: MigrationState | None,
    checked: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """A newer release does not refuse a folder for what is done: nobody may change that file."""
    del fake_catalogues
    migrations.write("mongodb/001_a.json", operations=WRONG)
    (wrong,) = read_folder(migrations.path).migrations

    def surveys(names: set[str], *_: object) -> Mapping[str, Survey]:
        assert names == {"mongodb"}
        if state is None:
            raise Unreachable("nobody answers")
        return {"mongodb": survey(record(wrong, state, wrong.checksum))}

    redis = FakeRedis(decode_responses=True)
    settings = Settings(_env_file=None, namespace="t")  # type: ignore[call-arg]
    Workers(redis, "t").announce(Worker(name="w", databases=("mongodb",)), 100)
    monkeypatch.setattr(conduct, "require_redis", lambda _settings: redis)
    monkeypatch.setattr(conduct, "surveys", surveys)
    target = "0.0.0" if direction is Direction.BACK else "latest"
    order = Order(Request(target=target, direction=direction), migrations.path, {}, "me")
    steps = Conduct(order, settings, lambda _chains: None).steps()
    if checked:
        assert next(step for step in steps if isinstance(step, Checked)).migrations == (wrong,)
    else:
        with pytest.raises(Refused, match="has no key"):
            next(steps)
