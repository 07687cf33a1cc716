"""What `dharma baseline` decides: what is taken over, and what stands in its way."""

from __future__ import annotations

from typing import Any

import pytest
from test_reversal import migration, record, survey

from dharma_tasks.declaring.baseline import Baseline
from dharma_tasks.declaring.proposal import Proposal
from dharma_tasks.errors import Refused
from dharma_tasks.migration import Migration
from dharma_tasks.records import MigrationState, Survey

USERS, MAIL = migration("mongodb:1.0.0"), migration("mongodb:1.1.0")
TABLE = migration("postgresql:1.0.0", "mongodb:1.0.0")
LATER = migration("postgresql:2.0.0")
FOLDER = [USERS, MAIL, TABLE, LATER]


def decided(
    version: str, *surveys: Survey, names: tuple[str, ...] | None = None, files: Any = FOLDER
) -> Proposal:
    """The decision; a database that no survey is given of has no journal yet."""
    wish = Baseline(version, names)
    known = {each.database: each for each in surveys}
    needed = wish.surveyed(files)
    return wish.decide(files, {name: known.get(name, Survey(database=name)) for name in needed})


def refused(version: str, *surveys: Survey, **more: Any) -> list[str]:
    """What is said of one that must be refused."""
    with pytest.raises(Refused) as caught:
        decided(version, *surveys, **more)
    return [str(problem) for problem in caught.value.problems]


def taken(proposal: Proposal) -> dict[str, list[str]]:
    """The versions that are taken over."""
    return {
        name: [change.amendment.version for change in changes]
        for name, changes in proposal.changes.items()
    }


def changed_since(file: Migration) -> Migration:
    """The same with other operations."""
    other = ({"type": "create_collection", "collection": "other"},)
    return file.model_copy(update={"operations": other}).with_checksum()


def test_everything_up_to_the_version() -> None:
    """In every database, with what the journal needs to know of each, and nothing above it."""
    found = decided("1.1.0")
    assert taken(found) == {"mongodb": ["1.0.0", "1.1.0"], "postgresql": ["1.0.0"]}
    assert found.heads == {"mongodb": None, "postgresql": None}
    first = found.changes["mongodb"][0].amendment
    assert (first.name, first.checksum, first.types, first.state) == (
        USERS.name,
        USERS.checksum,
        ("create_collection",),
        MigrationState.APPLIED,
    )
    written = found.declaration("postgresql", run="r", by="me")
    assert (written.event, written.by, len(written.amendments)) == ("baseline", "me", 1)
    assert "baseline 1.1.0" in written.reason
    assert found.warnings == ()


def test_what_is_applied_stays() -> None:
    """What was rolled back before is taken over; a second time there is nothing to do."""
    journal = survey("mongodb", record(USERS), record(MAIL, MigrationState.ROLLED_BACK))
    found = decided("1.1.0", journal, names=("mongodb",))
    assert taken(found) == {"mongodb": ["1.1.0"]}
    assert found.changes["mongodb"][0].now is MigrationState.ROLLED_BACK
    assert found.heads["mongodb"] is not None
    assert found.heads["mongodb"].generation == 7
    journal = survey("mongodb", record(USERS), record(MAIL))
    assert taken(decided("1.1.0", journal, names=("mongodb",))) == {}


@pytest.mark.parametrize("text", ["latest", "1.2", "1.2.0-rc.1", "v1.2.0"])
def test_no_version(text: str) -> None:
    """It has to be said up to where."""
    (said,) = refused(text)
    assert "MAJOR.MINOR.PATCH" in said
    assert text in said


def test_nothing_up_to_it() -> None:
    """In no database: a typo. In one of them: said."""
    (said,) = refused("0.9.0")
    assert "no migration up to 0.9.0 for mongodb, postgresql" in said
    assert refused("1.0.0", names=("elasticsearch",))
    found = decided("1.0.0", names=("mongodb", "elasticsearch"))
    assert any("elasticsearch has no migration up to 1.0.0" in each for each in found.warnings)


def test_a_version_that_no_migration_has() -> None:
    """It is the highest one below that is meant, and that is said."""
    found = decided("1.5.0", names=("mongodb",))
    assert taken(found) == {"mongodb": ["1.0.0", "1.1.0"]}
    assert "no migration has the version 1.5.0" in found.warnings[0]


@pytest.mark.parametrize(
    "state", [MigrationState.FAILED, MigrationState.RUNNING, MigrationState.ROLLING_BACK]
)
def test_what_is_half_there(state: MigrationState) -> None:
    """A person has to say of each what is true; one above the version is not in the way."""
    journal = survey("mongodb", record(USERS, state), record(MAIL, state))
    (said,) = refused("1.0.0", journal, names=("mongodb",))
    assert f"1.0.0 (change) is {state}" in said
    assert "dharma repair mongodb 1.0.0 --mark-applied" in said
    assert len(refused("1.1.0", journal, names=("mongodb",))) == 2
    assert len(refused("1.1.0", journal, names=("mongodb",), files=[USERS])) == 2


def test_what_was_changed_since() -> None:
    """That is drift, and is accepted one by one; of what was rolled back the file may change."""
    journal = survey("mongodb", record(changed_since(USERS)))
    (said,) = refused("1.0.0", journal, names=("mongodb",))
    assert "dharma repair mongodb 1.0.0 --accept-checksum" in said
    journal = survey("mongodb", record(changed_since(USERS), MigrationState.ROLLED_BACK))
    assert taken(decided("1.0.0", journal, names=("mongodb",))) == {"mongodb": ["1.0.0"]}


def test_what_it_stands_on_elsewhere() -> None:
    """It is applied, or taken over too; else it is named."""
    (said,) = refused("1.0.0", names=("postgresql",))
    assert "postgresql:1.0.0 needs mongodb:1.0.0, which is pending" in said
    assert "--databases" in said
    journal = survey("mongodb", record(USERS))
    assert taken(decided("1.0.0", journal, names=("postgresql",))) == {"postgresql": ["1.0.0"]}


def test_every_reason_at_once() -> None:
    """Not only the first."""
    journal = survey("postgresql", record(TABLE, MigrationState.FAILED))
    said = refused("2.0.0", journal, names=("postgresql",))
    assert len(said) == 2
