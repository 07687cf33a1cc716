"""A corner of Elasticsearch for each test."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import elasticsearch_state
import pytest
from elasticsearch import Elasticsearch, helpers
from elasticsearch_hand import Hand
from pydantic import SecretStr

from dharma_tasks.databases.elasticsearch import database
from dharma_tasks.local import LocalEngines
from dharma_tasks.migration import JSON
from dharma_tasks.settings import Settings


@pytest.fixture(scope="session")
def elasticsearch_url(engines: LocalEngines) -> SecretStr:
    """Where the server is."""
    return SecretStr(engines.environment()["DHARMA_ELASTICSEARCH_URL"])


@pytest.fixture(scope="session")
def server(elasticsearch_url: SecretStr) -> Iterator[Elasticsearch]:
    """A client of the tests' own."""
    with Elasticsearch(elasticsearch_url.get_secret_value(), request_timeout=60) as made:
        yield made


@pytest.fixture(scope="session")
def shared_journal(server: Elasticsearch) -> Iterator[str]:
    """A namespace for tests that are not about the journal: making its indices takes long."""
    name = f"t{uuid.uuid4().hex[:12]}"
    yield name
    _delete(server, name)


@pytest.fixture
def namespace(shared_journal: str) -> str:
    """Whose journal is used; overridden where a test needs one of its own."""
    return shared_journal


@pytest.fixture
def settings(elasticsearch_url: SecretStr, namespace: str) -> Settings:
    """Settings for Elasticsearch alone."""
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        elasticsearch_url=elasticsearch_url,
        namespace=namespace,
    )


@pytest.fixture
def client(server: Elasticsearch, unique: str) -> Iterator[Elasticsearch]:
    """The client; every index that begins with `unique` is deleted after."""
    yield server
    _delete(server, unique)


def _delete(server: Elasticsearch, prefix: str) -> None:
    indices = list(server.indices.get(index=f"{prefix}*"))
    if indices:
        server.indices.delete(index=indices)


@pytest.fixture
def hands(
    settings: Settings, client: Elasticsearch, unique: str
) -> Iterator[Callable[[str], Hand]]:
    """Makes workers, each with a connection of its own, in a run that is open: the test's own."""
    made: list[Hand] = []
    version = ".".join(str(int(unique[at : at + 4], 16)) for at in (1, 5, 9))

    def make(worker: str) -> Hand:
        there = database(settings)
        head = there.journal.survey().head
        generation = 1 + (head.generation if head else 0)
        made.append(Hand(there, worker, version, run=unique, generation=generation))
        made[-1].begin()  # where the run is open already, it is joined
        return made[-1]

    yield make
    for each in made:
        each.database.close()


@pytest.fixture
def hand(hands: Callable[[str], Hand]) -> Hand:
    """One worker."""
    return hands("first")


@pytest.fixture
def fill(client: Elasticsearch) -> Callable[..., None]:
    """Writes documents 0, 1, 2, … into an index, making it where it is missing."""

    def write(index: str, number: int, shards: int = 1, start: int = 0) -> None:
        if not client.indices.exists(index=index):
            client.indices.create(
                index=index,
                mappings={"properties": {"n": {"type": "long"}, "name": {"type": "keyword"}}},
                settings={"number_of_shards": shards, "number_of_replicas": 0},
            )
        documents = (
            {"_index": index, "_id": str(n), "n": n, "name": f"name {n}"}
            for n in range(start, start + number)
        )
        helpers.bulk(client, documents, chunk_size=5000)

    return write


@pytest.fixture
def content(client: Elasticsearch) -> Callable[[str], dict[str, JSON]]:
    """Reads all documents of an index, by id."""
    return lambda index: elasticsearch_state.documents(client, index)


@pytest.fixture
def state(client: Elasticsearch, unique: str) -> Callable[[], JSON]:
    """Reads everything: indices, mappings, settings, aliases, documents."""
    return lambda: elasticsearch_state.state(client, f"{unique}*")
