"""A bad network between worker and database, and worker and Redis: cut, slow, a black hole.

The worker goes through a proxy that fails on command; the test looks past it. FAULTS 18 is a
black hole: the peer takes everything and answers nothing.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
from disturbed import (
    Batched,
    Copied,
    Documents,
    assert_undisturbed,
    begin,
    gave_up,
    hastened,
    progress,
)
from place import Place, wait_for
from proxy import HOST, Proxy
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from dharma_tasks.redis_client import connect_redis

Door = Callable[[str], Proxy]
Works = tuple[Copied, Documents, Batched]


@pytest.fixture
def place(place: Place) -> Place:
    """In a hurry."""
    return hastened(place)


@pytest.fixture
def door(place: Place) -> Iterator[Door]:
    """Make a proxy in front of a database, or of Redis."""
    with ExitStack() as stack:

        def make(name: str) -> Proxy:
            host, port = address(place.url(name))
            return stack.enter_context(Proxy(host, port, http=name == "elasticsearch"))

        yield make


def address(url: str) -> tuple[str, int]:
    """Host and port of a URL; the test's own for PostgreSQL is a connection string."""
    if "://" in url:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or 0
    found = conninfo_to_dict(url)
    return str(found["host"]), int(found["port"] or 0)


def through(place: Place, **doors: Proxy) -> dict[str, str]:
    """The environment of a worker that goes through these proxies."""
    found = {}
    for name, proxy in doors.items():
        url = place.url(name)
        if name == "postgresql":
            found[name] = make_conninfo(url, host=HOST, port=proxy.port)
        else:
            host, port = address(url)
            found[name] = url.replace(f"{host}:{port}", f"{HOST}:{proxy.port}")
            # With a set's name the driver would go to the address that the server itself names.
            found[name] = found[name].replace("replicaSet=dharma", "directConnection=true")
    return {f"DHARMA_{name.upper()}_URL": url for name, url in found.items()}


@pytest.fixture
def works(place: Place) -> Works:
    """A long operation in each of the three databases; one worker does them side by side."""
    return Copied(place), Documents(place), Batched(place)


@pytest.fixture
def doors(works: Works, door: Door) -> dict[str, Proxy]:
    """A proxy in front of each of the three."""
    return {work.database: door(work.database) for work in works}


@pytest.mark.long
def test_connections_cut(place: Place, works: Works, doors: dict[str, Proxy]) -> None:
    """Every connection to three databases is reset, again and again: it goes on by itself."""
    submitted = begin(place, works, **through(place, **doors))
    for _ in range(3):
        for work in works:
            before = work.done()
            if before < work.rows:
                wait_for(doors[work.database].cut, "a connection to cut")
                progress(work, before)
    works[0].hurry()
    assert_undisturbed(place, submitted, *works)
    assert "fault=passing" in place.log()


MARKS = {"postgresql": b"COMMIT", "mongodb": b"commitTransaction", "elasticsearch": b"PUT /"}
"""What a request holds that makes something durable."""


@pytest.mark.long
def test_answers_lost(place: Place, works: Works, doors: dict[str, Proxy]) -> None:
    """The server commits and its answer is lost: a new fence, the cursor read again (Law 3)."""
    submitted = begin(place, works, **through(place, **doors))
    for name, proxy in doors.items():
        proxy.lose_answers(MARKS[name], times=4)
    assert_undisturbed(place, submitted, *works)
    assert {name: proxy.lost for name, proxy in doors.items()} == dict.fromkeys(doors, 4)


@pytest.mark.campaign
def test_slow_network(place: Place, works: Works, doors: dict[str, Proxy]) -> None:
    """300 ms each way, for every answer: slower, and a healthy worker keeps its lease."""
    usual = 10.0
    place.settings = place.settings.model_copy(update={"lease_seconds": usual})
    submitted = begin(place, works, **through(place, **doors))
    before = [work.done() for work in works]
    holders = [work.holder() for work in works]
    assert None not in holders
    for proxy in doors.values():
        proxy.delay = 0.3
    until = time.monotonic() + usual + 2
    while time.monotonic() < until:
        for work, holder in zip(works, holders, strict=True):
            assert work.holder() in {holder, None if work.done() == work.rows else holder}
        time.sleep(0.2)
    assert all(work.done() > then for work, then in zip(works, before, strict=True))
    for proxy in doors.values():
        proxy.delay = 0
    works[0].hurry()
    assert_undisturbed(place, submitted, *works)
    assert "stepped_aside" not in place.log()


@pytest.mark.long
def test_black_hole_of_one_worker(place: Place, works: Works, doors: dict[str, Proxy]) -> None:
    """FAULTS 18: its leases run out, another worker takes over, the hung one commits nothing.

    Its children give up by themselves: PostgreSQL's after three leases, MongoDB's when the
    driver's monitor has missed an answer, Elasticsearch's after short requests that fail.
    """
    submitted = begin(place, works, **through(place, **doors))
    for proxy in doors.values():
        proxy.swallow()
    taken_over(place, submitted, works)


@pytest.mark.long
def test_one_worker_is_refused(place: Place, works: Works, doors: dict[str, Proxy]) -> None:
    """Law 8: it hears errors, not silence, and tries again; a worker that is not goes on."""
    submitted = begin(place, works, **through(place, **doors))
    for proxy in doors.values():
        proxy.refuse()
        proxy.cut()
    taken_over(place, submitted, works)


def taken_over(place: Place, submitted: subprocess.Popen[str], works: Works) -> None:
    """A second worker, which is not cut off, goes on; the first one leaves everything to it."""
    before = [work.done() for work in works]
    place.start_worker()
    for work, then in zip(works, before, strict=True):
        assert then < work.rows
        progress(work, then)
    works[0].hurry()
    assert_undisturbed(place, submitted, *works)
    wait_for(lambda: len(gave_up(place)) >= len(works), "the first worker's reasons in its log")


@pytest.mark.campaign
def test_black_hole_that_heals(place: Place, works: Works, doors: dict[str, Proxy]) -> None:
    """The only worker hangs, in each of its children, for longer than its leases: it goes on."""
    submitted = begin(place, works, **through(place, **doors))
    before = [work.done() for work in works]
    for proxy in doors.values():
        proxy.swallow()
    for silent in works[1:]:
        wait_for(lambda silent=silent: silent.holder() is None, "the end of the lease")  # type: ignore[misc]
    for proxy in doors.values():
        proxy.heal()
    works[0].hurry()
    for work, then in zip(works, before, strict=True):
        progress(work, then)
    assert_undisturbed(place, submitted, *works)


@pytest.mark.long
def test_elasticsearch_refuses_for_a_while(place: Place, door: Door) -> None:
    """429 and 503 to many requests in a row: waited for, with the reason shown; once (Law 10)."""
    work = Copied(place)
    proxy = door("elasticsearch")
    submitted = begin(place, [work], **through(place, elasticsearch=proxy))
    for status in (429, 503):
        proxy.fail(*[status] * 3)
        wait_for(lambda status=status: str(status) in (work.waiting() or ""), "the reason")  # type: ignore[misc]
    work.hurry()
    assert_undisturbed(place, submitted, work)
    assert proxy.failed == 6


@pytest.mark.long
def test_redis_cut(place: Place, door: Door) -> None:
    """The worker's connections to Redis are reset, and refused for longer than the lease."""
    work = Batched(place)
    proxy = door("redis")
    submitted = begin(place, [work], **through(place, redis=proxy))
    for _ in range(3):
        before = work.done()
        proxy.cut()
        progress(work, before)
    proxy.refuse()
    proxy.cut()
    wait_for(lambda: "Redis could not be reached" in place.log(), "the worker's reason")
    before = work.done()
    assert before < work.rows
    proxy.accept()
    assert_undisturbed(place, submitted, work)


@pytest.mark.long
def test_redis_is_a_black_hole_for_one_worker(place: Place, door: Door) -> None:
    """It cannot know its lease any more: another worker takes over, and the first stops."""
    work = Batched(place)
    proxy = door("redis")
    submitted = begin(place, [work], **through(place, redis=proxy))
    first = work.holder()
    proxy.swallow()
    place.start_worker()
    wait_for(lambda: work.holder() not in {None, first}, "the second worker's lease")
    assert_undisturbed(place, submitted, work)
    wait_for(lambda: "stepped_aside" in place.log(0), "the first worker's reason in its log")
    assert connect_redis(place.settings).keys(f"{place.settings.namespace}:lease:*") == []
