"""The short operations, each also after a crash in between and beside somebody else's work."""

from __future__ import annotations

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand
from pydantic import ValidationError

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue as catalogue_of
from dharma_tasks.operations.elasticsearch import catalogue

MAPPING: JSON = {
    "properties": {"email": {"type": "keyword", "index": True}, "address.city": {"type": "text"}}
}


def _create(index: str, **more: object) -> JSON:
    settings = {"index": {"number_of_shards": 1}, "number_of_replicas": "0"}
    return {
        "type": "create_index",
        "index": index,
        "mapping": MAPPING,
        "settings": settings,
        **more,
    }


# --- create_index ---


def test_create_index_makes_it_with_mapping_and_settings(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """A new index is what the file says, and undoing would know that it is ours."""
    taken = hand.do(_create(f"{unique}-users"))
    found = client.indices.get(index=f"{unique}-users")[f"{unique}-users"]
    assert found["mappings"]["properties"]["address"]["properties"]["city"] == {"type": "text"}
    assert found["settings"]["index"]["number_of_replicas"] == "0"
    assert taken.undo == {"existed": False}
    assert hand.warnings == []
    assert hand.confirmed == 1


def test_create_index_accepts_its_own_after_a_crash(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """The effect is there, the checkpoint is not, and documents have brought new fields."""
    operation = _create(f"{unique}-users")
    taken = hand.prepared(operation)
    hand.look(operation, taken)
    client.index(index=f"{unique}-users", document={"nick": "x"}, refresh=True)
    hand.finish(operation, hand.prepared(operation))
    assert hand.warnings == []
    assert client.count(index=f"{unique}-users")["count"] == 1


def test_create_index_accepts_an_equal_one_with_a_warning(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """Equal means equal to the server: other notations of the same count as the same."""
    client.indices.create(
        index=f"{unique}-users",
        mappings={
            "properties": {
                "email": {"type": "keyword"},
                "address": {"properties": {"city": {"type": "text", "store": False}}},
            }
        },
        settings={"index.number_of_shards": 1, "number_of_replicas": 0},
    )
    taken = hand.do(_create(f"{unique}-users"))
    assert taken.undo is not None
    assert taken.undo["existed"] is True
    assert len(hand.warnings) == 1
    assert hand.confirmed == 0


def test_create_index_refuses_a_different_one_showing_both(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """Every difference is shown with what was asked for and what is there."""
    client.indices.create(
        index=f"{unique}-users",
        mappings={"properties": {"email": {"type": "text"}, "age": {"type": "long"}}},
        settings={"number_of_shards": 2},
    )
    with pytest.raises(OperationFailed) as caught:
        hand.prepared(_create(f"{unique}-users"))
    for part in ('"keyword"', '"text"', '{"type": "long"}', "number_of_shards", '"1"', '"2"'):
        assert part in str(caught.value)


def test_a_bad_mapping_keeps_the_servers_message(hand: Hand, unique: str) -> None:
    """Nothing is lost of what the server says."""
    operation = _create(f"{unique}-users", mapping={"properties": {"a": {"type": "keywrd"}}})
    with pytest.raises(Exception, match="keywrd") as caught:
        hand.do(operation)
    assert "No handler for type [keywrd]" in hand.database.describe(caught.value)


# --- delete_index ---


def test_delete_index_deletes_and_accepts_its_own_after_a_crash(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """Deleting what we have deleted before the crash is fine."""
    client.indices.create(index=f"{unique}-old")
    operation = {"type": "delete_index", "index": f"{unique}-old"}
    taken = hand.prepared(operation)
    hand.look(operation, taken)
    hand.finish(operation, hand.prepared(operation))
    assert not client.indices.exists(index=f"{unique}-old")


def test_delete_index_leaves_one_that_was_created_anew(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """FAULTS 11: only the index with the recorded UUID is deleted."""
    client.indices.create(index=f"{unique}-old")
    operation = {"type": "delete_index", "index": f"{unique}-old"}
    taken = hand.prepared(operation)
    hand.look(operation, taken)
    client.index(index=f"{unique}-old", document={"by": "the application"}, refresh=True)
    hand.finish(operation, hand.prepared(operation))
    assert client.count(index=f"{unique}-old")["count"] == 1
    assert "anew" in hand.warnings[0]


def test_delete_index_of_a_missing_one_is_a_typo(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """The near name is said, and what exists is listed."""
    client.indices.create(index=f"{unique}-users")
    with pytest.raises(OperationFailed, match=f"Did you mean {unique}-users"):
        hand.prepared({"type": "delete_index", "index": f"{unique}-uesrs"})


def test_delete_index_if_exists_accepts_a_missing_one(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """And does not delete one that appears later."""
    operation = {"type": "delete_index", "index": f"{unique}-none", "if_exists": True}
    taken = hand.prepared(operation)
    client.indices.create(index=f"{unique}-none")
    hand.finish(operation, taken)
    assert client.indices.exists(index=f"{unique}-none")


def test_an_alias_is_no_index(hand: Hand, client: Elasticsearch, unique: str) -> None:
    """The error names the index behind the alias."""
    client.indices.create(index=f"{unique}-v1", aliases={f"{unique}-users": {}})
    for operation in (
        {"type": "delete_index", "index": f"{unique}-users"},
        {"type": "update_mapping", "index": f"{unique}-users", "mapping": MAPPING},
        _create(f"{unique}-users"),
    ):
        with pytest.raises(OperationFailed, match=f"an alias of {unique}-v1"):
            catalogue.parse(operation).prepare(
                hand.work(hand.take(hand.assignment(operation["type"])))
            )


# --- update_mapping ---


def test_update_mapping_adds_fields(hand: Hand, client: Elasticsearch, unique: str) -> None:
    """The fields that were there stay; a replay changes nothing."""
    client.indices.create(index=f"{unique}-users", mappings={"properties": {"n": {"type": "long"}}})
    operation = {"type": "update_mapping", "index": f"{unique}-users", "mapping": MAPPING}
    hand.look(operation, hand.prepared(operation))
    hand.finish(operation, hand.prepared(operation))
    mapping = client.indices.get_mapping(index=f"{unique}-users")[f"{unique}-users"]["mappings"]
    assert set(mapping["properties"]) == {"n", "email", "address"}


def test_update_mapping_says_what_to_do_where_a_type_changes(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """The server's message is kept, with the way out."""
    client.indices.create(
        index=f"{unique}-users", mappings={"properties": {"email": {"type": "text"}}}
    )
    operation = {"type": "update_mapping", "index": f"{unique}-users", "mapping": MAPPING}
    with pytest.raises(OperationFailed, match=r"cannot be changed from type \[text\].*reindex"):
        hand.do(operation)


def test_update_mapping_refuses_an_index_that_was_replaced(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """The recorded index is meant, not any of the same name."""
    client.indices.create(index=f"{unique}-users")
    operation = {"type": "update_mapping", "index": f"{unique}-users", "mapping": MAPPING}
    taken = hand.prepared(operation)
    client.indices.delete(index=f"{unique}-users")
    client.indices.create(index=f"{unique}-users")
    with pytest.raises(OperationFailed, match="deleted and created again"):
        hand.step(operation, taken)


# --- create_alias ---


def test_create_alias_moves_an_exclusive_one_and_records_where_it_was(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """After the one call it is on the new index only; undoing knows the old filter."""
    users, v1, v2 = f"{unique}-users", f"{unique}-v1", f"{unique}-v2"
    old = {"filter": {"term": {"old": True}}, "index_routing": "7", "search_routing": "7"}
    client.indices.create(index=v1, aliases={users: old})
    client.indices.create(index=v2)
    operation = {
        "type": "create_alias",
        "index": v2,
        "alias": users,
        "exclusive": True,
        "filter": {"term": {"active": True}},
        "is_write_index": True,
    }
    taken = hand.prepared(operation)
    assert taken.undo is not None
    assert taken.undo["before"] == {v1: old}
    hand.look(operation, taken)
    hand.finish(operation, hand.prepared(operation))
    assert client.indices.get_alias(name=users).body == {
        v2: {"aliases": {users: {"filter": {"term": {"active": True}}, "is_write_index": True}}}
    }
    assert hand.confirmed == 1
    assert hand.warnings == []


def test_create_alias_adds_beside_others(hand: Hand, client: Elasticsearch, unique: str) -> None:
    """Without `exclusive` the other indices keep it."""
    client.indices.create(index=f"{unique}-v1", aliases={f"{unique}-all": {}})
    client.indices.create(index=f"{unique}-v2")
    hand.do({"type": "create_alias", "index": f"{unique}-v2", "alias": f"{unique}-all"})
    assert set(client.indices.get_alias(name=f"{unique}-all")) == {f"{unique}-v1", f"{unique}-v2"}


def test_create_alias_accepts_an_equal_one_and_refuses_a_different_one(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """The equal one with a warning, the different one showing both."""
    client.indices.create(
        index=f"{unique}-v1", aliases={f"{unique}-a": {"filter": {"term": {"x": 1}}}}
    )
    operation = {"type": "create_alias", "index": f"{unique}-v1", "alias": f"{unique}-a"}
    with pytest.raises(OperationFailed, match=r'there is \{"filter": \{"term": \{"x": 1'):
        hand.prepared(operation)
    hand.do({**operation, "filter": {"term": {"x": 1}}})
    assert "equal" in hand.warnings[0]
    assert hand.confirmed == 0


def test_create_alias_refuses_the_name_of_an_index(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """Elasticsearch has one space of names for both."""
    client.indices.create(index=f"{unique}-v1")
    client.indices.create(index=f"{unique}-users")
    with pytest.raises(OperationFailed, match="the name of an index"):
        hand.prepared({"type": "create_alias", "index": f"{unique}-v1", "alias": f"{unique}-users"})


# --- what is found before anything runs ---


@pytest.mark.parametrize(
    ("operation", "place"),
    [
        (_create("Users"), "index"),
        (_create("logs-*"), "index"),
        (_create("users", mapping={"email": {"type": "keyword"}}), "mapping.email"),
        (_create("users", mapping={"mappings": {"properties": {}}}), "mapping.mappings"),
        ({"type": "create_alias", "index": "v1", "alias": "a,b"}, "alias"),
        ({"type": "reindex", "source": "a", "dest": {"index": "a"}}, "dest"),
    ],
)
def test_problems_name_the_place(operation: JSON, place: str) -> None:
    """Mistakes that the schema cannot see are found without a server."""
    assert [problem.place for problem in catalogue.parse(operation).problems()] == [place]


def test_the_catalogue_knows_its_operations_and_refuses_unknown_keys() -> None:
    """A key that is not known is never ignored."""
    assert catalogue_of("elasticsearch") is catalogue
    assert set(catalogue.operations) == {
        *("create_index", "delete_index", "update_mapping", "update_settings"),
        *("create_alias", "delete_alias", "reindex", "update_by_query"),
    }
    with pytest.raises(ValidationError):
        catalogue.parse({"type": "delete_index", "index": "a", "force": True})
    assert catalogue.parse({"type": "reindex", "source": "a", "dest": "b"}).problems() == []
