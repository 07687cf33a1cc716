"""The runs' records as workers work with them: planned, carried out, and brought to their end.

With a key, what they act on is signed (see `signing`), and so is what they put there for others.
`runs.py` names the keys in Redis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import WatchError

from dharma_tasks import planned
from dharma_tasks.controls import Control
from dharma_tasks.errors import Halted, Problem, Stopped, Unsigned
from dharma_tasks.migration import Key, Migration, Reference, reference
from dharma_tasks.planner import Plan
from dharma_tasks.records import Direction, Survey
from dharma_tasks.run import Event, Job, Next, Progress, Run, RunState, Snapshot
from dharma_tasks.runs import OPEN_SECONDS, PROBLEMS, Runs, nexts, snapshot_of
from dharma_tasks.signing import Kind, Signer, digest

if TYPE_CHECKING:
    from redis import Redis

_OF_A_RUN = ("record", "definitions", "state", "control")
_OF_A_DATABASE = ("generation", "working", "since")
_LATELY = 8
"""Among so many events one that waits is not told again, so that a long wait is no long list."""
_PLANS = 8
"""How many plans a worker remembers: those of the runs that it works on by turns."""


class RunsAtWork(Runs):
    """What workers do with the runs of one namespace, besides what everybody may.

    With a key each of them raises `Unsigned` where Redis says what nobody with the key has said.
    """

    def __init__(self, redis: Redis, namespace: str, signer: Signer | None = None) -> None:
        """Remember no plans yet."""
        super().__init__(redis, namespace, signer)
        self._plans: dict[tuple[str, str], Plan] = {}

    def trusted(self, run: str) -> Snapshot | None:
        """How a run stands: its record, and what a person has asked of it at last, are signed."""
        key = self._key(run)
        with self._redis.pipeline() as pipe:  # one moment: what is signed, and its signature
            pipe.hgetall(key)
            pipe.hgetall(f"{key}:progress")
            pipe.hmget(f"{key}:signatures", Kind.RECORD, Kind.CONTROL)
            fields, progress, (signature, control) = pipe.execute()
        found = snapshot_of(fields, progress)
        if found is not None and self.signer.on:
            self._record(run, signature, fields["record"], fields.get("definitions"))
            if not found.state.rests:
                asked = Control.believed(self.signer, run, fields.get("control"), control)
                asked.confirm(run, found.state)
        return found

    # -- planning -------------------------------------------------------------------------

    def put_survey(self, run: Run, survey: Survey) -> dict[str, Survey]:
        """Store what one database's journal said; return all that are there by now.

        One that nobody with the key has put there is none: it is asked for again.
        """
        key, text = self._key(run.id), survey.model_dump_json()
        with self._redis.pipeline() as pipe:
            pipe.hset(f"{key}:surveys", survey.database, text)
            pipe.expire(f"{key}:surveys", OPEN_SECONDS)
            self._sign(pipe, Kind.SURVEY, run, survey.database, text)
            pipe.hmget(f"{key}:surveys", run.surveyed)
            pipe.hmget(f"{key}:signatures", [Kind.SURVEY.of(name) for name in run.surveyed])
            *_, texts, signatures = pipe.execute()
        found = {}
        for name, said, signature in zip(run.surveyed, texts, signatures, strict=True):
            if said is not None and self._is_signed(Kind.SURVEY, signature, run, name, said):
                found[name] = Survey.model_validate_json(said)
        return found

    def migrations(self, run: Run) -> list[Migration]:
        """Every migration that was submitted, none added and none taken away."""
        if not self.signer.on:
            return super().migrations(run)
        key = self._key(run.id)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(f"{key}:migrations")
            pipe.hget(key, "record")
            pipe.hget(f"{key}:signatures", Kind.RECORD)
            found, record, signature = pipe.execute()
        self._record(run.id, signature, record, digest(found))
        return [Migration.model_validate_json(text) for text in found.values()]

    def start(self, run: Run, plan: Plan) -> bool:
        """Store the plan and let the run begin. False when another worker did, or it is over."""
        key, text = self._key(run.id), plan.model_dump_json()
        ours = {ref for db, order in plan.orders.items() for ref in _references(db, order)}
        waits = {ref: " ".join(needs) for ref, needs in plan.dependencies.items()}
        # Applied by others: nothing here waits for them, but they are confirmed like all others.
        elsewhere = {ref for needs in plan.dependencies.values() for ref in needs} - ours
        with self._redis.pipeline() as pipe:
            pipe.watch(key)
            if pipe.hget(key, "state") != RunState.PLANNING:
                return False
            pipe.multi()
            pipe.hset(
                key,
                mapping={
                    "state": RunState.RUNNING,
                    "plan": text,
                    **{f"total:{db}": len(order) for db, order in plan.orders.items()},
                },
            )
            if self.signer.on:
                signature = self.signer.sign(Kind.PLAN, run.id, text)
                pipe.hset(f"{key}:signatures", Kind.PLAN, signature)
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
        key = self._key(run.id)
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.hget(key, "plan")
            pipe.hget(f"{key}:signatures", Kind.PLAN)
            text, signature = pipe.execute()
        if text is None:
            return None
        self.signer.confirm(Kind.PLAN, signature, run.id, text)
        return Plan.model_validate_json(text)

    def begun(self, run: Run, database: str, generation: int) -> list[Next]:
        """Note that the journal of `database` is at this run's generation; start what is ready."""
        return nexts(self._call("begun", run, database, generation))

    # -- working --------------------------------------------------------------------------

    def job(self, run: str, at: Next) -> Job:
        """What is needed to carry out one operation.

        Raises:
            Stopped: the run is over, paused or gone, or this operation is not its next one.
        """
        name, key = self._key(run), at.key
        ref = reference(key.database, key.version)
        kinds = [Kind.RECORD, Kind.CONTROL, Kind.PLAN, Kind.MIGRATION.of(ref), Kind.TURN.of(ref)]
        with self._redis.pipeline() as pipe:  # one moment: what is signed, and its signature
            pipe.hmget(name, [*_OF_A_RUN, *(f"{f}:{key.database}" for f in _OF_A_DATABASE)])
            pipe.hget(f"{name}:migrations", ref)
            pipe.hget(f"{name}:waits", ref)
            pipe.hget(f"{name}:progress", key.database)
            pipe.hmget(f"{name}:signatures", kinds)
            fields, migration, waits, last, found = pipe.execute()
        record, definitions, state, control, generation, working, since = fields
        signatures = dict(zip(kinds, found, strict=True))
        if record is None or RunState(state).rests:
            msg = f"run {run} is {state or 'not known (any more)'}"
            raise Halted(msg)
        if working != at.text:
            msg = f"run {run} is at {working or 'no operation'} in {key.database}"
            raise Stopped(msg)
        asked = self._record(run, signatures[Kind.RECORD], record, definitions)
        signed = signatures[Kind.MIGRATION.of(ref)]
        self.signer.confirm(Kind.MIGRATION, signed, run, ref, migration or "")
        stuck_for, handed_on = _left(last, key)
        job = Job(
            run=asked,
            at=at,
            generation=int(generation),
            migration=Migration.model_validate_json(migration),
            since=float(since),
            stuck_for=stuck_for,
            handed_on=handed_on,
            state=RunState(state),
        )
        if self.signer.on:
            Control.believed(self.signer, run, control, signatures[Kind.CONTROL]).confirm(
                run, job.state
            )
            job, waits = self._placed(job, signatures)
        if not (job.turned or self._confirmed(job.run, waits)):
            msg = f"{ref} waits until {waits} is confirmed"
            raise Stopped(msg)
        return job

    def passes_over(self, job: Job) -> bool:
        """Whether the plan says that the operation is left as it is, as a person has accepted."""
        plan = self.plan(job.run) if job.run.accept_data_loss else None
        return plan is not None and job.at.number in plan.passed_over.get(
            job.migration.reference, ()
        )

    def _placed(self, job: Job, signatures: dict[str, str | None]) -> tuple[Job, str]:
        """The job, and what it waits for, as the plan has it."""
        run, ref, until = job.run, job.migration.reference, job.at.until
        plan = self._plan(run, signatures[Kind.PLAN])
        before = planned.before(plan, job)
        if run.direction is Direction.FORWARD and until is not None:
            signature = signatures[Kind.TURN.of(ref)]
            self.signer.confirm(Kind.TURN, signature, run.id, ref, str(until))
            before = None  # it has begun
        return job._replace(before=before), " ".join(plan.dependencies.get(ref, ()))

    def _plan(self, run: Run, signature: str | None) -> Plan:
        """The plan with this signature; one that was believed is not read again."""
        known = self._plans.get((run.id, signature or ""))
        if known is not None:
            return known
        plan = self.plan(run)
        if plan is None or signature is None:
            msg = f"run {run.id} has no plan that is signed"
            raise Unsigned(msg, planned.TODO)
        while len(self._plans) >= _PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[run.id, signature] = plan
        return plan

    def _confirmed(self, run: Run, waits: str | None) -> bool:
        """Whether all of `waits` is, by whoever has asked their own database."""
        if not waits:
            return True
        name, refs = self._key(run.id), waits.split()
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.smismember(f"{name}:confirmed", refs)
            pipe.hmget(f"{name}:signatures", [Kind.CONFIRMED.of(ref) for ref in refs])
            there, signatures = pipe.execute()
        if not all(there):
            return False
        for ref, signature in zip(refs, signatures, strict=True):
            self.signer.confirm(Kind.CONFIRMED, signature, run.id, ref)
        return True

    def confirm(self, run: Run, ref: Reference) -> None:
        """Note that the database of `ref` itself says that it is applied (Law 7)."""
        with self._redis.pipeline() as pipe:
            pipe.sadd(f"{self._key(run.id)}:confirmed", ref)
            self._sign(pipe, Kind.CONFIRMED, run, ref)
            pipe.execute()

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
        self._sign_turn(run, at, following)
        answer = self._call("move", run, *_turn(at, following), ref, event.model_dump_json())
        if answer is None:
            msg = f"{at.key} was finished by another delivery"
            raise Stopped(msg)
        return nexts(answer)

    def failed(self, run: Run, at: Next, event: Event, undo: Next | None = None) -> list[Next]:
        """End an operation, and with it the run: nothing new begins in any database.

        Returns `undo`, where what was done is to be undone first.
        """
        self._sign_turn(run, at, undo)
        return nexts(self._call("fail", run, *_turn(at, undo), event.model_dump_json()))

    def stop(self, run: Run, event: Event) -> None:
        """Begin nothing new; what is open finishes, and then the run has failed."""
        self._call("stop", run, event.model_dump_json())

    def end(self, run: Run, state: RunState, problems: list[Problem]) -> None:
        """End the run before its time. Harmless when it is over."""
        self._call("end", run, state, PROBLEMS.dump_json(problems).decode())

    # -- signatures -----------------------------------------------------------------------

    def _record(
        self, run: str, signature: str | None, record: str | None, definitions: str | None
    ) -> Run:
        """What was asked for as `run`: it is signed, and no copy of what is another run."""
        if not record:
            msg = f"Redis does not know run {run} any more"
            raise Stopped(msg)
        self.signer.confirm(Kind.RECORD, signature, record, definitions or "")
        found = Run.model_validate_json(record)
        if self.signer.on and found.id != run:
            msg = f"what Redis has as the record of run {run} is a copy of run {found.id}'s"
            raise Unsigned(msg, planned.TODO)
        return found

    def _sign(self, pipe: Any, kind: Kind, run: Run, name: str, *parts: str) -> None:
        if self.signer.on:
            signature = self.signer.sign(kind, run.id, name, *parts)
            pipe.hset(f"{self._key(run.id)}:signatures", kind.of(name), signature)

    def _sign_turn(self, run: Run, at: Next, following: Next | None) -> None:
        """Where a run that goes forward turns back: let whoever undoes it know that it is to be."""
        if following is None or following.until is None or at.until is not None:
            return
        ref = reference(following.database, following.version)
        self._sign(self._redis, Kind.TURN, run, ref, str(following.until))

    def _is_signed(
        self, kind: Kind, signature: str | None, run: Run, name: str, *parts: str
    ) -> bool:
        try:
            self.signer.confirm(kind, signature, run.id, name, *parts)
        except Unsigned:
            return False
        return True

    # -- for whoever watches --------------------------------------------------------------

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
        """Tell whoever watches; not who waits, where that was told just now."""
        key = f"{self._key(run)}:events"
        if event.kind == "waiting" and any(
            _is_same(event, told) for told in self._redis.lrange(key, -_LATELY, -1)
        ):
            return
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(key, event.model_dump_json())
            pipe.expire(key, OPEN_SECONDS)
            pipe.execute()


def _is_same(event: Event, told: str) -> bool:
    """Whether what was told says the same; whatever cannot be read is something else."""
    try:
        found = Event.model_validate_json(told)
    except ValueError:
        return False
    return found.model_copy(update={"at": event.at}) == event


def _references(database: str, versions: Iterable[str]) -> list[Reference]:
    return [reference(database, version) for version in versions]


def _turn(at: Next, following: Next | None) -> tuple[str, str, str]:
    """The arguments that `MOVE` and `FAIL` begin with."""
    return at.database, at.text, following.text if following else ""


def _left(progress: str | None, key: Key) -> tuple[float, bool]:
    """What the last worker on this operation said; what is shown may be of the one before."""
    last = Progress.model_validate_json(progress) if progress else None
    if last is None or (last.version, last.number) != (key.version, key.number):
        return 0.0, False
    return last.stuck_for, last.handed_on
