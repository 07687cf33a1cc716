"""What a live worker tells Prometheus, scraped while it carries out a real operation."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

import psutil
from place import Place, wait_for
from prometheus_client.parser import text_string_to_metric_families
from pymongo import MongoClient
from pymongo.database import Database

from dharma_tasks.local.processes import free_port

DOCUMENTS = 3_000
RATE = 1_000
OPERATION = {"database": "mongodb", "operation": "update_documents", "direction": "forward"}


@dataclass(frozen=True)
class Scraper:
    """Asks a worker's page, as Prometheus does."""

    port: int

    def text(self) -> str:
        """The whole page."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            return str(answer.read().decode())

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples with these labels; 0 without one."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


def test_a_live_worker_is_scraped(place: Place, mongodb: Database[dict[str, Any]]) -> None:
    """Values move while it works, and are right at the end, to the document.

    A real write conflict counts as retries, and the time until it is over as waited. What children
    have counted outlives them.
    """
    mongodb["users"].insert_many({"_id": n, "n": 0} for n in range(DOCUMENTS))
    update = {"collection": "users", "filter": {}, "update": {"$inc": {"n": 1}}}
    operation = {"type": "update_documents", **update, "batch": {"seconds": 0.3}}
    place.write("mongodb", "001_count", {"version": "1.0.0", "operations": [operation]})
    scraper = Scraper(free_port(set()))
    worker = place.start_worker(
        "-Q", "mongodb", DHARMA_METRICS_PORT=str(scraper.port), DHARMA_RESCUE_SECONDS="0.5"
    )
    with MongoClient[dict[str, Any]](place.url("mongodb")) as client, client.start_session() as own:
        own.start_transaction()
        last = {"_id": DOCUMENTS - 1}
        client[mongodb.name]["users"].update_one(last, {"$set": {"ours": True}}, session=own)
        submitted = place.start_submit("--max-rate", str(RATE))
        counted = wait_for(lambda: scraper.value("dharma_documents_total"), "the first batch")
        assert 0 < counted < DOCUMENTS
        wait_for(lambda: scraper.value("dharma_operation_documents"), "the progress")
        assert scraper.value("dharma_runs", state="running") == 1
        assert scraper.value("dharma_operation_documents_expected") == DOCUMENTS
        assert 'dharma_lease_age_seconds{database="mongodb"}' in scraper.text()
        assert scraper.value("dharma_lease_age_seconds", database="mongodb") < 10
        wait_for(lambda: scraper.value("dharma_retries_total", fault="conflict"), "the conflict")
        own.abort_transaction()
    assert submitted.wait(60) == 0, place.logs_text()
    assert mongodb["users"].count_documents({"n": 1}) == DOCUMENTS
    wait_for(lambda: scraper.value("dharma_runs_ended_total", state="done"), "the end")
    for pid in (before := {child.pid for child in psutil.Process(worker.pid).children()}):
        os.kill(pid, signal.SIGKILL)
    wait_for(
        lambda: before.isdisjoint(child.pid for child in psutil.Process(worker.pid).children()),
        "other children",
    )
    assert scraper.value("dharma_documents_total", **OPERATION) == DOCUMENTS
    assert scraper.value("dharma_operations_ended_total", **OPERATION, outcome="done") == 1
    batches = scraper.value("dharma_batch_seconds_count", **OPERATION)
    assert DOCUMENTS / RATE / 0.3 <= batches <= DOCUMENTS
    assert 0 < scraper.value("dharma_batch_seconds_sum") < batches
    assert scraper.value("dharma_waited_seconds_total", reason="rate") > DOCUMENTS / RATE / 2
    assert scraper.value("dharma_waited_seconds_total", reason="retry") > 0
    assert scraper.value("dharma_worker_cpu_seconds_total", processes="children") > 0
