"""Leases: one holder, a dead neighbour's taken at once, and only one's own given back."""

from __future__ import annotations

import subprocess
import sys
from unittest.mock import patch

import pytest
from fake_run import NAMESPACE
from fakeredis import FakeRedis, FakeServer
from redis import Redis

from dharma_tasks.errors import LeaseHeld, LeaseLost
from dharma_tasks.identity import owner, started
from dharma_tasks.lease import Leases
from dharma_tasks.migration import Key
from dharma_tasks.records import Owner

KEY = Key(database="mongodb", version="1.0.0", number=1)


@pytest.fixture
def server() -> FakeServer:
    """A Redis that can be switched off."""
    return FakeServer()


@pytest.fixture
def redis(server: FakeServer) -> Redis:
    """A client of it."""
    return FakeRedis(server=server, decode_responses=True)


@pytest.fixture
def leases(redis: Redis) -> Leases:
    """Leases of ten seconds."""
    return Leases(redis, NAMESPACE, 10)


def me() -> Owner:
    """This process, which is alive."""
    return owner("me@here", {})


def dead() -> Owner:
    """A real process of this node that has ended."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        begun = started(child.pid)
        assert begun is not None
        child.stdin.close()
    return me().model_copy(update={"worker": "dead@here", "pid": child.pid, "started": begun})


def test_one_holder_at_a_time(leases: Leases) -> None:
    """A second worker is told who has the lease, until the first gives it up."""
    lease = leases.acquire(KEY, me(), "run")
    with pytest.raises(LeaseHeld, match=r"mongodb:1\.0\.0#1 is held by me@here"):
        leases.acquire(KEY, me(), "run")
    assert leases.holder(KEY) == me()
    lease.release()
    assert leases.holder(KEY) is None
    leases.acquire(KEY, me(), "run").confirm()


def test_leases_are_on_exactly_one_operation(leases: Leases) -> None:
    """The next operation's lease is another one."""
    leases.acquire(KEY, me(), "run")
    leases.acquire(KEY.model_copy(update={"number": 2}), me(), "run").confirm()


def test_a_dead_neighbours_lease_is_taken_at_once(leases: Leases) -> None:
    """On the holder's own node nobody waits for the time to run out (FAULTS 16)."""
    former = leases.acquire(KEY, dead(), "run")
    assert leases.holder(KEY) is None
    lease = leases.acquire(KEY, me(), "run")
    lease.confirm()
    with pytest.raises(LeaseLost):
        former.renew()


def test_of_two_that_take_from_the_dead_one_wins(leases: Leases, redis: Redis) -> None:
    """Between seeing that the holder is dead and taking over, another one may have done it."""
    leases.acquire(KEY, dead(), "run")
    seen = redis.get(f"{NAMESPACE}:lease:{KEY}")
    leases.acquire(KEY, me(), "run")
    with patch.object(redis, "get", return_value=seen), pytest.raises(LeaseHeld):
        leases.acquire(KEY, me(), "run")


def test_a_lease_of_another_node_is_waited_for(leases: Leases) -> None:
    """Nobody can see from here whether a process of another machine is alive."""
    leases.acquire(KEY, dead().model_copy(update={"node": "elsewhere"}), "run")
    with pytest.raises(LeaseHeld, match="dead@here"):
        leases.acquire(KEY, me(), "run")


def test_a_pid_that_was_given_again_is_not_the_holder(leases: Leases) -> None:
    """A process with the holder's pid that started at another time is somebody else."""
    leases.acquire(KEY, me().model_copy(update={"started": 1.0}), "run")
    leases.acquire(KEY, me(), "run").confirm()


def test_a_lease_lives_as_long_as_it_was_made_for(leases: Leases, redis: Redis) -> None:
    """A sign of life sets the whole time anew."""
    lease = leases.acquire(KEY, me(), "run")
    assert 9_000 < redis.pttl(f"{NAMESPACE}:lease:{KEY}") <= 10_000
    redis.pexpire(f"{NAMESPACE}:lease:{KEY}", 500)
    lease.renew()
    assert 9_000 < redis.pttl(f"{NAMESPACE}:lease:{KEY}") <= 10_000


def test_a_lease_that_ran_out_unwanted_is_renewed(leases: Leases, redis: Redis) -> None:
    """Nobody else took it meanwhile: the fence decides, so it is ours again."""
    lease = leases.acquire(KEY, me(), "run")
    redis.delete(f"{NAMESPACE}:lease:{KEY}")
    lease.renew()
    assert leases.holder(KEY) == me()


def test_a_lease_that_another_took_is_lost(leases: Leases, redis: Redis) -> None:
    """Neither a renewal nor a confirmation takes it back, and a release leaves it alone."""
    lease = leases.acquire(KEY, me(), "run")
    redis.delete(f"{NAMESPACE}:lease:{KEY}")
    other = leases.acquire(KEY, me(), "run")
    for attempt in (lease.renew, lease.confirm):
        with pytest.raises(LeaseLost, match="another worker has the lease now"):
            attempt()
    lease.release()
    other.confirm()


def test_without_redis_a_lease_lasts_its_time(leases: Leases, server: FakeServer) -> None:
    """A renewal may miss Redis for as long as the lease lives; a confirmation may not (Law 4)."""
    lease = leases.acquire(KEY, me(), "run")
    server.connected = False
    lease.renew()
    with pytest.raises(LeaseLost, match="cannot be confirmed"):
        lease.confirm()
    lease.release()
    leases.seconds = 0
    with pytest.raises(LeaseLost, match="could not be reached"):
        lease.renew()
