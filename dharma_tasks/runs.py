"""The runs' records in Redis: what was submitted, how it stands, and what comes next.

All of it may be lost (Law 2): the journals know what is applied, and a new submit goes on
from there. Its keys, below `NAMESPACE:`:

    active                 database -> the run that has it
    runs                   the runs that are not over
    ended                  hash: `count:STATE` (how many runs have ended so) and `last:DB` (how the
                           last one ended that was to change the database); kept for good
    run:ID                 hash: `record` (the `Run`), `state`, and for each database
                           `generation:DB`, `total:DB`, `done:DB` (migrations),
                           `working:DB` (the operation that is next: see `Next.text`),
                           `since:DB` (when that migration began, seconds since 1970);
                           `was` (the state that a paused run has again when it goes on);
                           `ranges:DB` (those of it that are open, where it is cut into some);
                           `plan`; `control` (the last that a person has asked: see `controls`),
                           `definitions` (the digest of all migrations): where there is a key
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
    run:ID:signatures      hash: kind, and of which migration or database -> what signs it: see
                           `signing.Kind`

Each change of the state is one script, so that workers that finish at once agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from redis.exceptions import WatchError

from dharma_tasks import run_scripts
from dharma_tasks.errors import DharmaError, Problem
from dharma_tasks.logs import get_logger
from dharma_tasks.migration import Migration, Reference, reference
from dharma_tasks.planner import Plan
from dharma_tasks.run import Ended, Event, Next, Progress, Run, RunState, Snapshot
from dharma_tasks.signing import Kind, Signer, digest

if TYPE_CHECKING:
    from redis import Redis


OPEN_SECONDS = 30 * 24 * 3600
"""How long the record of a run is kept that never ends."""
OVER_SECONDS = 7 * 24 * 3600
"""How long the record of a run is kept that is over."""
_LONGEST_RESCUE_SECONDS = 60
"""Between two sends of the same operation."""

PROBLEMS = TypeAdapter(list[Problem])


class Busy(DharmaError):
    """Another run has a database that this one wants; `other` is its id."""

    def __init__(self, other: Snapshot, database: str) -> None:
        self.other = other.run.id
        paused = other.state is RunState.PAUSED
        state, more = ("paused", f" (dharma resume {self.other})") if paused else ("active", "")
        super().__init__(f"run {self.other} is {state} on {database}{more}")


class Runs:
    """The runs of one namespace, for everybody; workers have `RunsAtWork` besides.

    `redis` answers with text (`decode_responses=True`).
    """

    def __init__(self, redis: Redis, namespace: str, signer: Signer | None = None) -> None:
        """Make the scripts; nothing is sent yet. Who only watches needs no `signer`."""
        # redis-py's annotations say "bytes or str" whatever was asked for.
        self._redis: Any = redis
        self._namespace = namespace
        self.signer = signer or Signer(namespace)
        self._active = f"{namespace}:active"
        self._open = f"{namespace}:runs"
        self._ended = f"{namespace}:ended"
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
            keys=[self._key(run.id), self._active, self._open, self._ended],
            args=[run.id, OPEN_SECONDS, OVER_SECONDS, *arguments, *run.databases],
        )

    # -- submit ---------------------------------------------------------------------------

    def submit(self, run: Run, migrations: Iterable[Migration]) -> Run:
        """Claim the run's databases and store the record, or find the equal run to join.

        Raises:
            Busy: another run is in the way; see `occupant`.
        """
        key, record = self._key(run.id), run.model_dump_json()
        definitions, kinds, names = {}, {}, {}
        for migration in migrations:
            definitions[migration.reference] = migration.model_dump_json()
            kinds[migration.reference] = _kinds(migration)
            names[migration.reference] = migration.name
        signed = self._signed(run, record, definitions)
        while True:
            with self._redis.pipeline() as pipe:
                pipe.watch(self._active, self._open)
                found = self.occupant(run)
                if found is not None:
                    return found
                pipe.multi()
                pipe.hset(self._active, mapping=dict.fromkeys(run.databases, run.id))
                pipe.sadd(self._open, run.id)
                pipe.hset(key, mapping={"record": record, "state": "planning"})
                if signed:
                    pipe.hset(key, "definitions", digest(definitions))
                    pipe.hset(f"{key}:signatures", mapping=signed)
                pipe.hset(f"{key}:migrations", mapping=definitions)
                pipe.hset(f"{key}:kinds", mapping=kinds)
                pipe.hset(f"{key}:names", mapping=names)
                for part in ("", ":migrations", ":kinds", ":names", ":signatures"):
                    pipe.expire(f"{key}{part}", OPEN_SECONDS)
                try:
                    pipe.execute()
                except WatchError:
                    continue
                return run

    def _signed(
        self, run: Run, record: str, definitions: Mapping[Reference, str]
    ) -> dict[str, str]:
        """What signs the record, and each migration; nothing without a key."""
        if not self.signer.on:
            return {}
        signed = {
            Kind.MIGRATION.of(ref): self.signer.sign(Kind.MIGRATION, run.id, ref, text)
            for ref, text in definitions.items()
        }
        whole = self.signer.sign(Kind.RECORD, record, digest(definitions))
        return {Kind.RECORD.value: whole, **signed}

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

    # -- what is to be done ----------------------------------------------------------------

    def surveyed(self, run: Run) -> set[str]:
        """The databases whose survey is there."""
        return set(self._redis.hkeys(f"{self._key(run.id)}:surveys"))

    def migrations(self, run: Run) -> list[Migration]:
        """Every migration that was submitted."""
        found = self._redis.hvals(f"{self._key(run.id)}:migrations")
        return [Migration.model_validate_json(text) for text in found]

    def plan(self, run: Run) -> Plan | None:
        """The plan, once there is one."""
        text = self._redis.hget(self._key(run.id), "plan")
        return Plan.model_validate_json(text) if text else None

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

    def advance(self, run: Run) -> list[Next]:
        """Start what is ready."""
        return nexts(self._call("advance", run))

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
        found, gone = [], []
        for run in sorted(self._redis.smembers(self._open)):
            try:
                snapshot = self.snapshot(run)
            except (ValueError, KeyError) as error:  # it must not keep anybody from the others
                get_logger().warning("unreadable", run=run, error=str(error))
                continue
            if snapshot:
                found.append(snapshot)
            else:
                gone.append(run)
        if gone:
            self._redis.srem(self._open, *gone)
        return found

    def ended(self) -> Ended:
        """How the runs have ended that are over."""
        fields = self._redis.hgetall(self._ended)
        return Ended(
            counts={RunState(state): int(n) for state, n in _below(fields, "count:")},
            last={database: RunState(state) for database, state in _below(fields, "last:")},
        )

    def snapshot(self, run: str) -> Snapshot | None:
        """How the run stands, or None where Redis does not know it (any more)."""
        key = self._key(run)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(key)
            pipe.hgetall(f"{key}:progress")
            fields, progress = pipe.execute()
        return snapshot_of(fields, progress)

    def events(self, run: str, start: int = 0) -> list[Event]:
        """What happened, from the `start`-th event on."""
        found = self._redis.lrange(f"{self._key(run)}:events", start, -1)
        return [Event.model_validate_json(text) for text in found]


def snapshot_of(fields: Mapping[str, str], progress: Mapping[str, str]) -> Snapshot | None:
    """What the two hashes of a run say; None where they are not there (any more)."""
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
        problems=PROBLEMS.validate_json(fields.get("problems", "[]")),
        progress={db: Progress.model_validate_json(text) for db, text in progress.items()},
    )


def _crossed(one: Run, other: Run) -> str | None:
    """A database that one of two runs in opposite directions changes, and the other relies on."""
    if one.direction is other.direction:
        return None
    shared = {*one.databases} & {*other.surveyed} | {*one.surveyed} & {*other.databases}
    return min(shared, default=None)


def _below(fields: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    return ((k.removeprefix(prefix), v) for k, v in fields.items() if k.startswith(prefix))


def _kinds(migration: Migration) -> str:
    ways = migration.operations, migration.rollback
    return "|".join(" ".join(operation["type"] for operation in way) for way in ways)


def nexts(answer: Iterable[str]) -> list[Next]:
    """What a script has started."""
    return [Next.parse(*text.split(maxsplit=1)) for text in answer]
