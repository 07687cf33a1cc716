"""The campaign: generation after generation of migrations, and faults until there were enough.

    seed data, write files
        -> (submit, or roll back -> (fault -> progress -> pause)* -> compare)* -> the next

A generation is applied, rolled back, and applied again, and compared after each. When the next
one is done it is compared once more: a late writer, woken after its work was done by somebody
else, would show by then.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from benchmarks.chaos import batches
from benchmarks.chaos.crew import Crew
from benchmarks.chaos.faults import Fault, Faults, NotNow
from benchmarks.chaos.figures import Figures
from benchmarks.chaos.generations import Generation
from benchmarks.chaos.ground import DATABASES, Ground, wait_for
from benchmarks.chaos.journals import UNREACHABLE, Entries, Journals, Watch
from dharma_tasks.lease import Held

HANGS = 120.0
"""Seconds without progress in what was hit, everything being back, after which it hangs."""
_LONG = 10.0
"""Seconds to progress that are worth a line in the log."""
_AGAIN = {2, 3, 4}
"""A submit's exit status that asks for another one: refused, given up, or unreachable."""

_OUTDATED = "a new run goes on from what the journal says"
"""What a submit says whose run another one has overtaken."""

KINDS = {
    "pool child killed": 4,
    "worker killed": 3,
    "worker's main process killed": 1,
    "both workers killed": 1,
    "worker frozen": 2,
    "pool child frozen": 2,
    "worker told to end": 2,
    "redis killed": 2,
    "redis away for long": 1,
    "redis frozen": 1,
    "redis flushed": 1,
    "redis set back": 1,
    "messages delivered again": 1,
    "mongodb killed": 2,
    "mongodb frozen": 1,
    "mongodb stepped down": 2,
    "postgresql killed": 2,
    "postgresql frozen": 1,
    "postgresql backend ended": 2,
    "elasticsearch killed": 2,
    "elasticsearch frozen": 1,
    "submitted twice": 1,
}
"""How often each comes in a deck of faults."""


@dataclass(frozen=True)
class Wanted:
    """How many faults, of which kinds, and for how long at most."""

    kills: int
    seed: int
    seconds: float
    scale: float = 1.0
    kinds: tuple[tuple[str, int], ...] = tuple(KINDS.items())
    pause: float = 3.0
    """The longest pause between progress and the next fault."""
    each_way: int = 10
    """The most faults while a generation goes one way."""
    together: float = 0.25
    """How often a fault comes without waiting for progress after the one before it."""


class Campaign:
    """One campaign on one ground."""

    def __init__(self, ground: Ground, wanted: Wanted) -> None:
        """Nothing is started yet."""
        self._ground = ground
        self._wanted = wanted
        self._chance = random.Random(wanted.seed)  # noqa: S311 - the same faults each time
        self._figures = Figures(wanted.seed)
        self._repairs: list[Future[None]] = []
        self._deck: list[str] = []

    def run(self) -> Figures:
        """Do it all, and say what was found."""
        begun = time.monotonic()
        self._until = begun + self._wanted.seconds
        with self._parts() as (crew, watch, pool):
            self._crew, self._watch, self._pool = crew, watch, pool
            self._generations()
        self._figures.seconds = time.monotonic() - begun
        self._figures.findings = self._ground.findings
        return self._figures

    @contextmanager
    def _parts(self) -> Iterator[tuple[Crew, Watch, ThreadPoolExecutor]]:
        watch = Watch(self._ground)
        with ThreadPoolExecutor() as pool:
            crew = Crew(self._ground, self._wanted.seed)
            try:
                yield crew, watch, pool
            finally:
                for repair in self._repairs:
                    repair.exception()
                crew.close()
                watch.close()

    # --- generations ---

    def _generations(self) -> None:
        before: Generation | None = None
        number = 0
        while number == 0 or (not self._enough() and not self._ground.findings):
            number += 1
            generation = Generation(self._ground, number, self._wanted.scale)
            self._ground.say(f"generation {number}")
            generation.make()
            for times, applied in enumerate((True, False, True)):
                if times > 0 and self._enough() and "back" in self._figures.ways:
                    break
                generation.applied = applied
                if not self._carry_out(generation, again=times > 0):
                    return
            self._figures.generations += 1
            if before is not None:
                self._compare(before)
                before.drop()
            before = generation
        if before is not None:
            self._compare(before)
            before.drop()

    def _enough(self) -> bool:
        enough = len(self._figures.faults) >= self._wanted.kills
        return enough or time.monotonic() > self._until

    def _carry_out(self, generation: Generation, *, again: bool) -> bool:
        """Submit, make faults until it is done, and compare. False where it hangs or failed."""
        way = "forward" if generation.applied else "back"
        self._ground.say(f"generation {generation.number} {way}")
        goals = {name: generation.goals(name) for name in DATABASES}
        journals = Journals(self._ground)
        before = {n: journals.read(n, generation.versions[n]) if again else {} for n in DATABASES}
        self._watch.follow(goals, before)
        forward = ("--target", "latest", "--allow-major")  # each generation has one of its own
        back = ("--rollback-to", generation.below)
        self._crew.wanted = forward if generation.applied else back
        faults_before = len(self._figures.faults)
        work = _Work(self._ground, self._crew)
        faults = Faults(self._ground, self._crew, self._chance, work.extra)
        while work.goes_on():
            hits = len(self._figures.faults) - faults_before
            if self._enough() or hits >= self._wanted.each_way:
                time.sleep(0.1)
            else:
                self._disturb(faults, work)
            if self._hangs():
                break
        for repair in self._repairs:
            repair.result()
        self._recoveries()
        if work.failed or self._ground.findings:
            work.end()
            return False
        work.finish()
        self._compare(generation)
        hits = len(self._figures.faults) - faults_before
        self._figures.ways[way] += 1
        self._figures.faults_on[way] += hits
        for name in DATABASES:
            self._account(generation, name, before[name])
        self._replays(hits)
        self._no_leases()
        return not self._ground.findings

    # --- faults ---

    def _disturb(self, faults: Faults, work: _Work) -> None:
        """Make one fault, and wait for progress, or not."""
        try:
            fault = faults.make(self._draw())
        except NotNow:
            self._deck.insert(0, self._deck.pop())
            time.sleep(0.1)
            return
        self._deck.pop()
        self._figures.faults.append(fault)
        self._ground.say(f"{len(self._figures.faults):3} {fault.kind} {fault.done.what}")
        self._repairs.append(self._pool.submit(self._repair, fault))
        if self._chance.random() >= self._wanted.together:
            while work.goes_on() and not self._recovered(fault) and not self._hangs():
                time.sleep(0.05)
        pause = time.monotonic() + self._chance.uniform(0, self._wanted.pause)
        while work.goes_on() and time.monotonic() < pause:
            time.sleep(0.05)

    def _draw(self) -> str:
        """The next kind; it stays on the deck until it was made. A new deck has all kinds."""
        if not self._deck:
            self._deck = [kind for kind, times in self._wanted.kinds for _ in range(times)]
            self._chance.shuffle(self._deck)
        return self._deck[-1]

    def _repair(self, fault: Fault) -> None:
        """What was taken away comes back after a while."""
        if fault.done.repair is None:
            return
        time.sleep(fault.done.pause)
        fault.done.repair()
        fault.repaired = time.monotonic()

    def _recovered(self, fault: Fault) -> bool:
        if fault.progress is None:
            fault.progress = self._watch.progress(fault.done.databases or DATABASES, fault.at)
            back = fault.repaired if fault.done.repair else fault.at
            if fault.progress and back and fault.progress - back > _LONG:
                waited = f"progress after {fault.progress - back:.1f} s"
                self._ground.say(f"    {fault.kind} {fault.done.what}: {waited}")
        return fault.progress is not None

    def _recoveries(self) -> None:
        for fault in self._figures.faults:
            self._recovered(fault)

    def _hangs(self) -> bool:
        """Whether a fault is long over and what it hit, or everything, has not moved since."""
        now = time.monotonic()
        waits = [fault for fault in self._figures.faults if fault.done.repair]
        if any(fault.repaired is None for fault in waits):
            return False
        last = max([self._watch.moved(), *(fault.repaired or 0 for fault in waits)])
        stuck = [
            f"{fault.kind} {fault.done.what}"
            for fault in self._figures.faults
            if now - (fault.repaired or fault.at) > HANGS and not self._recovered(fault)
        ]
        if now - last > HANGS:
            stuck.append("anything")
        if stuck:
            self._ground.found(f"no progress for {HANGS:g} s after {'; '.join(stuck)}")
        return bool(stuck)

    # --- the end of a generation ---

    def _compare(self, generation: Generation) -> None:
        difference = generation.compare()
        if not difference.empty:
            self._figures.difference += difference
            self._ground.found(
                f"generation {generation.number}: {difference.lost} effects lost, "
                f"{difference.doubled} doubled: {difference.other}"
            )

    def _account(self, generation: Generation, database: str, before: Entries) -> None:
        """Check a journal, and count what was done; takings over where that is all that counts."""
        goals = generation.goals(database)
        entries = Journals(self._ground).read(database, generation.versions[database])
        self._figures.migrations += len(generation.versions[database])
        self._figures.operations += len(goals)
        if not before:
            self._figures.take_overs += sum(entry.fence - 1 for entry in entries.values())
        for (version, number), state in goals.items():
            entry = entries.get((version, number))
            whole = entry is not None and entry.done == (entry.total or entry.done)
            if entry is None or entry.state != state or not whole:
                self._ground.found(f"journal of {database} {version}#{number}: {entry}")

    def _no_leases(self) -> None:
        lease = self._ground.settings.lease_seconds
        if not wait_for(lambda: not self._leases(), lease + 2):
            self._ground.found(f"leases are left: {sorted(self._leases())}")

    def _replays(self, faults: int) -> None:
        """Count the batches done again: for each fault at most one of each open range."""
        begun = batches.read(self._ground.batches)[sum(self._figures.batches.values()) :]
        replayed = Counter(each.database for each in batches.again(begun))
        self._figures.batches += Counter(each.database for each in begun)
        self._figures.batches_again += replayed
        for name, times in replayed.items():
            if times > faults * batches.OPEN_IN_CAMPAIGN[name]:
                self._ground.found(f"{name}: {times} batches done again, after {faults} faults")

    def _leases(self) -> dict[str, Held]:
        return self._ground.held()


@dataclass
class _Work:
    """The submit of one generation, sent again where it says so, as a person or a script would."""

    ground: Ground
    crew: Crew
    extra: list[subprocess.Popen[bytes]] = field(default_factory=list)
    failed: bool = False

    def __post_init__(self) -> None:
        self._submit = self.crew.submit()

    def goes_on(self) -> bool:
        """Whether it is not done yet."""
        status = self._submit.poll()
        if status is None:
            return not self.failed
        if status in _AGAIN or (status == 1 and self.crew.told(self._submit, _OUTDATED)):
            self.ground.say(f"submit ended with {status}: submitted again")
            time.sleep(0.5)
            self._submit = self.crew.submit()
            return True
        if status != 0:
            self.ground.found(f"a submit ended with {status}, though nothing is wrong for good")
            self.failed = True
        return False

    def finish(self) -> None:
        """The other submits that were sent end too."""
        for submit in self.extra:
            if not wait_for(lambda submit=submit: submit.poll() is not None, 60):  # type: ignore[misc]
                self.ground.found("a second submit does not end")
            elif submit.poll() not in {0, 1, *_AGAIN}:
                self.ground.found(f"a second submit ended with {submit.poll()}")

    def end(self) -> None:
        """Leave no process."""
        for submit in (self._submit, *self.extra):
            submit.kill()
            submit.wait()


def evidence(ground: Ground) -> None:
    """Write down how everything stands: Redis and the journals, beside the logs."""
    lines = [*_redis(ground.redis)]
    journals = Journals(ground)
    for database in DATABASES:
        names = [path.name for path in (ground.migrations / database).glob("*_*.json")]
        numbers = sorted({int(name.partition("_")[0]) for name in names})
        versions = [f"{number // 100}.{number % 100}.0" for number in numbers]
        try:
            found = journals.read(database, versions)
        except UNREACHABLE as error:
            lines.append(f"{database}: {error}")
        else:
            lines += [f"{database} {key}: {entry}" for key, entry in found.items()]
    (ground.logs / "evidence.txt").write_text("\n".join(lines) + "\n")


def _redis(redis: Any) -> Iterator[str]:
    read = {
        "string": redis.get,
        "hash": redis.hgetall,
        "set": redis.smembers,
        "list": lambda key: redis.lrange(key, 0, -1),
        "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
    }
    try:
        for name in sorted(redis.scan_iter(count=1000)):
            yield f"{name}: {read[redis.type(name)](name)}"
    except RedisError as error:
        yield f"redis: {error}"
