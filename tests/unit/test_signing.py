"""Who can write to Redis and has no key gets nothing executed: each forgery, in the real flow."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from fake_run import NAMESPACE, Driver, loaded, migration, without_settings
from fakeredis import FakeRedis
from model import Faults, Increment, ModelDatabase, ModelJournal, Server
from pydantic import SecretStr

from dharma_tasks import signing
from dharma_tasks.errors import FenceLost, Outdated, Refused, Unsigned
from dharma_tasks.flow import asked, context, planning, revealing
from dharma_tasks.flow.context import Context, Overtaken
from dharma_tasks.flow.operation import carry_out
from dharma_tasks.inline import Inline
from dharma_tasks.journal import Declaration, Entry, Opening
from dharma_tasks.messages import (
    Message,
    Pruning,
    audit_message,
    declare_message,
    operation_chain,
    prune_message,
    signed,
    survey_message,
    unlock_message,
)
from dharma_tasks.migration import Key
from dharma_tasks.planner import Request
from dharma_tasks.records import Head, MigrationRecord, MigrationState, Owner, Survey
from dharma_tasks.run import Event, Next, Run, RunState
from dharma_tasks.runs import Runs
from dharma_tasks.runs_steered import RunsSteered
from dharma_tasks.settings import Settings
from dharma_tasks.signing import Kind, Signer, signer
from dharma_tasks.submit import make_run
from dharma_tasks.work import Assignment, Taken

KEY, OTHER = "k" * 32, "o" * 32
ONE, TWO = migration("mongodb", "1.0.0"), migration("mongodb", "1.1.0")
REPLY = f"{NAMESPACE}:reply:1"


def settings(key: str | None = KEY, accepted: str | None = None) -> Settings:
    """Of a process that has such keys."""
    keys = {"signing_key": key, "signing_key_accepted": accepted}
    return Settings(
        _env_file=None,  # type: ignore[call-arg]
        namespace=NAMESPACE,
        mongodb_url=SecretStr("model://"),
        **{name: SecretStr(value) for name, value in keys.items() if value},
    )


class Journal(ModelJournal):
    """A journal with a head, and a record for each version, of documents of its own."""

    def __init__(self) -> None:
        self.known: dict[str, Server] = {}
        self.top: Head | None = None
        self.identity = "the journal"
        super().__init__(Server({}), Faults())

    def of(self, version: str) -> Server:
        """The record of one version; a few documents, all 0."""
        self.server = self.known.setdefault(version, Server(dict.fromkeys(range(5), 0)))
        return self.server

    def head(self) -> Head | None:
        return self.top

    def survey(self) -> Survey:
        files = {ONE.version: ONE, TWO.version: TWO}
        records = [
            MigrationRecord(
                version=version,
                name=files[version].name,
                state=server.migration,
                checksum=files[version].checksum,
                run="r",
                by="me",
                started=datetime.now(UTC),
            )
            for version, server in self.known.items()
            if server.migration is not MigrationState.PENDING
        ]
        return Survey(database="mongodb", head=self.top, migrations=records)

    def state(self, version: str) -> MigrationState:
        found = self.known.get(version)
        return found.migration if found else MigrationState.PENDING

    def begin(self, opening: Opening, expected: int) -> int:
        if self.top is None or self.top.run != opening.run:
            if expected != (self.top.generation if self.top else 0):
                msg = "another run has begun"
                raise FenceLost(msg)
            self.top = Head(identity=self.identity, run=opening.run, generation=expected + 1)
        return self.top.generation

    def owner(self, key: Key) -> Owner | None:
        self.of(key.version)
        return super().owner(key)

    def take(
        self, assignment: Assignment, owner: Owner, *, counted: bool, error: str | None = None
    ) -> Taken:
        assert self.top is not None
        if (assignment.run, assignment.generation) != (self.top.run, self.top.generation):
            msg = "the journal is further"
            raise Outdated(msg)
        self.of(assignment.key.version)
        return super().take(assignment, owner, counted=counted, error=error)


class Attacked(Inline):
    """Carries messages out; before one of a name, what an attacker does to Redis comes first."""

    def __init__(self, worker: Context) -> None:
        super().__init__(worker)
        self.attacks: dict[str, Callable[[], object]] = {}

    def _step(self, message: Message) -> Any:
        self.attacks.pop(message.task, lambda: None)()
        return super()._step(message)


class Stage:
    """A worker that has a key, one database, and Redis, which everybody may write to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_settings(monkeypatch)
        self.redis: Any = FakeRedis(decode_responses=True)
        self.journal = Journal()
        monkeypatch.setattr(context, "connect", lambda *_: self._database())
        monkeypatch.setattr(revealing, "catalogue", lambda _database: self)
        self.work_with(settings())

    def work_with(self, found: Settings) -> None:
        """Let the worker have these settings."""
        self.context = Context(found, self.redis, worker="w@h", shutting_down=lambda: False)
        self.inline = Attacked(self.context)

    def _database(self) -> ModelDatabase:
        found = ModelDatabase(Server({}), Faults())
        found._journal = self.journal
        return found

    def parse(self, _operation: object) -> Increment:
        """As a catalogue does."""
        return Increment()

    def submit(self, *files: Any, key: str | None = KEY) -> Run:
        """As somebody does who has that key."""
        run = make_run(loaded(*files), Request(), "me@here")
        runs = Runs(self.redis, NAMESPACE, signer(settings(key)))
        assert runs.submit(run, files) == run
        self.inline.send([[survey_message(run.id, "mongodb")]])
        return run

    def finish(self) -> None:
        """Carry out all that is queued."""
        self.inline.run()

    def steer(self, key: str | None = KEY) -> RunsSteered:
        """As somebody does who has that key."""
        return RunsSteered(self.redis, NAMESPACE, signer(settings(key)))

    def lead_to(self, run: Run, at: Next) -> None:
        """Have Redis say that an operation is next, and send its message."""
        self.redis.hset(name(run), "working:mongodb", at.text)
        self.inline.send([operation_chain(self.context.runs, run, at)])

    def copy(self, run: Run) -> dict[str, bytes]:
        """All that Redis has of a run."""
        return {key: self.redis.dump(key) for key in self.redis.keys(f"{name(run)}*")}

    def put_back(self, run: Run, copied: dict[str, bytes]) -> None:
        """Let Redis have it again, as it was."""
        for key, value in copied.items():
            self.redis.restore(key, 0, value, replace=True)
        self.redis.sadd(f"{NAMESPACE}:runs", run.id)

    def done(self, version: str) -> set[int]:
        """How often the migration was applied to its documents; empty where it never began."""
        found = self.journal.known.get(version)
        return set(found.documents.values()) if found else set()

    def refusal(self, run: Run) -> str:
        """What ended the run: after its begin it has failed, for there may be a change by then."""
        snapshot = self.context.runs.snapshot(run.id)
        assert snapshot is not None
        if snapshot.generations:
            assert (snapshot.state, snapshot.problems) == (RunState.FAILED, [])
            (failed,) = [e for e in self.context.runs.events(run.id) if e.kind == "failed"]
            return failed.text
        assert snapshot.state is RunState.REFUSED
        return str(snapshot.problems[0])


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage."""
    return Stage(monkeypatch)


def name(run: Run) -> str:
    """The run's key in Redis."""
    return f"{NAMESPACE}:run:{run.id}"


def event() -> Event:
    """What whoever watches is told."""
    return Event(at=datetime.now(UTC), kind="told", text="by me")


def test_what_is_signed_is_carried_out(stage: Stage) -> None:
    """All of it: the record, the plan, each migration in its order."""
    run = stage.submit(ONE, TWO)
    stage.finish()
    assert stage.context.runs.state(run.id) is RunState.DONE
    assert (stage.done("1.0.0"), stage.done("1.1.0")) == ({1}, {1})


def test_a_survey_that_comes_late_is_no_forgery(stage: Stage) -> None:
    """A duplicate reads a journal that has had the run by then; the run goes on all the same."""
    run = stage.submit(ONE)
    stage.finish()
    with pytest.raises(Overtaken):
        planning._plan(stage.context, run, {"mongodb": stage.journal.survey()})
    assert stage.context.runs.state(run.id) is RunState.DONE


def change_definition(stage: Stage, run: Run) -> None:
    """Other SQL, and another operation."""
    text = stage.redis.hget(f"{name(run)}:migrations", ONE.reference)
    forged = json.loads(text) | {"operations": [{"type": "kind_1", "sql": "DROP TABLE users"}]}
    stage.redis.hset(f"{name(run)}:migrations", ONE.reference, json.dumps(forged))


def swap_definitions(stage: Stage, run: Run) -> None:
    """One migration in the place of the other, with its signature."""
    for part, kind in (("migrations", ""), ("signatures", "migration ")):
        other = stage.redis.hget(f"{name(run)}:{part}", f"{kind}{TWO.reference}")
        stage.redis.hset(f"{name(run)}:{part}", f"{kind}{ONE.reference}", other)


def change_direction(stage: Stage, run: Run) -> None:
    """Back instead of forward."""
    record = json.loads(stage.redis.hget(name(run), "record")) | {"direction": "back"}
    stage.redis.hset(name(run), "record", json.dumps(record))


def change_plan(stage: Stage, run: Run) -> None:
    """Another order."""
    made = json.loads(stage.redis.hget(name(run), "plan"))
    made["orders"]["mongodb"].reverse()
    stage.redis.hset(name(run), "plan", json.dumps(made))


def take_foreign_plan(stage: Stage, run: Run) -> None:
    """A plan of another run, with its signature."""
    text = stage.redis.hget(name(run), "plan")
    foreign = signer(settings()).sign(Kind.PLAN, "another run", text)
    stage.redis.hset(f"{name(run)}:signatures", Kind.PLAN, foreign)


def take_other_kind(stage: Stage, run: Run) -> None:
    """The signature of something else of the same run."""
    other = stage.redis.hget(f"{name(run)}:signatures", Kind.RECORD)
    stage.redis.hset(f"{name(run)}:signatures", Kind.PLAN, other)


def remove_signatures(stage: Stage, run: Run) -> None:
    """As if nobody had a key."""
    stage.redis.delete(f"{name(run)}:signatures")


def skip_first(stage: Stage, run: Run) -> None:
    """The second migration before the first."""
    stage.lead_to(run, Next("mongodb", "1.1.0", 1))


def undo_first(stage: Stage, run: Run) -> None:
    """Undo what nobody wants undone."""
    stage.lead_to(run, Next("mongodb", "1.0.0", 1, 1))


def lead_outside(stage: Stage, run: Run) -> None:
    """An operation that the plan does not have."""
    made = json.loads(stage.redis.hget(f"{name(run)}:migrations", ONE.reference))
    stage.redis.hset(f"{name(run)}:migrations", "mongodb:9.0.0", json.dumps(made))
    stage.redis.hset(f"{name(run)}:kinds", "mongodb:9.0.0", "kind_1|")
    stage.lead_to(run, Next("mongodb", "9.0.0", 1))


def other_generation(stage: Stage, run: Run) -> None:
    """One that the journal may come to later."""
    stage.redis.hset(name(run), "generation:mongodb", 7)


def cancel(stage: Stage, run: Run) -> None:
    """Without a key."""
    stage.redis.hset(name(run), "state", RunState.CANCELLING)


def replay_cancel(stage: Stage, run: Run) -> None:
    """The one that somebody has signed for another run."""
    other = make_run(loaded(ONE), Request(), "me@here")
    text = f"1 {RunState.CANCELLING} {RunState.RUNNING}"
    cancel(stage, run)
    stage.redis.hset(name(run), "control", text)
    signature = signer(settings()).sign(Kind.CONTROL, other.id, text)
    stage.redis.hset(f"{name(run)}:signatures", Kind.CONTROL, signature)


AT_WORK = "mongodb.kind_1"


@pytest.mark.parametrize(
    ("at", "attack", "said"),
    [
        ("survey", change_definition, "the run's record was changed"),
        ("survey", change_direction, "the run's record was changed"),
        ("survey", remove_signatures, "the run's record is not signed"),
        ("begin", change_plan, "the run's plan was changed"),
        ("begin", take_foreign_plan, "the run's plan was changed in Redis since it was signed"),
        ("begin", take_other_kind, "the run's plan was changed in Redis since it was signed"),
        (AT_WORK, change_definition, "a migration in the run's record was changed"),
        (AT_WORK, swap_definitions, "a migration in the run's record was changed"),
        (AT_WORK, change_direction, "the run's record was changed"),
        (AT_WORK, take_foreign_plan, "the run's plan was changed"),
        (AT_WORK, remove_signatures, "the run's record is not signed"),
        (AT_WORK, other_generation, "is next, and the plan of the run does not"),
        (AT_WORK, cancel, "but was asked to be running"),
        (AT_WORK, replay_cancel, "the run's last pause, resume or cancel was changed"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_forgery_is_refused(
    stage: Stage, at: str, attack: Callable[[Stage, Run], None], said: str
) -> None:
    """The run ends, and says what was forged; nothing was executed."""
    run = stage.submit(ONE, TWO)
    stage.inline.attacks[at] = lambda: attack(stage, run)
    stage.finish()
    assert said in stage.refusal(run)
    assert stage.done("1.0.0") <= {0}
    assert stage.done("1.1.0") <= {0}


@pytest.mark.parametrize("attack", [skip_first, undo_first, lead_outside])
def test_redis_cannot_lead_elsewhere(stage: Stage, attack: Callable[[Stage, Run], None]) -> None:
    """Not past what the plan has first, not back, not out of the plan."""
    run = stage.submit(ONE, TWO)
    stage.inline.attacks[AT_WORK] = lambda: attack(stage, run)
    stage.finish()
    assert stage.refusal(run)
    assert stage.done("1.1.0") <= {0}
    assert "9.0.0" not in stage.journal.known


@pytest.mark.parametrize("at", ["survey", "begin", AT_WORK])
def test_a_record_under_another_run_is_refused(stage: Stage, at: str) -> None:
    """All that is signed of a run, copied: the copy is ended, and the run itself goes on."""
    run, copy = stage.submit(ONE), make_run(loaded(ONE), Request(), "me@here")
    steps: dict[str, Callable[[], object]] = {
        "survey": lambda: planning.survey(stage.context, copy.id, "mongodb"),
        "begin": lambda: planning.begin(stage.context, copy.id, "mongodb"),
        AT_WORK: lambda: carry_out(stage.context, copy.id, Next("mongodb", "1.0.0", 1)),
    }

    def attack() -> None:
        copied = {key.replace(run.id, copy.id): text for key, text in stage.copy(run).items()}
        stage.put_back(copy, copied)
        with pytest.raises(Unsigned, match=f"run {copy.id} is a copy of run {run.id}'s"):
            steps[at]()

    stage.inline.attacks[at] = attack
    stage.finish()
    assert stage.inline.attacks == {}
    assert "is a copy of run" in stage.refusal(copy)
    assert stage.context.runs.state(run.id) is RunState.DONE
    assert [e.kind for e in stage.context.runs.events(run.id)].count("failed") == 0
    assert stage.done("1.0.0") == {1}


def test_the_migrations_of_another_run_are_not_planned(stage: Stage) -> None:
    """Put there, with the record that they are signed with, after the run's own was believed."""
    old, run = (make_run(loaded(*files), Request(), "me@here") for files in ([ONE], [ONE, TWO]))
    for each, files in ((old, [ONE]), (run, [ONE, TWO])):
        stage.redis.flushall()
        Runs(stage.redis, NAMESPACE, signer(settings())).submit(each, files)
        if each is old:
            copied = stage.copy(old)
    stage.put_back(run, {key.replace(old.id, run.id): text for key, text in copied.items()})
    with pytest.raises(Unsigned, match=f"a copy of run {old.id}'s"):
        stage.context.runs.migrations(run)


def test_a_confirmation_is_not_made_up(stage: Stage) -> None:
    """That a dependency is applied only its own database says (Law 7)."""
    driver = Driver(stage.redis, ONE, migration("postgresql", "1.0.0", ONE.reference))
    driver.runs = type(driver.runs)(stage.redis, NAMESPACE, signer(settings()))
    run = driver.submit()
    driver.runs.start(run, driver.plan(run))
    driver.runs.begun(run, "postgresql", 1)
    at = Next("postgresql", "1.0.0", 1)
    stage.redis.hset(name(run), mapping={"working:postgresql": at.text, "since:postgresql": 1})
    stage.redis.sadd(f"{name(run)}:confirmed", ONE.reference)
    with pytest.raises(Unsigned, match="confirmation of a dependency is not signed"):
        stage.context.runs.job(run.id, at)
    driver.runs.confirm(run, ONE.reference)
    assert stage.context.runs.job(run.id, at).at == at


@pytest.mark.parametrize("key", [None, OTHER])
def test_who_submits_without_the_key_is_told(stage: Stage, key: str | None) -> None:
    """At once, and by the setting's name; the run does not hang."""
    run = stage.submit(ONE, key=key)
    stage.finish()
    assert "Set DHARMA_SIGNING_KEY to the one that the workers have" in stage.refusal(run)
    assert stage.done("1.0.0") == set()


def test_keys_are_exchanged(stage: Stage) -> None:
    """A worker that accepts the other one too believes both, whichever of them it signs with."""
    stage.work_with(settings(OTHER, accepted=KEY))
    run = stage.submit(ONE, key=KEY)
    stage.finish()
    assert stage.context.runs.state(run.id) is RunState.DONE
    other = stage.submit(ONE, TWO, key=OTHER)
    stage.finish()
    assert stage.context.runs.state(other.id) is RunState.DONE


def test_a_worker_without_a_key_believes_everything(stage: Stage) -> None:
    """As long as not everybody has it; so keys can be given out one after the other."""
    stage.work_with(settings(None))
    run = stage.submit(ONE, key=KEY)
    stage.finish()
    assert stage.context.runs.state(run.id) is RunState.DONE


@pytest.mark.parametrize("at", ["survey", "begin", AT_WORK])
def test_an_old_record_put_back_does_nothing(stage: Stage, at: str) -> None:
    """FAULTS 27: as it was at any point of its life, after a newer run."""
    old = stage.submit(ONE)
    copied: dict[str, bytes] = {}
    stage.inline.attacks[at] = lambda: copied.update(stage.copy(old))
    stage.finish()
    stage.submit(ONE, TWO)
    stage.finish()
    top = stage.journal.top
    fence = {version: server.fence for version, server in stage.journal.known.items()}
    stage.journal.known["1.0.0"].migration = MigrationState.PENDING  # as after a rollback
    stage.put_back(old, copied)
    first = {"begin": "begin", "survey": "survey"}.get(at)
    if first:
        stage.inline.send([[Message(first, "mongodb", {"run": old.id, "database": "mongodb"})]])
    else:
        stage.inline.send([operation_chain(stage.context.runs, old, Next("mongodb", "1.0.0", 1))])
    stage.finish()
    assert {version: server.fence for version, server in stage.journal.known.items()} == fence
    assert stage.journal.top == top
    state = stage.context.runs.state(old.id)
    assert state is not None
    assert state.over
    if at == "survey":  # there is no plan yet that the journal could refuse
        assert "since run" in stage.refusal(old)


def test_the_last_record_put_back_does_nothing(stage: Stage) -> None:
    """No run has begun since: the journal has it, at this generation, and has done it all."""
    run = stage.submit(ONE)
    copied: dict[str, bytes] = {}
    stage.inline.attacks[AT_WORK] = lambda: copied.update(stage.copy(run))
    stage.finish()
    stage.put_back(run, copied)
    stage.inline.send([operation_chain(stage.context.runs, run, Next("mongodb", "1.0.0", 1))])
    stage.finish()
    assert stage.done("1.0.0") == {1}


def test_a_record_that_is_old_is_not_planned(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was submitted and held back: who asked for it days ago may not want it any more."""
    run = stage.submit(ONE)
    monkeypatch.setattr(signing, "RECENT", timedelta(seconds=-1))
    stage.finish()
    assert "and not within the last day" in stage.refusal(run)


def test_another_database_is_not_worked_on(stage: Stage) -> None:
    """The journal that is opened is the one that was planned for."""
    stage.submit(ONE)
    stage.finish()
    run = stage.submit(ONE, TWO)

    def swap() -> None:
        assert stage.journal.top is not None
        stage.journal.top = stage.journal.top.model_copy(update={"identity": "another"})

    stage.inline.attacks["begin"] = swap
    stage.finish()
    snapshot = stage.context.runs.snapshot(run.id)
    assert snapshot is not None
    assert snapshot.state.over
    assert "another mongodb than the one that was planned for" in str(snapshot.problems[0])
    assert stage.done("1.1.0") == set()


def test_who_has_the_key_cancels(stage: Stage) -> None:
    """Pause, resume and cancel are believed, and go on from each other."""
    run = stage.submit(ONE, TWO)

    def steer() -> None:
        runs = stage.steer()
        assert runs.pause(run, event()) is RunState.RUNNING
        assert runs.resume(run, event()) is RunState.PAUSED
        assert runs.cancel(run, event(), keep=False) is RunState.RUNNING

    stage.inline.attacks[AT_WORK] = steer
    stage.finish()
    assert stage.context.runs.state(run.id) is RunState.CANCELLED
    assert stage.done("1.0.0") <= {0}


@pytest.mark.parametrize("key", [None, OTHER])
def test_who_steers_without_the_key_is_told(stage: Stage, key: str | None) -> None:
    """Before anything is changed: workers would refuse the run for it."""
    run = stage.submit(ONE)
    with pytest.raises(Refused, match="was submitted with a DHARMA_SIGNING_KEY"):
        stage.steer(key).require_key(run)
    stage.steer().require_key(run)


ASKED = [
    unlock_message("mongodb", "me@here", "token", REPLY),
    audit_message(
        Entry("paused", "r", "me@here", Key(database="mongodb", version="1.0.0", number=1), "x"),
        REPLY,
    ),
    declare_message("mongodb", Declaration("r", "me@here", "retry", "why", ()), None, REPLY),
    prune_message("mongodb", Pruning(datetime.now(UTC), "r", "me@here"), REPLY),
]


@pytest.mark.parametrize("message", ASKED, ids=lambda message: message.task)
def test_what_is_asked_of_a_worker_is_signed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, message: Message
) -> None:
    """Unsigned, changed, as another task, or late, it is refused, and whoever waits is told."""
    step = getattr(asked, message.task)
    ours = signer(settings())
    good = signed(message, ours).arguments

    def answer(arguments: dict[str, Any]) -> str:
        assert step(stage.context, **json.loads(json.dumps(arguments))) == []
        return str(stage.redis.lpop(REPLY))

    assert "not signed" in answer(message.arguments)
    assert "changed" in answer(good | {"database": "postgresql"})
    assert "changed" in answer(good | {"at": good["at"] + 1})
    assert "changed" in answer(
        signed(Message("other", "mongodb", message.arguments), ours).arguments
    )
    other = signed(message, Signer(NAMESPACE, OTHER)).arguments
    assert "another DHARMA_SIGNING_KEY" in answer(other)
    elsewhere = signed(message, Signer("elsewhere", KEY)).arguments
    assert "changed" in answer(elsewhere)
    with monkeypatch.context() as patch:
        patch.setattr(signing, "RECENT", timedelta(seconds=-1))
        assert "not within the last day" in answer(good)
    assert "SIGNING_KEY" not in answer(good)


def test_a_signature_says_nothing_of_the_key() -> None:
    """And differs by what is signed, where it is cut, and what for."""
    ours = Signer(NAMESPACE, KEY)
    found = ours.sign(Kind.PLAN, "a", "bc")
    assert KEY not in found
    assert len({found, ours.sign(Kind.PLAN, "ab", "c"), ours.sign(Kind.RECORD, "a", "bc")}) == 3
    ours.confirm(Kind.PLAN, found, "a", "bc")
    for forged in ("", "x", "1", "1  ", found[:-1], f"{found}é", f"2{found[1:]}"):
        with pytest.raises(Unsigned):
            ours.confirm(Kind.PLAN, forged, "a", "bc")


def test_who_has_no_key_is_advised() -> None:
    """And a short one is none."""
    assert "DHARMA_SIGNING_KEY is not set" in str(signing.advice(settings(None)))
    assert signing.advice(settings()) is None
    with pytest.raises(ValueError, match="less than 32 characters") as caught:
        settings("short-secret")
    assert "short-secret" not in str(caught.value)
