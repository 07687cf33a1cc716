"""The runs' records in Redis: what was submitted, how it stands, and what comes next.

All of it may be lost (Law 2): the journals know what is applied, and a new submit goes on
from there. Its keys, below `NAMESPACE:`:

    active                 database -> the run that has it
    runs                   the runs that are not over
    run:ID                 hash: `record` (the `Run`), `state`, and for each database
                           `generation:DB`, `total:DB`, `done:DB` (migrations),
                           `working:DB` (the operation that is next: see `Next.text`),
                           `since:DB` (when that migration began, seconds since 1970);
                           `was` (the state that a paused run has again when it goes on);
                           `ranges:DB` (those of it that are open, where it is cut into some);
    run:ID:migrations      hash: reference -> the migration as JSON
    run:ID:kinds           hash: reference -> the types of its operations, and after a bar
                           those of its rollback file
    run:ID:names           hash: reference -> its name
    run:ID:surveys         hash: database -> what its journal said
    run:ID:order:DB        list: the versions to apply, or to undo
    run:ID:first           hash: reference -> where it begins, if not at its first operation
    run:ID:waits           hash: reference -> references in other databases to be confirmed first
    run:ID:ended           set: references that this run is through with, or leaves to others; a
                           hint for the order
    run:ID:confirmed       set: references that their own database confirmed
    run:ID:events          list: what happened, for whoever watches
    run:ID:progress        hash: database -> `Progress` as JSON

Each change of the state is one script, so that workers that finish at once agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from redis.exceptions import WatchError

from dharma_tasks import run_scripts
from dharma_tasks.errors import DharmaError, Halted, Problem, Stopped
from dharma_tasks.migration import Key, Migration, Reference, reference
from dharma_tasks.planner import Plan
from dharma_tasks.records import Survey
from dharma_tasks.run import Event, Job, Next, Progress, Run, RunState, Snapshot

if TYPE_CHECKING:
    from redis import Redis

OPEN_SECONDS = 30 * 24 * 3600
"""How long the record of a run is kept that never ends."""
OVER_SECONDS = 7 * 24 * 3600
"""How long the record of a run is kept that is over."""
_LONGEST_RESCUE_SECONDS = 60
"""Between two sends of the same operation."""

_PROBLEMS = TypeAdapter(list[Problem])
_OF_A_DATABASE = ("generation", "working", "since")


class Busy(DharmaError):
    """Another run has a database that this one wants; `other` is its id."""

    def __init__(self, other: Snapshot, database: str) -> None:
        self.other = other.run.id
        paused = other.state is RunState.PAUSED
        state, more = ("paused", f" (dharma resume {self.other})") if paused else ("active", "")
        super().__init__(f"run {self.other} is {state} on {database}{more}")


class Runs:
    """The runs of one namespace. `redis` answers with text (`decode_responses=True`)."""

    def __init__(self, redis: Redis, namespace: str) -> None:
        """Make the scripts; nothing is sent yet."""
        # redis-py's annotations say "bytes or str" whatever was asked for.
        self._redis: Any = redis
        self._namespace = namespace
        self._active = f"{namespace}:active"
        self._open = f"{namespace}:runs"
        self._script = {
            name: redis.register_script(text)
            for name, text in {
                "advance": run_scripts.ADVANCE,
                "begun": run_scripts.BEGUN,
                "stop": run_scripts.STOP,
                "move": run_scripts.MOVE,
                "fail": run_scripts.FAIL,
                "end": run_scripts.END,
                "pause": run_scripts.PAUSE,
                "resume": run_scripts.RESUME,
                "cancel": run_scripts.CANCEL,
                "ranges": run_scripts.RANGES,
            }.items()
        }

    def _key(self, run: str) -> str:
        return f"{self._namespace}:run:{run}"

    def _call(self, name: str, run: Run, *arguments: str | int) -> Any:
        return self._script[name](
            keys=[self._key(run.id), self._active, self._open],
            args=[run.id, OPEN_SECONDS, OVER_SECONDS, *arguments, *run.databases],
        )

    # -- submit ---------------------------------------------------------------------------

    def submit(self, run: Run, migrations: Iterable[Migration]) -> Run:
        """Claim the run's databases and store the record, or find the equal run to join.

        Raises:
            Busy: another run is in the way; see `occupant`.
        """
        key = self._key(run.id)
        definitions, kinds, names = {}, {}, {}
        for migration in migrations:
            definitions[migration.reference] = migration.model_dump_json()
            kinds[migration.reference] = _kinds(migration)
            names[migration.reference] = migration.name
        while True:
            with self._redis.pipeline() as pipe:
                pipe.watch(self._active, self._open)
                found = self.occupant(run)
                if found is not None:
                    return found
                pipe.multi()
                pipe.hset(self._active, mapping=dict.fromkeys(run.databases, run.id))
                pipe.sadd(self._open, run.id)
                pipe.hset(key, mapping={"record": run.model_dump_json(), "state": "planning"})
                pipe.hset(f"{key}:migrations", mapping=definitions)
                pipe.hset(f"{key}:kinds", mapping=kinds)
                pipe.hset(f"{key}:names", mapping=names)
                for part in ("", ":migrations", ":kinds", ":names"):
                    pipe.expire(f"{key}{part}", OPEN_SECONDS)
                try:
                    pipe.execute()
                except WatchError:
                    continue
                return run

    def occupant(self, run: Run) -> Run | None:
        """Find the active run that wants the same as `run`.

        Raises:
            Busy: another run has one of the databases; or it goes the other way, and one of the
                two changes what the other one has to rely on.
        """
        active = self._redis.hmget(self._active, run.databases)
        for database, other in zip(run.databases, active, strict=True):
            snapshot = self.snapshot(other) if other else None
            if other and snapshot and not snapshot.state.over:
                if snapshot.run.fingerprint == run.fingerprint:
                    return snapshot.run
                raise Busy(snapshot, database)
        for snapshot in self.open():
            if crossed := _crossed(run, snapshot.run):
                raise Busy(snapshot, crossed)
        return None

    # -- planning -------------------------------------------------------------------------

    def put_survey(self, run: Run, survey: Survey) -> dict[str, Survey]:
        """Store what one database's journal said; return all that are there by now."""
        key = f"{self._key(run.id)}:surveys"
        with self._redis.pipeline() as pipe:
            pipe.hset(key, survey.database, survey.model_dump_json())
            pipe.expire(key, OPEN_SECONDS)
            pipe.hgetall(key)
            found: dict[str, str] = pipe.execute()[-1]
        return {name: Survey.model_validate_json(text) for name, text in found.items()}

    def surveyed(self, run: Run) -> set[str]:
        """The databases whose survey is there."""
        return set(self._redis.hkeys(f"{self._key(run.id)}:surveys"))

    def migrations(self, run: Run) -> list[Migration]:
        """Every migration that was submitted."""
        found = self._redis.hvals(f"{self._key(run.id)}:migrations")
        return [Migration.model_validate_json(text) for text in found]

    def start(self, run: Run, plan: Plan) -> bool:
        """Store the plan and let the run begin. False when another worker did, or it is over."""
        key = self._key(run.id)
        planned = {ref for db, order in plan.orders.items() for ref in _references(db, order)}
        waits = {ref: " ".join(needs) for ref, needs in plan.dependencies.items()}
        # Applied by others: nothing here waits for them, but they are confirmed like all others.
        elsewhere = {ref for needs in plan.dependencies.values() for ref in needs} - planned
        with self._redis.pipeline() as pipe:
            pipe.watch(key)
            if pipe.hget(key, "state") != RunState.PLANNING:
                return False
            pipe.multi()
            pipe.hset(
                key,
                mapping={
                    "state": RunState.RUNNING,
                    "plan": plan.model_dump_json(),
                    **{f"total:{db}": len(order) for db, order in plan.orders.items()},
                },
            )
            for database, order in plan.orders.items():
                if order:
                    pipe.rpush(f"{key}:order:{database}", *order)
            if waits:
                pipe.hset(f"{key}:waits", mapping=waits)
            if elsewhere:
                pipe.sadd(f"{key}:ended", *elsewhere)
            if plan.first:
                pipe.hset(f"{key}:first", mapping=plan.first)
            try:
                pipe.execute()
            except WatchError:
                return False
        return True

    def plan(self, run: Run) -> Plan | None:
        """The plan, once there is one."""
        text = self._redis.hget(self._key(run.id), "plan")
        return Plan.model_validate_json(text) if text else None

    def begun(self, run: Run, database: str, generation: int) -> list[Next]:
        """Note that the journal of `database` is at this run's generation; start what is ready."""
        return _nexts(self._call("begun", run, database, generation))

    # -- working --------------------------------------------------------------------------

    def job(self, run: str, at: Next) -> Job:
        """What is needed to carry out one operation.

        Raises:
            Stopped: the run is over, paused or gone, or this operation is not its next one.
        """
        name, key = self._key(run), at.key
        ref = reference(key.database, key.version)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hmget(name, ["record", "state", *(f"{f}:{key.database}" for f in _OF_A_DATABASE)])
            pipe.hget(f"{name}:migrations", ref)
            pipe.hget(f"{name}:waits", ref)
            pipe.hget(f"{name}:progress", key.database)
            (record, state, generation, working, since), migration, waits, last = pipe.execute()
        if record is None or RunState(state).rests:
            msg = f"run {run} is {state or 'not known (any more)'}"
            raise Halted(msg)
        if working != at.text:
            msg = f"run {run} is at {working or 'no operation'} in {key.database}"
            raise Stopped(msg)
        stuck_for, handed_on = _left(last, key)
        job = Job(
            run=Run.model_validate_json(record),
            at=at,
            generation=int(generation),
            migration=Migration.model_validate_json(migration),
            since=float(since),
            stuck_for=stuck_for,
            handed_on=handed_on,
            state=RunState(state),
        )
        if not (job.turned or self._confirmed(name, waits)):
            msg = f"{ref} waits until {waits} is confirmed"
            raise Stopped(msg)
        return job

    def _confirmed(self, name: str, waits: str | None) -> bool:
        return not waits or all(self._redis.smismember(f"{name}:confirmed", waits.split()))

    def unconfirmed(self, run: Run, database: str, version: str) -> list[Reference]:
        """What `version` depends on in other databases, and they have not confirmed.

        On the way back it is what depends on it.
        """
        key = self._key(run.id)
        text = self._redis.hget(f"{key}:waits", reference(database, version))
        if not text:
            return []
        found = self._redis.smismember(f"{key}:confirmed", text.split())
        return [Reference(ref) for ref, there in zip(text.split(), found, strict=True) if not there]

    def operations(self, run: Run, database: str, version: str) -> tuple[list[str], list[str]]:
        """The types of the operations of one migration, and those of its rollback file."""
        ref = reference(database, version)
        text = self._redis.hget(f"{self._key(run.id)}:kinds", ref)
        forward, _, back = (text or "").partition("|")
        return forward.split(), back.split()

    def names(self, run: Run, refs: Sequence[Reference]) -> dict[Reference, str]:
        """The names of migrations; "" for what an older release has submitted."""
        found = self._redis.hmget(f"{self._key(run.id)}:names", refs)
        return {ref: name or "" for ref, name in zip(refs, found, strict=True)}

    def confirm(self, run: Run, ref: Reference) -> None:
        """Note that the database of `ref` itself says that it is applied (Law 7)."""
        self._redis.sadd(f"{self._key(run.id)}:confirmed", ref)

    def moved(
        self, run: Run, at: Next, following: Next | None, event: Event, *, ended: bool = True
    ) -> list[Next]:
        """End an operation: the run goes on to `following`, or without it to what is ready.

        `ended` says that the run has done with the migration what it was to do; else the
        migration had failed, and what was done of it is undone now.

        Raises:
            Stopped: another delivery did that already; the caller must not go on.
        """
        ref = reference(at.database, at.version) if ended else ""
        answer = self._call("move", run, *_turn(at, following), ref, event.model_dump_json())
        if answer is None:
            msg = f"{at.key} was finished by another delivery"
            raise Stopped(msg)
        return _nexts(answer)

    def failed(self, run: Run, at: Next, event: Event, undo: Next | None = None) -> list[Next]:
        """End an operation, and with it the run: nothing new begins in any database.

        Returns `undo`, where what was done is to be undone first.
        """
        return _nexts(self._call("fail", run, *_turn(at, undo), event.model_dump_json()))

    def stop(self, run: Run, event: Event) -> None:
        """Begin nothing new; what is open finishes, and then the run has failed."""
        self._call("stop", run, event.model_dump_json())

    def advance(self, run: Run) -> list[Next]:
        """Start what is ready."""
        return _nexts(self._call("advance", run))

    def end(self, run: Run, state: RunState, problems: list[Problem]) -> None:
        """End the run before its time. Harmless when it is over."""
        self._call("end", run, state, _PROBLEMS.dump_json(problems).decode())

    # -- what a person asks for; each returns the state that the run was in ------------------

    def pause(self, run: Run, event: Event) -> RunState:
        """Let nothing move until the run is resumed. It keeps its databases."""
        return RunState(self._call("pause", run, event.model_dump_json()))

    def resume(self, run: Run, event: Event) -> RunState:
        """Let a paused run be what it was; the caller sends what is open."""
        return RunState(self._call("resume", run, event.model_dump_json()))

    def cancel(self, run: Run, event: Event, *, keep: bool) -> RunState:
        """End the run when what is open is undone; with `keep` at once, leaving that as it is."""
        flag = "keep" if keep else ""
        return RunState(self._call("cancel", run, event.model_dump_json(), flag))

    # -- rescue ---------------------------------------------------------------------------

    def claim_rescue(self, name: str, seconds: float) -> bool:
        """Whether the caller is the one to send `name` again (FAULTS 26).

        Over all workers one is, once an interval: `seconds`, which doubles from the fourth time on
        that it is sent without moving; a worker may well die twice in the same moment.
        """
        claim, tries = f"{self._namespace}:rescue:{name}", self._tries(name)
        doubled = max(0, int(self._redis.get(tries) or 0) - 2)
        wait = min(seconds * 2**doubled, _LONGEST_RESCUE_SECONDS)
        if not self._redis.set(claim, "sent", nx=True, px=int(wait * 1000)):
            return False
        with self._redis.pipeline() as pipe:
            pipe.incr(tries)
            pipe.expire(tries, 4 * _LONGEST_RESCUE_SECONDS)
            pipe.execute()
        return True

    def _tries(self, name: str) -> str:
        return f"{self._namespace}:rescue:tries:{name}"

    # -- watching -------------------------------------------------------------------------

    def state(self, run: str) -> RunState | None:
        """The state, or None where Redis does not know the run (any more)."""
        text = self._redis.hget(self._key(run), "state")
        return RunState(text) if text else None

    def open(self) -> list[Snapshot]:
        """Every run that is not over."""
        names = sorted(self._redis.smembers(self._open))
        found = {run: self.snapshot(run) for run in names}
        if gone := [run for run, snapshot in found.items() if snapshot is None]:
            self._redis.srem(self._open, *gone)
        return [snapshot for snapshot in found.values() if snapshot]

    def snapshot(self, run: str) -> Snapshot | None:
        """How the run stands, or None where Redis does not know it (any more)."""
        key = self._key(run)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(key)
            pipe.hgetall(f"{key}:progress")
            fields, progress = pipe.execute()
        if "record" not in fields:
            return None
        return Snapshot(
            run=Run.model_validate_json(fields["record"]),
            state=RunState(fields["state"]),
            was=RunState(fields["was"]) if "was" in fields else None,
            total={db: int(n) for db, n in _below(fields, "total:")},
            done={db: int(n) for db, n in _below(fields, "done:")},
            working={db: Next.parse(db, text) for db, text in _below(fields, "working:")},
            ranges={db: [int(n) for n in text.split()] for db, text in _below(fields, "ranges:")},
            generations={db: int(n) for db, n in _below(fields, "generation:")},
            problems=_PROBLEMS.validate_json(fields.get("problems", "[]")),
            progress={db: Progress.model_validate_json(text) for db, text in progress.items()},
        )

    def report(self, run: str, database: str, progress: Progress) -> None:
        """Show how far an operation is."""
        key = f"{self._key(run)}:progress"
        at = Next(database, progress.version, progress.number).key
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hset(key, database, progress.model_dump_json())
            pipe.expire(key, OPEN_SECONDS)
            # It moves, so the next time that it is orphaned it is sent again at once.
            pipe.delete(self._tries(f"{run}:{at}"))
            pipe.execute()

    def moves(self, run: str, key: Key) -> None:
        """Note that a range moves, as `report` does of an operation."""
        self._redis.delete(self._tries(f"{run}:{key}"))

    def ranges(self, run: str, key: Key, left: Sequence[int]) -> None:
        """Show which ranges of the operation `key` are open, while it is what the run works on."""
        at = Next(key.database, key.version, key.number)
        numbers = " ".join(str(number) for number in left)
        self._script["ranges"](keys=[self._key(run)], args=[key.database, at.text, numbers])

    def add_event(self, run: str, event: Event) -> None:
        """Tell whoever watches."""
        key = f"{self._key(run)}:events"
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(key, event.model_dump_json())
            pipe.expire(key, OPEN_SECONDS)
            pipe.execute()

    def events(self, run: str, start: int = 0) -> list[Event]:
        """What happened, from the `start`-th event on."""
        found = self._redis.lrange(f"{self._key(run)}:events", start, -1)
        return [Event.model_validate_json(text) for text in found]


def _crossed(one: Run, other: Run) -> str | None:
    """A database that one of two runs in opposite directions changes, and the other relies on."""
    if one.direction is other.direction:
        return None
    shared = {*one.databases} & {*other.surveyed} | {*one.surveyed} & {*other.databases}
    return min(shared, default=None)


def _references(database: str, versions: Iterable[str]) -> list[Reference]:
    return [reference(database, version) for version in versions]


def _below(fields: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    return ((k.removeprefix(prefix), v) for k, v in fields.items() if k.startswith(prefix))


def _kinds(migration: Migration) -> str:
    ways = migration.operations, migration.rollback
    return "|".join(" ".join(operation["type"] for operation in way) for way in ways)


def _turn(at: Next, following: Next | None) -> tuple[str, str, str]:
    """The arguments that `MOVE` and `FAIL` begin with."""
    return at.database, at.text, following.text if following else ""


def _left(progress: str | None, key: Key) -> tuple[float, bool]:
    """What the last worker on this operation said; what is shown may be of the one before."""
    last = Progress.model_validate_json(progress) if progress else None
    if last is None or (last.version, last.number) != (key.version, key.number):
        return 0.0, False
    return last.stuck_for, last.handed_on


def _nexts(answer: Iterable[str]) -> list[Next]:
    return [Next.parse(*text.split(maxsplit=1)) for text in answer]
