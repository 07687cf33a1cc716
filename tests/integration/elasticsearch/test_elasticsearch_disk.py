"""A reindex that the disks have no room for, as the server itself tells what is free."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from elasticsearch import Elasticsearch
from elasticsearch_hand import Hand

from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import catalogue, disk
from dharma_tasks.operations.elasticsearch.indices import require

_DISK = "cluster.routing.allocation.disk"


def stored(client: Elasticsearch, index: str) -> int:
    """The bytes of its primary shards."""
    size = client.indices.stats(index=index)["_all"]["primaries"]["store"]["size_in_bytes"]
    return int(size)


@pytest.fixture
def operation(client: Elasticsearch, fill: Callable[..., None], unique: str) -> JSON:
    """A copy of 2,000 documents that no search has seen yet."""
    fill(f"{unique}-v1", 0, shards=2)
    client.indices.put_settings(index=f"{unique}-v1", settings={"refresh_interval": "-1"})
    fill(f"{unique}-v1", 2000)
    client.indices.flush(index=f"{unique}-v1")
    until = time.monotonic() + 30
    while stored(client, f"{unique}-v1") < 20_000:  # for ten seconds the server tells an old size
        assert time.monotonic() < until
        time.sleep(0.2)
    client.indices.create(index=f"{unique}-v2", settings={"number_of_replicas": 1})
    return {"type": "reindex", "source": f"{unique}-v1", "dest": f"{unique}-v2"}


@pytest.fixture
def above_low(client: Elasticsearch) -> Iterator[None]:
    """A cluster that looks at its disks, which are above the watermark "low".

    Not above the others: that would block every index, and nobody would lift it.
    """
    marks = {"low": "900tb", "high": "1kb", "flood_stage": "1kb"}
    settings: JSON = {f"{_DISK}.watermark.{name}": free for name, free in marks.items()}
    settings[f"{_DISK}.threshold_enabled"] = True
    client.cluster.put_settings(transient=settings)
    yield
    client.cluster.put_settings(transient=dict.fromkeys(settings))


@pytest.mark.usefixtures("above_low")
def test_no_room_below_a_watermark(
    hand: Hand, client: Elasticsearch, operation: JSON, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before anything is changed; whoever knows better begins all the same."""
    monkeypatch.setattr(disk, "_MARKS", ("low", "low"))
    before = client.indices.get_settings(index=operation["dest"])
    with pytest.raises(OperationFailed, match=r"-v2 needs about .*B .* of which 0 B can be"):
        hand.prepared(operation)
    half = {"index": operation["source"], "query": {"range": {"n": {"lt": 1000}}}}
    with pytest.raises(OperationFailed, match=r"-v2 needs about"):
        hand.prepared({**operation, "source": half})
    hand.prepared({**operation, "check_disk": False})
    assert client.indices.get_settings(index=operation["dest"]) == before
    assert hand.warnings == []


@pytest.mark.usefixtures("above_low")
def test_above_the_low_one(hand: Hand, operation: JSON) -> None:
    """It goes on, and says what becomes of replicas."""
    hand.prepared(operation)
    (said,) = hand.warnings
    assert said.endswith(
        'above the watermark "low" Elasticsearch places no more shards, replicas neither'
    )


def test_a_cluster_that_does_not_look_at_its_disks(
    hand: Hand, operation: JSON, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is really free counts, as developers' full disks need it."""
    hand.prepared(operation)
    assert hand.warnings == []
    monkeypatch.setattr("dharma_tasks.operations.disk_space._FULL", 1e-9)
    hand.again()
    with pytest.raises(OperationFailed, match=r"of which \d+ B can be filled"):
        catalogue.parse(operation).prepare(hand.work(hand.prepared(operation)))


def test_replicas_count_where_there_is_a_node_for_them(
    hand: Hand, client: Elasticsearch, operation: JSON, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one here has none; were there two, the same would be needed twice."""
    monkeypatch.setattr("dharma_tasks.operations.disk_space._FULL", 1e-9)
    needs = []
    for copies in (1, 2):
        disks = disk._disks(client) * copies
        monkeypatch.setattr(disk, "_disks", lambda _, disks=disks: disks)
        with pytest.raises(OperationFailed) as refused:
            hand.prepared(operation)
        needs.append(int(str(refused.value).split("about ")[1].split()[0]))
        assert ("-v2 with 1 replica needs" in str(refused.value)) is (copies == 2)
        monkeypatch.undo()
        monkeypatch.setattr("dharma_tasks.operations.disk_space._FULL", 1e-9)
    assert needs[1] == pytest.approx(2 * needs[0], abs=1)


def test_what_the_server_tells(client: Elasticsearch, operation: JSON) -> None:
    """Of its disk what the system does too; of the documents their part of the index."""
    (node,) = client.nodes.stats(metric="fs")["nodes"].values()
    (found,) = disk._disks(client)
    real = shutil.disk_usage(node["fs"]["data"][0]["path"])
    assert found["total_in_bytes"] == real.total
    assert found["available_in_bytes"] == pytest.approx(real.free, rel=0.2)
    source = operation["source"]
    whole = stored(client, source)
    size, certain = disk._size(client, [source], None)
    assert (size, certain) == (pytest.approx(whole, rel=0.2), True)
    tenth = disk._size(client, [source], {"range": {"n": {"lt": 200}}})
    assert tenth == (pytest.approx(whole / 10, rel=0.2), True)
    client.delete_by_query(index=source, query={"range": {"n": {"gte": 1000}}}, refresh=True)
    assert disk._size(client, [source], None)[0] < whole


def test_fields_that_are_left_out(
    hand: Hand, operation: JSON, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How much smaller the copies are nobody knows: it is told, and not refused."""
    monkeypatch.setattr("dharma_tasks.operations.disk_space._FULL", 1e-9)
    monkeypatch.setattr("dharma_tasks.operations.disk_space._NEAR", 1e-9)
    hand.prepared({**operation, "source": {"index": operation["source"], "_source": ["n"]}})
    assert "needs at most" in hand.warnings[0]


class _Refusing(BaseHTTPRequestHandler):
    """A server that lets nobody see anything."""

    def do_GET(self) -> None:
        body = b'{"error": {"type": "security_exception", "reason": "action is unauthorized"}}'
        self.send_response(403)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_who_may_not_see_it(hand: Hand, client: Elasticsearch, operation: JSON) -> None:
    """It is told so once, and nothing is refused."""
    work = hand.work(hand.prepared(operation))
    found, dest = (require(client, operation[each]) for each in ("source", "dest"))
    with HTTPServer(("127.0.0.1", 0), _Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Elasticsearch(f"http://127.0.0.1:{server.server_port}") as refusing:
            disk.confirm_room(replace(work, handle=refusing), [found], None, dest, whole=True)
        server.shutdown()
    (said,) = hand.warnings
    assert said.startswith(
        "how much disk space is free cannot be seen, so nothing was compared: 403"
    )
