"""The runs' records as workers work with them: planned, carried out, and brought to their end.

Whoever only submits, steers or watches a run has `runs.py`, which names the keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from redis.exceptions import WatchError

from dharma_tasks.errors import Halted, Problem, Stopped
from dharma_tasks.migration import Key, Migration, Reference, reference
from dharma_tasks.planner import Plan
from dharma_tasks.records import Survey
from dharma_tasks.run import Event, Job, Next, Progress, Run, RunState
from dharma_tasks.runs import OPEN_SECONDS, PROBLEMS, Runs, nexts

_OF_A_DATABASE = ("generation", "working", "since")


class RunsAtWork(Runs):
    """What workers do with the runs of one namespace, besides what everybody may."""

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
        return nexts(answer)

    def failed(self, run: Run, at: Next, event: Event, undo: Next | None = None) -> list[Next]:
        """End an operation, and with it the run: nothing new begins in any database.

        Returns `undo`, where what was done is to be undone first.
        """
        return nexts(self._call("fail", run, *_turn(at, undo), event.model_dump_json()))

    def stop(self, run: Run, event: Event) -> None:
        """Begin nothing new; what is open finishes, and then the run has failed."""
        self._call("stop", run, event.model_dump_json())

    def end(self, run: Run, state: RunState, problems: list[Problem]) -> None:
        """End the run before its time. Harmless when it is over."""
        self._call("end", run, state, PROBLEMS.dump_json(problems).decode())

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
        """Tell whoever watches."""
        key = f"{self._key(run)}:events"
        with self._redis.pipeline(transaction=False) as pipe:
            pipe.rpush(key, event.model_dump_json())
            pipe.expire(key, OPEN_SECONDS)
            pipe.execute()


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
