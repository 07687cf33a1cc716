"""The short operations, undone: as it was before, and applied again as it was then."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue
from dharma_tasks.work import Step

MAPPING: JSON = {"properties": {"email": {"type": "keyword"}, "n": {"type": "long"}}}


def test_short_operations_are_undone_exactly(
    hand: Hand, client: Elasticsearch, unique: str, state: Callable[[], JSON]
) -> None:
    """Nothing is left of `create_index`; nothing is asked of the server in vain."""
    operation = {
        "type": "create_index",
        "index": f"{unique}-users",
        "mapping": MAPPING,
        "settings": {"number_of_shards": 2, "refresh_interval": "9s"},
    }
    client.indices.create(index=f"{unique}-other", aliases={f"{unique}-all": {}})
    hand.there_and_back(operation, state)
    assert hand.confirmed == 3


# --- create_index ---


def _create(unique: str) -> JSON:
    return {"type": "create_index", "index": f"{unique}-users", "mapping": MAPPING}


def test_what_the_application_wrote_into_a_new_index_is_lost_and_counted(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """The index goes; how much goes with it is said."""
    hand.do(_create(unique))
    for n in range(3):
        client.index(index=f"{unique}-users", document={"n": n})
    hand.undo(_create(unique))
    assert not client.indices.exists(index=f"{unique}-users")
    assert len(hand.warnings) == 1
    assert "3 documents" in hand.warnings[0]


def test_a_closed_index_is_deleted_too(hand: Hand, client: Elasticsearch, unique: str) -> None:
    """Its documents can't be counted."""
    hand.do(_create(unique))
    client.indices.close(index=f"{unique}-users")
    hand.undo(_create(unique))
    assert not client.indices.exists(index=f"{unique}-users", expand_wildcards="all")
    assert "the documents in it are lost" in hand.warnings[0]


def test_an_index_that_was_there_before_stays(
    hand: Hand, client: Elasticsearch, unique: str, state: Callable[[], JSON]
) -> None:
    """It was accepted, not created."""
    client.indices.create(index=f"{unique}-users", mappings=MAPPING)
    client.index(index=f"{unique}-users", document={"n": 1})
    before = state()
    hand.do(_create(unique))
    hand.undo(_create(unique))
    assert state() == before


@pytest.mark.parametrize("alias", [False, True])
def test_an_index_that_was_made_anew_stays(
    hand: Hand,
    client: Elasticsearch,
    unique: str,
    alias: bool,  # noqa: FBT001
) -> None:
    """FAULTS 11: it has the name, but it is not the one that was created here."""
    hand.do(_create(unique))
    client.indices.delete(index=f"{unique}-users")
    name = f"{unique}-v2" if alias else f"{unique}-users"
    client.indices.create(index=name, aliases={f"{unique}-users": {}} if alias else {})
    hand.undo(_create(unique))
    assert client.indices.exists(index=f"{unique}-users")
    assert "left alone" in hand.warnings[0]


def test_a_create_that_was_never_begun_is_undone_by_doing_nothing(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """Taken, and not yet prepared: an index of that name is somebody else's."""
    hand.take(hand.assignment("create_index"))
    client.indices.create(index=f"{unique}-users")
    hand.undo(_create(unique))
    assert client.indices.exists(index=f"{unique}-users")
    assert hand.warnings == []


@pytest.mark.parametrize("used", [False, True])
def test_an_index_of_which_only_a_crash_knew(
    hand: Hand,
    client: Elasticsearch,
    unique: str,
    used: bool,  # noqa: FBT001
) -> None:
    """Made and not noted: an empty one is deleted, one in use is left for a person to judge."""
    hand.look(_create(unique), hand.prepared(_create(unique)))  # and dies
    if used:
        client.index(index=f"{unique}-users", document={"n": 1})
    hand.undo(_create(unique))
    assert client.indices.exists(index=f"{unique}-users").body is used
    assert [("not known" in each) for each in hand.warnings] == [True] * used


def test_a_create_that_was_noted_without_its_index(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """As an earlier version did: treated like one of which only a crash knew."""
    taken = hand.prepared(_create(unique))

    def before(_: object) -> Step:
        hand.look(_create(unique), taken)
        return Step(None, done=1, finished=True)

    hand.database.journal.step(taken, before, transactional=False)
    hand.undo(_create(unique))
    assert not client.indices.exists(index=f"{unique}-users")


# --- create_alias ---


@pytest.fixture
def three(client: Elasticsearch, unique: str) -> list[str]:
    """Three indices: an alias with everything on the first two."""
    names = [f"{unique}-v{n}" for n in (1, 2, 3)]
    full = {
        "filter": {"term": {"old": {"value": True, "boost": 1.0}}},
        "index_routing": "7",
        "search_routing": "8",
        "is_write_index": True,
        "is_hidden": True,
    }
    client.indices.create(index=names[0], aliases={f"{unique}-users": full})
    client.indices.create(
        index=names[1], aliases={f"{unique}-users": {"is_write_index": False, "is_hidden": True}}
    )
    client.indices.create(index=names[2])
    return names


def _alias(unique: str, **more: object) -> JSON:
    return {"type": "create_alias", "index": f"{unique}-v3", "alias": f"{unique}-users", **more}


@pytest.mark.usefixtures("three")
def test_a_moved_alias_goes_back_with_all_it_had(
    hand: Hand, unique: str, state: Callable[[], JSON]
) -> None:
    """Every former target, with filter, routing and write index."""
    hand.there_and_back(_alias(unique, exclusive=True, filter={"term": {"n": 1}}), state)


@pytest.mark.usefixtures("three")
def test_a_moved_alias_goes_back_to_an_index_that_had_it_otherwise(
    hand: Hand, unique: str, state: Callable[[], JSON]
) -> None:
    """The same index, with less than it had before."""
    operation = {**_alias(unique, exclusive=True), "index": f"{unique}-v1"}
    hand.there_and_back(operation, state)


def test_an_added_alias_goes_and_the_others_stay(
    hand: Hand, client: Elasticsearch, unique: str, state: Callable[[], JSON]
) -> None:
    """Also those that somebody has added since: only what was done here is undone."""
    for n in (1, 2, 3):
        client.indices.create(index=f"{unique}-v{n}")
    client.indices.put_alias(index=f"{unique}-v1", name=f"{unique}-users")
    hand.there_and_back(_alias(unique), state)
    client.indices.put_alias(index=f"{unique}-v2", name=f"{unique}-users")
    hand.undo(_alias(unique))
    assert set(client.indices.get_alias(name=f"{unique}-users")) == {f"{unique}-v1", f"{unique}-v2"}


def test_an_alias_that_was_there_before_stays(
    hand: Hand, client: Elasticsearch, unique: str, state: Callable[[], JSON]
) -> None:
    """Accepted, not made."""
    client.indices.create(index=f"{unique}-v3", aliases={f"{unique}-users": {}})
    before = state()
    for operation in (_alias(unique), _alias(unique, exclusive=True)):
        hand.do(operation)
        hand.undo(operation)
        assert state() == before
        hand.again()


def test_an_alias_that_somebody_has_changed_since_is_left(
    hand: Hand, client: Elasticsearch, three: list[str], unique: str, state: Callable[[], JSON]
) -> None:
    """With a warning that shows both; other indices, another filter, another index behind it."""
    operation = _alias(unique, exclusive=True)
    hand.do(operation)
    client.indices.put_alias(index=three[1], name=f"{unique}-users")
    before = state()
    hand.undo(operation)
    assert state() == before
    assert "is left as it is" in hand.warnings[0]
    assert f'"{three[0]}": {{"filter"' in hand.warnings[0]
    assert hand.confirmed == 1


@pytest.mark.parametrize("how", ["filter", "anew", "index", "none"])
def test_each_way_in_which_an_alias_may_have_changed(
    hand: Hand, client: Elasticsearch, three: list[str], unique: str, how: str
) -> None:
    """Another filter, another index of the same name, an index with its name, nothing at all."""
    operation = _alias(unique, exclusive=True)
    hand.do(operation)
    users = f"{unique}-users"
    match how:
        case "filter":
            client.indices.put_alias(index=three[2], name=users, filter={"term": {"n": 2}})
        case "anew":
            client.indices.delete(index=three[2])
            client.indices.create(index=three[2], aliases={users: {}})
        case "index":
            client.indices.delete(index=three[2])
            client.indices.create(index=users)
        case "none":
            client.indices.delete_alias(index=three[2], name=users)
    before = client.indices.get_alias(index=f"{unique}*").body
    assert hand.undo(operation).over
    assert client.indices.get_alias(index=f"{unique}*").body == before
    assert "is left as it is" in hand.warnings[0]


def test_a_former_target_that_is_gone(
    hand: Hand, client: Elasticsearch, three: list[str], unique: str
) -> None:
    """The others get their alias back; where none is left, it stays where it is."""
    operation = _alias(unique, exclusive=True)
    hand.do(operation)
    client.indices.delete(index=three[0])
    hand.look(operation, hand.undoing(operation))  # and dies
    assert set(client.indices.get_alias(name=f"{unique}-users")) == {three[1]}
    hand.undo(operation)
    assert set(client.indices.get_alias(name=f"{unique}-users")) == {three[1]}
    assert [f"{three[0]}, which is gone" in each for each in hand.warnings] == [True]
    hand.again()
    hand.do(operation)
    client.indices.delete(index=three[1])
    hand.undo(operation)
    assert set(client.indices.get_alias(name=f"{unique}-users")) == {three[2]}
    assert f"{three[1]}, which is gone" in hand.warnings[1]


@pytest.mark.usefixtures("three")
def test_an_alias_that_was_never_moved_is_undone_by_doing_nothing(
    hand: Hand, unique: str, state: Callable[[], JSON]
) -> None:
    """Taken, or prepared, and no more."""
    before = state()
    hand.prepared(_alias(unique, exclusive=True))
    hand.undo(_alias(unique, exclusive=True))
    assert state() == before
    assert (hand.warnings, hand.confirmed) == ([], 0)


# --- those that cannot be undone ---


def test_what_cannot_be_undone_says_so_and_what_would_help() -> None:
    """Before anything runs; the others promise nothing before they have looked."""
    for kind, more, help_ in (
        ("delete_index", {"index": "a"}, "snapshot"),
        ("update_mapping", {"index": "a", "mapping": MAPPING}, "reindex"),
    ):
        problem = catalogue.parse({"type": kind, **more}).irreversible()
        assert problem is not None
        assert f"{kind} cannot be undone" in problem.what
        assert '"a"' in problem.what
        assert help_ in problem.todo
    for operation in (
        {"type": "create_index", "index": "a"},
        {"type": "create_alias", "index": "a", "alias": "b"},
        {"type": "reindex", "source": "a", "dest": "b"},
    ):
        parsed = catalogue.parse(operation)
        assert parsed.irreversible() is None
        assert not parsed.undoes_in_transaction(None)
