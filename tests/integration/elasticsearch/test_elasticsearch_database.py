"""What the driver's errors mean, and that nothing is retried behind our back."""

from __future__ import annotations

import socket

import pytest
from elasticsearch import BadRequestError, Elasticsearch, NotFoundError, TransportError
from elasticsearch_hand import Hand
from pydantic import SecretStr

from dharma_tasks.databases.base import Fault
from dharma_tasks.databases.elasticsearch import ElasticsearchDatabase, database
from dharma_tasks.databases.elasticsearch.errors import passes
from dharma_tasks.migration import JSON
from dharma_tasks.settings import Settings


def _at(url: str, lease_seconds: float = 10) -> ElasticsearchDatabase:
    return database(
        Settings(
            _env_file=None,  # type: ignore[call-arg]
            elasticsearch_url=SecretStr(url),
            lease_seconds=lease_seconds,
        )
    )


def test_a_server_that_is_not_there_is_a_passing_error_without_secrets() -> None:
    """The password of the URL appears nowhere."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    there = _at(f"http://elastic:secret%2Fword@127.0.0.1:{port}")
    with pytest.raises(TransportError) as caught:
        there.journal.survey()
    assert "refused" in there.describe(caught.value)
    assert there.classify(caught.value) is Fault.PASSING
    assert "secret" not in there.describe(caught.value) + str(caught.value)


def test_a_server_that_never_answers_is_given_up_and_asked_only_once() -> None:
    """A request ends well before the lease does, and is not sent again (FAULTS 18)."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = _at(f"http://127.0.0.1:{server.getsockname()[1]}", lease_seconds=1)
        with pytest.raises(TransportError, match="timed out") as caught:
            there.journal.survey()
        assert there.classify(caught.value) is Fault.PASSING
        server.settimeout(0.3)
        server.accept()
        with pytest.raises(TimeoutError):
            server.accept()


@pytest.mark.parametrize(
    ("cause", "passing"),
    [
        ({"type": "es_rejected_execution_exception", "reason": "queue is full"}, True),
        ({"type": "x", "reason": "", "caused_by": {"type": "node_closed_exception"}}, True),
        ({"type": "search_phase_execution_exception", "failed_shards": []}, True),
        (
            {
                "type": "search_phase_execution_exception",
                "failed_shards": [{"reason": {"type": "query_shard_exception", "reason": "bad"}}],
            },
            False,
        ),
        ({"type": "mapper_parsing_exception", "reason": "no"}, False),
    ],
)
def test_errors_in_the_result_of_a_task(cause: JSON, passing: bool) -> None:  # noqa: FBT001
    """They have no status; seen right after a kill of the server: a search without shards."""
    assert passes(None, cause) is passing


def test_what_the_server_refuses_is_lasting_and_described_whole(
    hand: Hand, client: Elasticsearch, unique: str
) -> None:
    """Status, type, reason and cause are all there."""
    client.indices.create(index=f"{unique}-a", mappings={"properties": {"n": {"type": "long"}}})
    with pytest.raises(BadRequestError) as caught:
        hand.database.handle.index(index=f"{unique}-a", document={"n": "many"})
    assert hand.database.classify(caught.value) is Fault.LASTING
    told = hand.database.describe(caught.value)
    for part in ("400", "mapper_parsing_exception", "[n] of type [long]", '"many"'):
        assert part in told
    with pytest.raises(NotFoundError) as missing:
        hand.database.handle.count(index=f"{unique}-none")
    assert f"no such index [{unique}-none]" in hand.database.describe(missing.value)
