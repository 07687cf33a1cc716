"""`delete_alias`: there and back, after a crash, and beside somebody else's changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue

FULL: JSON = {
    "filter": {"term": {"old": {"value": True, "boost": 1.0}}},
    "index_routing": "7",
    "search_routing": "8",
    "is_write_index": True,
    "is_hidden": True,
}
PLAIN: JSON = {"is_write_index": False, "is_hidden": True}


@pytest.fixture
def users(client: Elasticsearch, unique: str) -> str:
    """An alias of the first two of three indices, with all that an alias may have."""
    client.indices.create(index=f"{unique}-v1", aliases={f"{unique}-users": FULL})
    client.indices.create(index=f"{unique}-v2", aliases={f"{unique}-users": PLAIN})
    client.indices.create(index=f"{unique}-v3", aliases={f"{unique}-other": {}})
    return f"{unique}-users"


@pytest.fixture
def operation(users: str) -> JSON:
    """Off every index."""
    return {"type": "delete_alias", "alias": users}


@pytest.fixture
def holders(client: Elasticsearch, unique: str, users: str) -> Callable[[], JSON]:
    """Reads who has the alias, and how; by the ends of the names."""

    def read() -> JSON:
        found = client.indices.get_alias(index=f"{unique}*").items()
        return {
            index.removeprefix(f"{unique}-"): each["aliases"][users]
            for index, each in found
            if users in each["aliases"]
        }

    return read


def _add(client: Elasticsearch, index: str, alias: str) -> None:
    """Where an alias is hidden, it must be so everywhere."""
    add = {"index": index, "alias": alias, "is_hidden": True}
    client.indices.update_aliases(actions=[{"add": add}])


def test_it_is_taken_off_and_put_back_with_all_it_had(
    hand: Hand, operation: JSON, holders: Callable[[], JSON], state: Callable[[], JSON]
) -> None:
    """Filter, routing and write index; other aliases stay."""
    hand.there_and_back(operation, state)
    assert holders() == {}
    assert hand.confirmed == 3


def test_off_one_index(
    hand: Hand, operation: JSON, unique: str, holders: Callable[[], JSON], state: Callable[[], JSON]
) -> None:
    """The other one keeps it."""
    hand.there_and_back({**operation, "index": f"{unique}-v1"}, state)
    assert holders() == {"v2": PLAIN}


def test_a_crash_before_the_checkpoint(
    hand: Hand, operation: JSON, holders: Callable[[], JSON], state: Callable[[], JSON]
) -> None:
    """What was taken off before it is no typo after it, and is put back by the way back."""
    before = state()
    hand.look(operation, hand.prepared(operation))  # and dies
    hand.do(operation)
    assert holders() == {}
    hand.undo(operation)
    assert state() == before
    assert (hand.warnings, hand.confirmed) == ([], 2)


def test_a_missing_alias_is_a_typo(hand: Hand, users: str, state: Callable[[], JSON]) -> None:
    """The near name is said, and what exists is listed; nothing is changed."""
    before = state()
    with pytest.raises(OperationFailed, match=f"no alias.*Did you mean {users}.* There are: "):
        hand.prepared({"type": "delete_alias", "alias": f"{users}s"})
    assert state() == before


def test_an_index_without_it(hand: Hand, operation: JSON, unique: str) -> None:
    """The error says which indices have it; an index that is missing is a typo too."""
    with pytest.raises(
        OperationFailed, match=f'no name of index "{unique}-v3", but of {unique}-v1, '
    ):
        hand.prepared({**operation, "index": f"{unique}-v3"})
    with pytest.raises(OperationFailed, match=f'no index "{unique}-v33". Did you mean'):
        hand.prepared({**operation, "index": f"{unique}-v33"})


def test_if_exists_accepts_a_missing_one(
    hand: Hand, client: Elasticsearch, users: str, unique: str, holders: Callable[[], JSON]
) -> None:
    """And takes off none that appears later, whether alias or index are missing."""
    for more in ({"alias": f"{unique}-none"}, {"alias": users, "index": f"{unique}-v33"}):
        operation = {"type": "delete_alias", "if_exists": True, **more}
        taken = hand.prepared(operation)
        client.options(ignore_status=404).indices.put_alias(
            index=f"{unique}-v3", name=f"{unique}-none"
        )
        hand.finish(operation, taken)
        hand.undo(operation)
        hand.again()
    assert client.indices.exists_alias(name=f"{unique}-none")
    assert holders() == {"v1": FULL, "v2": PLAIN}


@pytest.mark.parametrize("if_exists", [False, True])
def test_an_index_is_never_deleted(
    hand: Hand,
    unique: str,
    users: str,
    state: Callable[[], JSON],
    if_exists: bool,  # noqa: FBT001
) -> None:
    """Aliases and indices have one space of names."""
    before = state()
    with pytest.raises(OperationFailed, match=r"not an alias, but an index.*delete_index"):
        hand.prepared({"type": "delete_alias", "alias": f"{unique}-v1", "if_exists": if_exists})
    assert state() == before


def test_what_somebody_changes_at_the_same_time_is_left(
    hand: Hand,
    client: Elasticsearch,
    operation: JSON,
    users: str,
    unique: str,
    holders: Callable[[], JSON],
) -> None:
    """FAULTS 11: another filter, another index of the same name, an index that was not there."""
    _add(client, f"{unique}-v3", users)
    taken = hand.prepared(operation)
    _add(client, f"{unique}-v1", users)
    client.indices.delete(index=f"{unique}-v2")
    client.indices.create(index=f"{unique}-v2", aliases={users: PLAIN})
    client.indices.create(index=f"{unique}-v4", aliases={users: PLAIN})
    hand.finish(operation, taken)
    assert set(holders()) == {"v1", "v2", "v4"}
    (told,) = hand.warnings
    assert f"for {unique}-v1, {unique}-v2, {unique}-v4 since" in told


@pytest.mark.parametrize("how", ["moved", "other", "anew", "index"])
@pytest.mark.parametrize("one", [False, True])
def test_an_alias_that_is_used_again_since_is_left(
    hand: Hand,
    client: Elasticsearch,
    operation: JSON,
    users: str,
    unique: str,
    holders: Callable[[], JSON],
    how: str,
    one: bool,  # noqa: FBT001
) -> None:
    """With a warning that shows both: elsewhere, otherwise, for a new index, as an index."""
    operation = {**operation, "index": f"{unique}-v1"} if one else operation
    hand.do(operation)
    match how:
        case "moved":
            _add(client, f"{unique}-v3", users)
        case "other":
            _add(client, f"{unique}-v1", users)
        case "anew":
            client.indices.delete(index=f"{unique}-v2")
            client.indices.create(index=f"{unique}-v2", aliases={users: {}})
        case "index":
            client.options(ignore_status=404).indices.delete_alias(index=f"{unique}-v2", name=users)
            client.indices.create(index=users)
    before = holders()
    hand.undo(operation)
    assert holders() == before
    assert any(
        "is left as it is" in each and '"index_routing": "7"' in each for each in hand.warnings
    )


def test_a_former_holder_that_is_gone(
    hand: Hand, client: Elasticsearch, operation: JSON, unique: str, holders: Callable[[], JSON]
) -> None:
    """The other one gets its alias back; once, also where that is repeated."""
    hand.do(operation)
    client.indices.delete(index=f"{unique}-v2")
    hand.look(operation, hand.undoing(operation))  # and dies
    hand.undo(operation)
    assert holders() == {"v1": FULL}
    (told,) = hand.warnings
    assert f"was a name of {unique}-v2, which is gone" in told


@pytest.mark.parametrize("begun", [False, True])
def test_undoing_what_has_not_taken_off_anything(
    hand: Hand,
    operation: JSON,
    state: Callable[[], JSON],
    begun: bool,  # noqa: FBT001
) -> None:
    """Taken, or prepared, and no more."""
    before = state()
    hand.undo_unbegun(operation, begun=begun)
    assert state() == before


def test_what_is_found_before_anything_runs() -> None:
    """Names that are patterns."""
    parsed = catalogue.parse({"type": "delete_alias", "alias": "a*", "index": "*"})
    assert [problem.place for problem in parsed.problems()] == ["alias", "index"]
    assert parsed.irreversible() is None
