"""`update_settings`: there and back, after a crash, and beside somebody else's changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue


@pytest.fixture
def users(client: Elasticsearch, unique: str) -> str:
    """An index with one of the settings set."""
    settings = {"number_of_replicas": 0, "refresh_interval": "9s", "max_script_fields": 500}
    client.indices.create(index=f"{unique}-users", settings=settings)
    return f"{unique}-users"


@pytest.fixture
def operation(users: str) -> JSON:
    """One setting is changed, one is new, one gets its default; each in another notation."""
    settings = {
        "index": {"refresh_interval": "5s", "mapping": {"total_fields.limit": 2000}},
        "max_script_fields": None,
    }
    return {"type": "update_settings", "index": users, "settings": settings}


@pytest.fixture
def shown(client: Elasticsearch, users: str) -> Callable[[], JSON]:
    """Reads the settings that the tests change."""

    def read() -> JSON:
        found = client.indices.get_settings(index=users, flat_settings=True)[users]["settings"]
        words = ("refresh", "fields", "script", "replicas", "blocks")
        return {name: each for name, each in found.items() if any(word in name for word in words)}

    return read


def test_settings_are_set_and_put_back(
    hand: Hand, operation: JSON, shown: Callable[[], JSON], state: Callable[[], JSON]
) -> None:
    """What was unset is unset again, as if it had never been set."""
    hand.there_and_back(operation, state)
    assert shown() == {
        "index.number_of_replicas": "0",
        "index.refresh_interval": "5s",
        "index.mapping.total_fields.limit": "2000",
    }


def test_a_crash_before_the_checkpoint(
    hands: Callable[[str], Hand], operation: JSON, users: str, state: Callable[[], JSON]
) -> None:
    """FAULTS 20: what is recorded as before is what was there before the first effect."""
    before, first, second = state(), hands("first"), hands("second")
    first.look(operation, first.prepared(operation))  # and dies
    taken = second.do(operation)
    assert taken.undo is not None
    assert taken.undo["before"] == {
        "index.refresh_interval": "9s",
        "index.mapping.total_fields.limit": None,
        "index.max_script_fields": "500",
    }
    assert second.confirmed == 0
    second.undo(operation)
    assert state() == before
    assert first.warnings + second.warnings == []


def test_a_replay_that_has_made_the_index_read_only(
    hand: Hand, users: str, state: Callable[[], JSON]
) -> None:
    """The server refuses every further change then, but that which takes the block away."""
    settings = {"blocks.read_only": True, "refresh_interval": "5s"}
    operation = {"type": "update_settings", "index": users, "settings": settings}
    before = state()
    hand.look(operation, hand.prepared(operation))  # and dies
    hand.do(operation)
    hand.undo(operation)
    assert state() == before


def test_settings_that_are_there_already(hand: Hand, users: str, state: Callable[[], JSON]) -> None:
    """Accepted with a warning; undoing that changes nothing."""
    settings = {"refresh_interval": "9s", "max_script_fields": "500", "number_of_replicas": 0}
    operation = {"type": "update_settings", "index": users, "settings": settings}
    before = state()
    hand.do(operation)
    (told,) = hand.warnings
    assert "has these settings already" in told
    hand.undo(operation)
    assert state() == before
    assert hand.confirmed == 0


def test_a_setting_that_was_changed_since_is_left(
    hand: Hand, client: Elasticsearch, operation: JSON, users: str, shown: Callable[[], JSON]
) -> None:
    """With a warning that shows both; the others are put back."""
    hand.do(operation)
    client.indices.put_settings(index=users, settings={"refresh_interval": "3s"})
    hand.undo(operation)
    assert shown() == {
        "index.number_of_replicas": "0",
        "index.refresh_interval": "3s",
        "index.max_script_fields": "500",
    }
    (told,) = hand.warnings
    assert "index.refresh_interval" in told
    assert '"3s"; before this migration it was "9s"' in told


@pytest.mark.parametrize(
    ("asked", "message", "todo"),
    [
        ({"refresh_interval": "5s", "codec": "best_compression"}, "index.codec", "move the alias"),
        ({"max_script_fields": 7, "refresh_intervall": "5s"}, "refresh_intervall", "in the file"),
        ({"max_script_fields": 7, "refresh_interval": "soon"}, r"value \[soon\]", "in the file"),
    ],
)
def test_what_the_server_refuses_changes_nothing(
    hand: Hand, users: str, asked: JSON, message: str, todo: str, state: Callable[[], JSON]
) -> None:
    """A static setting, one that does not exist, a wrong value: its own message, and a way out."""
    before = state()
    with pytest.raises(OperationFailed, match=f"{message}.*{todo}"):
        hand.do({"type": "update_settings", "index": users, "settings": asked})
    assert state() == before


def test_a_missing_index_is_a_typo(hand: Hand, operation: JSON, users: str) -> None:
    """The near name is said."""
    with pytest.raises(OperationFailed, match=f"Did you mean {users}"):
        hand.prepared({**operation, "index": f"{users}x"})


def test_an_index_that_was_made_anew(
    hand: Hand, client: Elasticsearch, operation: JSON, users: str, shown: Callable[[], JSON]
) -> None:
    """Neither changed on the way forward nor on the way back."""
    anew = {"number_of_replicas": 0, "refresh_interval": "5s"}
    taken = hand.prepared(operation)
    client.indices.delete(index=users)
    client.indices.create(index=users, settings=anew)
    with pytest.raises(OperationFailed, match="deleted and created again"):
        hand.step(operation, taken)
    hand.undo(operation)
    assert shown() == {f"index.{name}": str(value) for name, value in anew.items()}
    assert "left alone" in hand.warnings[0]


@pytest.mark.parametrize("begun", [False, True])
def test_undoing_what_has_not_set_anything(
    hand: Hand,
    operation: JSON,
    state: Callable[[], JSON],
    begun: bool,  # noqa: FBT001
) -> None:
    """Taken, or prepared, and no more."""
    before = state()
    hand.undo_unbegun(operation, begun=begun)
    assert state() == before


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "no setting"),
        ({"index": {}}, "no setting"),
        ({"settings": {"refresh_interval": "5s"}}, "one level too many"),
        ({"refresh_interval": "5s", "index": {"refresh_interval": "5s"}}, "2 times"),
        ({"index": {"number_of_shards": 2}}, "reindex into it"),
        ({"sort.field": "n"}, "can never be changed"),
        ({"routing.allocation.*": None}, "Name each"),
        ({"index.blocks": {"metadata": True}}, "blocks.write"),
    ],
)
def test_what_is_found_before_anything_runs(asked: JSON, said: str) -> None:
    """Mistakes that the server would tell too late, or not at all."""
    parsed = catalogue.parse({"type": "update_settings", "index": "a", "settings": asked})
    (problem,) = parsed.problems()
    assert said in problem.text
    assert problem.place == "settings"
    assert parsed.irreversible() is None
