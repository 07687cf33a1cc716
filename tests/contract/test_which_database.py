"""`Database.whereabouts`: the same however it is reached, and another one elsewhere."""

from __future__ import annotations

import pytest
from elasticsearch import Elasticsearch
from pydantic import SecretStr

from dharma_tasks.databases import NAMES, connect
from dharma_tasks.errors import Unreachable
from dharma_tasks.reading import whereabouts
from dharma_tasks.settings import Settings


def test_it_is_the_same_for_everybody(settings: Settings) -> None:
    """By another name of the host, in another session, before and after it is worked in."""
    other = settings.model_copy(
        update={
            f"{name}_url": SecretStr(url.get_secret_value().replace("127.0.0.1", "localhost"))
            for name in NAMES
            if (url := settings.url(name))
        }
    )
    found = whereabouts(NAMES, settings)
    assert sorted(found) == sorted(NAMES)
    assert len({*found.values()}) == len(NAMES)
    assert whereabouts(NAMES, other) == found


@pytest.mark.parametrize("name", ["mongodb", "postgresql"])
def test_a_neighbour_on_the_same_server(settings: Settings, name: str) -> None:
    """Another database of the server is another one."""
    url = settings.url(name)
    assert url is not None
    there = "other" if name == "mongodb" else "postgres"
    moved = SecretStr(url.get_secret_value().replace(settings.namespace, there))
    neighbour = settings.model_copy(update={f"{name}_url": moved})
    found, other = (whereabouts([name], each)[name] for each in (settings, neighbour))
    assert settings.namespace in found
    assert there in other
    assert found != other


def test_a_name_beside_the_url_wins(settings: Settings) -> None:
    """MongoDB's URL may name another database, by which somebody is authenticated."""
    other = settings.model_copy(update={"mongodb_database": "other"})
    found = whereabouts(["mongodb"], other)["mongodb"]
    assert found.startswith("other of ")
    assert found == whereabouts(["mongodb"], settings)["mongodb"].replace(
        settings.namespace, "other"
    )


def test_one_node_of_a_cluster_is_away(settings: Settings) -> None:
    """Of several URLs with commas between, one that answers is enough, whichever comes first."""
    found = whereabouts(["elasticsearch"], settings)
    url = settings.elasticsearch_url
    assert url is not None
    both = SecretStr(f"http://127.0.0.1:1, {url.get_secret_value()}")
    several = settings.model_copy(update={"elasticsearch_url": both})
    for _ in range(8):  # the driver begins at any of them
        assert whereabouts(["elasticsearch"], several) == found


def test_elasticsearch_names_its_master_s_process(settings: Settings) -> None:
    """Every node knows it; a cluster that is started from a copy of the files has another one."""
    url = settings.elasticsearch_url
    assert url is not None
    with Elasticsearch(url.get_secret_value()) as client:
        state = client.cluster.state(metric=["master_node", "nodes"])
    process = state["nodes"][state["master_node"]]["ephemeral_id"]
    found = whereabouts(["elasticsearch"], settings)["elasticsearch"]
    assert found.endswith(f"({state['cluster_uuid']}), master process {process}")


def test_it_makes_nothing(settings: Settings) -> None:
    """No journal either."""
    whereabouts(NAMES, settings)
    for name in NAMES:
        database = connect(name, settings)
        assert database.journal.survey().head is None
        database.close()


def test_a_server_that_does_not_answer(settings: Settings) -> None:
    """All of them are named, and their passwords are not."""
    nowhere = "postgresql://me:secret@127.0.0.1:1/app"
    broken = settings.model_copy(update={"postgresql_url": SecretStr(nowhere)})
    with pytest.raises(Unreachable, match="postgresql cannot be read") as caught:
        whereabouts(NAMES, broken)
    assert "secret" not in str(caught.value)
