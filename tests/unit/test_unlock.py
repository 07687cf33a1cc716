"""`unlock`: whose lease is broken, by whom, and what is said where there is nothing to break."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_run import NAMESPACE, Driver, migration, progress, with_short_leases, without_settings
from fakeredis import FakeRedis

from dharma_tasks.cli import common, main
from dharma_tasks.cli import unlock as command
from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import LeaseHeld, LeaseLost, Unreachable
from dharma_tasks.flow import asked
from dharma_tasks.flow.context import Context
from dharma_tasks.identity import owner
from dharma_tasks.journal import Entry
from dharma_tasks.lease import Lease, Leases
from dharma_tasks.messages import UNLOCK_LATE, UNLOCKED, Chain, unlock_message
from dharma_tasks.migration import Key
from dharma_tasks.records import Owner
from dharma_tasks.run import Next
from dharma_tasks.settings import Settings
from dharma_tasks.submit import who_asks
from dharma_tasks.workers import Worker, Workers

FOLDER = (migration("mongodb", "1.0.0", operations=3), migration("postgresql", "1.0.0"))
AT = Next("mongodb", "1.0.0", 2)
KEY = Key(database="mongodb", version="1.0.0", number=2)
REPLY = f"{NAMESPACE}:reply:1"


def elsewhere(worker: str = "w@there") -> Owner:
    """A worker on another node, of which nobody here can say whether it lives."""
    return owner(worker, {}).model_copy(update={"node": "there", "pid": 7})


class FakeDatabase:
    """A database whose journal keeps the audit trail, and nothing else."""

    def __init__(self) -> None:
        self.journal = self
        self.entries: list[Entry] = []
        self.error: Exception | None = None

    def audit(self, entry: Entry) -> None:
        """Keep it, or fail."""
        if self.error is not None:
            raise self.error
        self.entries.append(entry)

    def classify(self, error: BaseException) -> Fault:
        """Nothing passes."""
        return Fault.LASTING

    def describe(self, error: BaseException) -> str:
        """The message."""
        return f"described: {error}"


class Stage:
    """A run at its second operation in MongoDB, a worker that serves it, and the command."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_settings(monkeypatch)
        self.redis: Any = FakeRedis(decode_responses=True)
        self.driver = Driver(self.redis, *FOLDER)
        self.run = self.driver.submit()
        for upcoming in self.driver.start(self.run):
            if upcoming.database == "mongodb":
                self.driver.move(self.run, upcoming, last=False)
        self.leases = Leases(self.redis, NAMESPACE, 10)
        Workers(self.redis, NAMESPACE).announce(Worker(name="w@h", databases=("mongodb",)), 100)
        self.settings = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
        self.database = FakeDatabase()
        self.context = Context(self.settings, self.redis, worker="w@h", shutting_down=lambda: False)
        monkeypatch.setattr(self.context, "database", lambda _name: self.database)
        monkeypatch.setattr(common, "read", lambda: self.settings)
        monkeypatch.setattr(common, "send", self._send)
        monkeypatch.setattr(command, "require_redis", lambda _settings: self.redis)
        monkeypatch.setattr(command, "ANSWER_SECONDS", 0.3)
        self.patch = monkeypatch
        self.busy = False
        self.before: Callable[[], None] = lambda: None
        self.sent: list[Chain] = []

    def _send(self, chains: Iterable[Chain]) -> None:
        ((message,),) = chains
        assert (message.task, message.database) == ("unlock", "mongodb")
        self.before()
        if not self.busy:
            self.sent += asked.unlock(self.context, **message.arguments)

    def hold(self, holder: Owner | None = None, key: Key = KEY) -> Lease:
        """Let a worker have the lease."""
        return self.leases.acquire(key, holder or elsewhere(), self.run.id)

    @property
    def token(self) -> str:
        """What tells the present lease from any other."""
        held = self.leases.held(KEY)
        assert held is not None
        return held.token

    def unlock(self, *arguments: str, answer: str | None = None) -> Result:
        """Run `dharma unlock mongodb`; with an `answer` on a terminal."""
        self.patch.setattr(common, "on_terminal", lambda: answer is not None)
        return CliRunner().invoke(main, ["unlock", "mongodb", *arguments], input=answer)


def unlocked(stage: Stage, token: str) -> list[Chain]:
    """Let a worker get the message."""
    arguments = unlock_message("mongodb", "me@here", token, REPLY).arguments
    return asked.unlock(stage.context, **arguments)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage."""
    return Stage(monkeypatch)


# -- the lease -----------------------------------------------------------------------------


def test_a_broken_lease_is_lost_to_its_holder(stage: Stage) -> None:
    """However often it gives signs of life: only deleted, it would be its own again."""
    lease = stage.hold()
    assert stage.leases.break_(KEY, stage.token)
    assert stage.leases.holder(KEY) is None
    for attempt in (lease.renew, lease.confirm):
        with pytest.raises(LeaseLost, match="dharma unlock"):
            attempt()
    lease.release()
    with pytest.raises(LeaseLost):
        lease.renew()


def test_a_broken_lease_is_anybodys(stage: Stage) -> None:
    """The next worker has it at once, and like any other: a third one is told so."""
    lease = stage.hold()
    stage.leases.break_(KEY, stage.token)
    successor = stage.hold(elsewhere("v@there"))
    successor.renew()
    with pytest.raises(LeaseHeld, match="v@there"):
        stage.hold()
    with pytest.raises(LeaseLost):
        lease.renew()


def test_only_the_lease_that_was_meant_is_broken(stage: Stage) -> None:
    """A successor's lease stays, and one that is gone is no error."""
    stage.hold().release()
    assert not stage.leases.break_(KEY, "gone")
    first = stage.hold()
    token = stage.token
    first.release()
    second = stage.hold()
    assert not stage.leases.break_(KEY, token)
    second.confirm()


# -- on the worker -------------------------------------------------------------------------


def test_the_worker_writes_breaks_sends_and_answers(stage: Stage) -> None:
    """The audit trail says who, when (the journal's own), what and whose; the rest is sent."""
    stage.hold()
    token = stage.token
    chains = unlocked(stage, token)
    (entry,) = stage.database.entries
    assert (entry.event, entry.run, entry.by, entry.key) == (
        "unlocked",
        stage.run.id,
        "me@here",
        KEY,
    )
    assert entry.detail == f"lease {token} of w@there (pid 7 on there)"
    assert stage.leases.holder(KEY) is None
    assert [[message.task for message in chain] for chain in chains] == [
        ["mongodb.kind_2", "mongodb.kind_3"]
    ]
    assert stage.redis.lpop(REPLY) == UNLOCKED
    (event,) = stage.driver.runs.events(stage.run.id)
    assert "me@here broke the lease of w@there (pid 7 on there)" in event.text


def test_a_message_that_comes_twice(stage: Stage) -> None:
    """While nobody has taken over it says the same entry again; afterwards it does nothing."""
    stage.hold()
    token = stage.token
    for _ in range(2):
        unlocked(stage, token)
    one, two = stage.database.entries
    assert one.id == two.id
    successor = stage.hold(elsewhere("v@there"))
    assert unlocked(stage, token) == []
    successor.confirm()
    assert stage.redis.lrange(REPLY, 0, -1) == [UNLOCKED, UNLOCKED, UNLOCK_LATE]
    assert len(stage.database.entries) == 2


def test_no_lease_is_broken_without_a_word(stage: Stage) -> None:
    """Where the audit trail cannot be written, nothing happens, and who asked is told."""
    lease = stage.hold()
    stage.database.error = OSError("no primary")
    assert unlocked(stage, stage.token) == []
    lease.confirm()
    answer = stage.redis.lpop(REPLY)
    assert answer == (
        "error mongodb cannot be used: described: no primary. Look at the server, and at "
        "DHARMA_MONGODB_URL of the worker w@h."
    )


# -- the command ---------------------------------------------------------------------------


def test_0_broken(stage: Stage) -> None:
    """It shows who holds what, and what came of it."""
    lease = stage.hold()
    stage.driver.runs.report(stage.run.id, "mongodb", progress(AT, waiting="lock timeout"))
    result = stage.unlock("--by", "me@here")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(
        f"mongodb: 1.0.0 operation 2 of run {stage.run.id}\n"
        "  held by w@there, pid 7 on there\n"
        "  update_documents users: 61,000 of 100,000, heartbeat 0."
    )
    assert "  waits: lock timeout\n" in result.stdout
    assert "written to mongodb's history as done by me@here (" in result.stdout
    assert stage.database.entries[0].by == who_asks("me@here")
    assert len(stage.sent) == 1
    assert stage.redis.keys(f"{NAMESPACE}:reply:*") == []
    with pytest.raises(LeaseLost):
        lease.renew()


def test_json_of_a_broken_lease(stage: Stage) -> None:
    """Whose it was, and whether it was broken; where none is held, that."""
    lease = stage.hold()
    broken = stage.unlock("--json", "--yes")
    found = json.loads(broken.stdout.partition("\n")[2])  # the worker's log is the first line
    assert (found["broken"], found["exit_status"]) == (True, 0)
    assert (found["database"], found["lease"]["run"]) == ("mongodb", stage.run.id)
    where = {"run", "version", "operation", "range"}
    assert found["lease"].keys() == where | {"worker", "node", "pid"}
    assert found["lease"]["worker"] in broken.stderr
    lease.release()
    none = json.loads(stage.unlock("--json").stdout)
    assert (none["broken"], none["lease"], none["exit_status"]) == (False, None, 0)


def test_by_is_user_at_host(stage: Stage) -> None:
    """Somebody is always named; what the deployment says does not hide who and where it was."""
    here = f"{getpass.getuser()}@{socket.gethostname()}"
    for given in ((), ("--by", "release 42")):
        stage.hold()
        assert stage.unlock(*given).exit_code == 0
    assert [each.by for each in stage.database.entries] == [here, f"release 42 ({here})"]


def test_0_with_short_leases(stage: Stage) -> None:
    """The answer is waited for without a read that blocks."""
    with_short_leases(stage.patch)
    stage.hold()
    assert stage.unlock().exit_code == 0


def test_it_asks_on_a_terminal(stage: Stage) -> None:
    """A no changes nothing; a yes, or --yes, goes on."""
    lease = stage.hold()
    refused = stage.unlock(answer="n\n")
    assert refused.exit_code == 2
    assert "Break this lease? [y/N]" in refused.stderr
    assert "Nothing was changed." in refused.stdout
    assert stage.unlock(answer="").exit_code == 2
    lease.confirm()
    assert stage.unlock(answer="y\n").exit_code == 0
    stage.hold()
    sure = stage.unlock("--yes", answer="")
    assert sure.exit_code == 0
    assert "?" not in sure.output


def test_a_range(stage: Stage) -> None:
    """Its own lease is broken and nobody else's; who has which is shown beforehand."""
    stage.hold(elsewhere("whole@there"))
    for number in (1, 2):
        stage.hold(elsewhere(f"w{number}@there"), KEY.of_range(number))
    stage.driver.runs.ranges(stage.run.id, KEY, [1, 2, 3])
    asked_ = stage.unlock(answer="n\n")
    assert "held by whole@there" in asked_.output
    assert "range 2 held by w2@there, pid 7 on there (--range 2)" in asked_.output
    nobody = stage.unlock("--yes", "--range", "3")
    assert (nobody.exit_code, "no lease is held" in nobody.output) == (0, True)
    absent = stage.unlock("--yes", "--range", "9")
    assert (absent.exit_code, "a range 9 that is open" in absent.output) == (0, True)
    done = stage.unlock("--yes", "--range", "2", "--by", "me")
    assert done.exit_code == 0, done.output
    assert [stage.leases.holder(KEY.of_range(number)) is None for number in (1, 2)] == [False, True]
    assert stage.leases.holder(KEY) is not None
    (entry,) = stage.database.entries
    assert entry.detail.endswith("of w2@there (pid 7 on there) on range 2")
    assert stage.sent == [], "whoever looks next sends for it"


def test_0_nothing_held(stage: Stage) -> None:
    """Before anybody has taken it, after it was broken, and without any run: said, and no error."""
    free = f"no lease is held: run {stage.run.id} is at mongodb:1.0.0#2, and a worker will take"
    found = stage.unlock()
    assert (found.exit_code, free in found.stdout) == (0, True)
    stage.hold()
    stage.unlock()
    found = stage.unlock()
    assert (found.exit_code, free in found.stdout) == (0, True)
    stage.redis.flushall()
    found = stage.unlock()
    assert found.exit_code == 0
    assert "mongodb: no lease is held: no run is at work in mongodb." in found.stdout


def test_0_it_ended_meanwhile(stage: Stage) -> None:
    """Between the look and the worker the operation ended: nothing else is broken for it."""
    lease = stage.hold()

    def goes_on() -> None:
        lease.release()
        stage.hold(elsewhere("v@there"))

    stage.before = goes_on
    result = stage.unlock()
    assert result.exit_code == 0
    assert "nothing was broken" in result.stdout
    assert stage.leases.holder(KEY) == elsewhere("v@there")


def test_2_an_unknown_database(stage: Stage) -> None:
    """A typo is no database."""
    result = CliRunner().invoke(main, ["unlock", "mongo"])
    assert result.exit_code == 2
    assert "mongodb" in result.output


def test_4_nobody_answers(stage: Stage) -> None:
    """All workers are busy: said within seconds, with what to do."""
    stage.hold()
    stage.busy = True
    result = stage.unlock()
    assert result.exit_code == 4
    assert "no worker has answered for mongodb" in result.output
    assert "celery -A dharma_tasks worker -Q mongodb" in result.output


def test_4_nobody_serves_it(stage: Stage) -> None:
    """Only a worker can write to the database's history."""
    stage.hold()
    Workers(stage.redis, NAMESPACE).leave("w@h")
    result = stage.unlock()
    assert result.exit_code == 4
    assert "no live worker serves mongodb" in result.output


def test_4_the_history_cannot_be_written(stage: Stage) -> None:
    """The worker's reason is shown."""
    stage.hold()
    stage.database.error = OSError("no primary")
    result = stage.unlock()
    assert result.exit_code == 4
    assert "nothing was broken: mongodb cannot be used: described: no primary" in result.output


def test_4_no_redis(stage: Stage) -> None:
    """Where it was looked for is said."""

    def refuse(_settings: Settings) -> None:
        msg = "Redis at h:1 cannot be used: Connection refused"
        raise Unreachable(msg)

    stage.patch.setattr(command, "require_redis", refuse)
    result = stage.unlock()
    assert result.exit_code == 4
    assert "Redis at h:1 cannot be used" in result.output
