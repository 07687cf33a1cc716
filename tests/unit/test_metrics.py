"""What a worker's page for Prometheus shows, without a worker."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from typing import Any
from urllib.request import urlopen

import psutil
import pytest
from click import ClickException
from fake_run import NAMESPACE, Driver, key, migration, progress
from fakeredis import FakeRedis
from prometheus_client import CollectorRegistry, generate_latest
from structlog.testing import capture_logs

from dharma_tasks import bootsteps
from dharma_tasks.identity import owner
from dharma_tasks.lease import Leases
from dharma_tasks.local.processes import free_port
from dharma_tasks.measures import Measure, Measured, Outcome, Wait
from dharma_tasks.metrics.counters import Counters
from dharma_tasks.metrics.gauges import Gauges
from dharma_tasks.metrics.page import Page
from dharma_tasks.metrics.pipe import Pipe
from dharma_tasks.metrics.standing import Lookout, Standing
from dharma_tasks.metrics.usage import Usage
from dharma_tasks.run import Event, Next, Run
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Worker, Workers

FORK = get_context("fork")
FIRST = Next("mongodb", "1.0.0", 1)
LABELS = {"database": "mongodb", "operation": "update_documents", "direction": "forward"}


def measured(measure: Measure, amount: float = 1, detail: str = "") -> Measured:
    """Something of an operation that updates documents."""
    return Measured(measure, *LABELS.values(), amount, detail)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Wait until it is true, and return it."""
    until = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < until, f"waited for {what}"
        time.sleep(0.01)
    return found


# -- what was measured ---------------------------------------------------------------------


@pytest.fixture
def page() -> Page:
    """A page that counts."""
    page = Page(Pipe(), keep_seconds=10)
    page._counting.start()
    return page


def documents(page: Page) -> float:
    """How many were counted."""
    return page.registry.get_sample_value("dharma_documents_total", LABELS) or 0


def test_what_a_killed_child_has_counted_stays(page: Page) -> None:
    """It wrote each thing at once, and its successor counts on from there."""

    def child() -> None:
        for _ in range(50):
            page._pipe.take(measured(Measure.DOCUMENTS, 3))
        os.kill(os.getpid(), signal.SIGKILL)

    for round_ in (1, 2):
        worker = FORK.Process(target=child)
        worker.start()
        worker.join()
        assert worker.exitcode == -signal.SIGKILL
        wait_for(lambda due=150 * round_: documents(page) == due, "the counts")


def test_children_that_count_at_once(page: Page) -> None:
    """Their lines do not mix."""

    def child() -> None:
        for _ in range(2_000):
            page._pipe.take(measured(Measure.WAITED, 0.5, Wait.STRAIN))

    workers = [FORK.Process(target=child) for _ in range(3)]
    for each in workers:
        each.start()
    labels = LABELS | {"reason": "strain"}
    name = "dharma_waited_seconds_total"
    wait_for(lambda: page.registry.get_sample_value(name, labels) == 3_000, "the counts")
    for each in workers:
        each.join()


def test_nobody_waits_where_nobody_reads() -> None:
    """A worker whose main process is frozen works on; what finds no room is lost."""
    pipe = Pipe()
    began = time.monotonic()
    for _ in range(20_000):
        pipe.take(measured(Measure.BATCH, 1.5))
    assert time.monotonic() - began < 20
    lines = pipe.lines()
    assert {next(lines) for _ in range(500)} == {measured(Measure.BATCH, 1.5)}


def test_each_measure_has_its_counter() -> None:
    """By database, operation and direction, and where there is one by its detail."""
    registry = CollectorRegistry()
    counters = Counters(registry)
    for measure, detail in (
        (Measure.BATCH, ""),
        (Measure.DOCUMENTS, ""),
        (Measure.WAITED, Wait.RATE),
        (Measure.RETRY, "conflict"),
        (Measure.END, Outcome.FAILED),
    ):
        for amount in (0.25, 2):
            counters.take(measured(measure, amount, detail))
    samples = {
        (sample.name, *(sample.labels.keys() - LABELS.keys())): sample.value
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_created"))
    }
    assert samples == {
        ("dharma_batch_seconds_count",): 2,
        ("dharma_batch_seconds_sum",): 2.25,
        ("dharma_documents_total",): 2.25,
        ("dharma_waited_seconds_total", "reason"): 2.25,
        ("dharma_retries_total", "fault"): 2.25,
        ("dharma_operations_ended_total", "outcome"): 2.25,
    }


@pytest.fixture
def driver() -> Driver:
    """A run of one migration in MongoDB, which PostgreSQL waits for."""
    redis = FakeRedis(decode_responses=True)
    return Driver(
        redis,
        migration("mongodb", "1.0.0"),
        migration("postgresql", "1.0.0", "mongodb:1.0.0"),
    )


# -- how the runs stand --------------------------------------------------------------------


class Sight:
    """A page's gauges, of what a lookout sees in a fake Redis."""

    def __init__(self, driver: Driver) -> None:
        settings = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
        self.registry = CollectorRegistry()
        self.gauges = Gauges(keep_seconds=10)
        self.registry.register(self.gauges)
        self.lookout = Lookout(settings, driver.redis)

    def look(self) -> None:
        """Look, and show it."""
        self.gauges.show(self.lookout.look())

    def value(self, name: str, **labels: str) -> float | None:
        """One sample, as of the last look."""
        return self.registry.get_sample_value(name, labels)

    def standings(self) -> dict[str, str]:
        """How it stands now, by database."""
        self.look()
        return {
            sample.labels["database"]: sample.labels["state"]
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == "dharma_operations" and sample.value
        }


@pytest.fixture
def sight(driver: Driver) -> Sight:
    """The gauges."""
    return Sight(driver)


@pytest.fixture
def run(driver: Driver) -> Run:
    """The run at its first operation, which a worker has begun; workers serve both databases."""
    run = driver.submit()
    driver.start(run)
    driver.runs.report(run.id, "mongodb", progress(FIRST))
    Leases(driver.redis, NAMESPACE, 10).acquire(key(FIRST), owner("w", {}), run.id)
    served = Worker(name="w", databases=("mongodb", "postgresql"))
    Workers(driver.redis, NAMESPACE).announce(served, 100)
    return run


def told(kind: str) -> Event:
    """Something that a person did."""
    return Event(at=datetime.now(UTC), kind=kind, text="me@here")


def test_how_the_operations_stand(driver: Driver, sight: Sight, run: Run) -> None:
    """From a worker that works to one that is gone, each under its own name."""
    found = [sight.standings()]
    assert (sight.value("dharma_runs", state="running"), sight.value("dharma_redis_up")) == (1, 1)
    for changes in ({"waiting": "lock timeout"}, {"opens": time.time() + 60}):
        driver.runs.report(run.id, "mongodb", progress(FIRST, **changes))
        found.append(sight.standings())
    driver.runs.report(run.id, "mongodb", progress(FIRST))
    driver.redis.delete(f"{NAMESPACE}:lease:{key(FIRST)}")
    found.append(sight.standings())
    driver.runs.pause(run, told("paused"))
    found.append(sight.standings())
    driver.runs.resume(run, told("resumed"))
    Workers(driver.redis, NAMESPACE).leave("w")
    found.append(sight.standings())
    assert [each["mongodb"] for each in found] == [
        Standing.WORKING,
        Standing.WAITING,
        Standing.RESTING,
        Standing.UNATTENDED,
        Standing.PAUSED,
        Standing.UNSERVED,
    ]
    assert [each["postgresql"] for each in found] == [
        *[Standing.DEPENDING] * 4,
        Standing.PAUSED,
        Standing.UNSERVED,
    ]


def test_labels_have_few_values(driver: Driver, sight: Sight, run: Run) -> None:
    """No run, migration, person, worker or error: those would be new series without end."""
    driver.runs.report(run.id, "mongodb", progress(FIRST, waiting="lock timeout"))
    sight.look()
    page = generate_latest(sight.registry).decode()
    assert 'state="waiting"} 1.0' in page
    for text in (run.id, run.by, "1.0.0", "users", "celery@host", "lock timeout"):
        assert text not in page


def test_what_will_not_begin_is_not_waited_for(driver: Driver, sight: Sight, run: Run) -> None:
    """Once the run is failing, or a database is through with it."""
    driver.move(run, FIRST)
    assert sight.standings() == {"postgresql": Standing.UNATTENDED}
    driver.fail(run, Next("postgresql", "1.0.0", 1))
    assert sight.standings() == {}
    assert sight.value("dharma_runs_ended_total", state="failed") == 1
    assert sight.value("dharma_runs_ended_total", state="done") == 0
    for name in ("mongodb", "postgresql"):
        assert sight.value("dharma_last_run", database=name, state="failed") == 1


def test_how_old_the_signs_of_life_are(driver: Driver, sight: Sight, run: Run) -> None:
    """While there should be some: not of what is paused, or rests."""
    old = progress(FIRST, heartbeat=time.time() - 30, stuck_for=25.0)
    driver.runs.report(run.id, "mongodb", old)
    driver.redis.pexpire(f"{NAMESPACE}:lease:{key(FIRST)}", timedelta(seconds=4))
    sight.look()
    ages = ("dharma_lease_age_seconds", "dharma_heartbeat_age_seconds", "dharma_stuck_seconds")
    found = [sight.value(name, database="mongodb") for name in ages]
    assert found == [pytest.approx(each, abs=3) for each in (6, 30, 25)]
    counts = ("dharma_operation_documents", "dharma_operation_documents_expected")
    assert [sight.value(name, database="mongodb") for name in counts] == [61_000, 100_000]
    driver.runs.pause(run, told("paused"))
    sight.look()
    assert [sight.value(name, database="mongodb") for name in ages] == [None] * 3


def test_what_was_seen_long_ago_is_not_shown(
    sight: Sight, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Redis is away, or the worker's loop stands still, nobody takes it for what is now."""
    assert sight.value("dharma_redis_up") == 0
    sight.look()
    assert sight.value("dharma_workers", database="mongodb") == 1
    later = time.monotonic() + 11
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert sight.value("dharma_redis_up") == 0
    assert sight.value("dharma_workers", database="mongodb") is None


# -- the page ------------------------------------------------------------------------------


def ask(port: int) -> str:
    """What Prometheus reads."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


def test_a_port_that_is_taken(page: Page) -> None:
    """It is said once, nothing else happens, and when it is free the page opens."""
    with socket.create_server(("127.0.0.1", 0)) as other, capture_logs() as logs:
        port = other.getsockname()[1]
        for _ in range(3):
            page.open("127.0.0.1", port)
    assert [(each["event"], each["port"]) for each in logs] == [("metrics_wait", port)]
    page._pipe.take(measured(Measure.DOCUMENTS, 7))
    wait_for(lambda: documents(page) == 7, "the count")
    page.open("127.0.0.1", port)
    page.open("127.0.0.1", port)
    assert "dharma_documents_total{" in ask(port)


def listens(pid: int | None, port: int) -> bool:
    """Whether a process has the port open."""
    found = psutil.Process(pid).net_connections(kind="tcp")
    return any(each.laddr and each.laddr.port == port for each in found)


def test_a_child_does_not_keep_the_port(page: Page) -> None:
    """One that outlives its worker leaves it to the next worker."""
    port = free_port(set())
    page.open("127.0.0.1", port)
    child = FORK.Process(target=time.sleep, args=(60,))
    child.start()
    try:
        wait_for(lambda: not listens(child.pid, port), "the child to close it")
        assert "dharma_redis_up 0.0" in ask(port)
    finally:
        child.kill()
        child.join()


@contextmanager
def spinning() -> Iterator[psutil.Process]:
    """A child that uses a processor until the end of the block."""
    child = FORK.Process(target=_spin)
    child.start()
    try:
        yield psutil.Process(child.pid)
    finally:
        child.kill()
        child.join()


def _spin() -> None:
    while True:
        pass


def test_what_dead_children_have_used_stays() -> None:
    """Their processor time is counted on, with that of the next ones; their memory is free."""
    registry = CollectorRegistry()
    registry.register(Usage())

    def value(name: str) -> float:
        return registry.get_sample_value(name, {"processes": "children"}) or 0

    spent = value(seconds := "dharma_worker_cpu_seconds_total")
    for _ in range(2):
        with spinning() as child:
            wait_for(lambda own=child: own.cpu_times().user > 0.3, "its time")
            assert value(seconds) >= spent + 0.3
            assert value("dharma_worker_memory_bytes") > 0
        spent = value(seconds)
    assert value("dharma_worker_memory_bytes") == 0


def test_without_the_library_no_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a port is set, and it says how to get it; where none is set, nobody needs it."""
    assert not bootsteps.Metrics(None).include_if(None)
    monkeypatch.setattr(bootsteps, "_pipe", Pipe())
    monkeypatch.setattr(bootsteps, "find_spec", lambda _name: None)
    step = bootsteps.Metrics(None)
    assert step.include_if(None)
    with pytest.raises(ClickException, match="pip install prometheus_client"):
        step.create(None)
