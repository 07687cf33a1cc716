"""A hand that does with an operation what the runner does, one step at a time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch import ElasticsearchDatabase
from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.journal import Opening
from dharma_tasks.migration import JSON, Key
from dharma_tasks.operations.elasticsearch import catalogue
from dharma_tasks.records import Direction, MigrationState, Owner
from dharma_tasks.work import Assignment, Step, Taken, Work


@dataclass
class Hand:
    """Drives one operation step by step, as the runner does, under one worker's name."""

    database: ElasticsearchDatabase
    worker: str = "first"
    version: str = "1.0.0"
    run: str = "run1"
    generation: int = 1
    number: int = 1
    count: int = 1
    warnings: list[str] = field(default_factory=list)
    confirmed: int = 0
    rate: float | None = None

    def begin(self) -> None:
        """Open the run."""
        opening = Opening(self.run, Direction.FORWARD, plan="plan", by="tester")
        self.generation = self.database.journal.begin(opening, self.generation - 1)

    def assignment(
        self, kind: str, version: str | None = None, number: int | None = None, count: int = 1
    ) -> Assignment:
        """An operation of the run; without a number the one that this hand is at."""
        at, of = (self.number, self.count) if number is None else (number, count)
        key = Key(database="elasticsearch", version=version or self.version, number=at)
        return Assignment(
            self.run, self.generation, "tester", key, "a migration", "checksum", kind, of
        )

    def again(self) -> None:
        """Open a further run."""
        self.run, self.generation = f"{self.run}+", self.generation + 1
        self.begin()

    def take(self, assignment: Assignment, *, counted: bool = True) -> Taken:
        """Take it over."""
        owner = Owner(worker=self.worker, node="node", boot="boot", pid=1, started=1)
        return self.database.journal.take(assignment, owner, counted=counted)

    def work(self, taken: Taken) -> Work[Elasticsearch]:
        """What the operation gets."""

        def confirm() -> None:
            self.confirmed += 1

        return Work(
            handle=self.database.handle,
            cursor=json.loads(json.dumps(taken.cursor)),
            undo=taken.undo or {},
            size=1000,
            label=f"{self.run}/{taken.assignment.key}/{taken.fence}",
            key=taken.assignment.key,
            walked=taken.walked,
            confirm=confirm,
            warn=self.warnings.append,
            earlier=lambda: self.database.journal.earlier(taken.assignment.key),
            rate=self.rate,
        )

    def prepared(self, operation: JSON) -> Taken:
        """Take the operation over, and prepare it where that was not done."""
        taken = self.take(self.assignment(operation["type"]))
        if taken.undo is not None:
            return taken
        prepared = catalogue.parse(operation).prepare(self.work(taken))
        return self.database.journal.prepare(taken, prepared) if prepared else taken

    def undoing(self, operation: JSON) -> Taken:
        """Take the operation over to undo it."""
        back = {"direction": Direction.BACK, "outcome": MigrationState.ROLLED_BACK}
        return self.take(replace(self.assignment(operation["type"]), **back))

    def look(self, operation: JSON, taken: Taken) -> Step:
        """Do a step and lose its journal write: a crash right after the effect."""
        parsed = catalogue.parse(operation)
        return (parsed.undo if taken.assignment.back else parsed.step)(self.work(taken))

    def step(self, operation: JSON, taken: Taken) -> Taken:
        """Do a step and write it."""
        return self.database.journal.step(
            taken, lambda _: self.look(operation, taken), transactional=False
        )

    def until(self, operation: JSON, taken: Taken, wanted: Callable[[JSON], bool]) -> Taken:
        """Step on until the cursor is as wanted."""
        until = time.monotonic() + 30
        while not (taken.cursor and wanted(taken.cursor)):
            assert time.monotonic() < until, taken.cursor
            taken = self.step(operation, taken)
        return taken

    def finish(self, operation: JSON, taken: Taken) -> Taken:
        """Step on to the end."""
        until = time.monotonic() + 60
        while not taken.over:
            assert time.monotonic() < until, taken
            taken = self.step(operation, taken)
        return taken

    def persist(self, operation: JSON, taken: Taken) -> tuple[Taken, list[str]]:
        """As `finish`, over what passes too; returns what that was."""
        passed: list[str] = []
        until = time.monotonic() + 60
        while True:
            try:
                return self.finish(operation, taken), passed
            except Interrupted as error:
                passed.append(str(error))
                assert time.monotonic() < until, passed
                time.sleep(0.2)
                taken = self.prepared(operation)

    def do(self, operation: JSON) -> Taken:
        """Take the operation over and bring it to its end."""
        return self.finish(operation, self.prepared(operation))

    def do_all(self, operations: list[JSON]) -> None:
        """Do all operations of a migration."""
        self.count = len(operations)
        for self.number, operation in enumerate(operations, start=1):
            self.do(operation)

    def undo_all(self, operations: list[JSON]) -> None:
        """Undo all operations of a migration, the last one first."""
        for self.number, operation in [*enumerate(operations, start=1)][::-1]:
            self.undo(operation)

    def undo(self, operation: JSON) -> Taken:
        """Undo the operation, to the end."""
        return self.finish(operation, self.undoing(operation))

    def undo_unbegun(self, operation: JSON, *, begun: bool) -> None:
        """Undo what was only taken, or with `begun` prepared too."""
        if begun:
            self.prepared(operation)
        else:
            self.take(self.assignment(operation["type"]))
        self.undo(operation)
        assert (self.warnings, self.confirmed) == ([], 0)

    def there_and_back(self, operation: JSON, state: Callable[[], JSON]) -> None:
        """Apply, undo, undo once more as after a lost checkpoint, apply again."""
        before = state()
        self.do(operation)
        applied = state()
        assert applied != before
        taken = self.undoing(operation)
        assert self.look(operation, taken).finished  # and dies
        assert state() == before
        self.undo(operation)
        assert state() == before
        self.again()
        self.do(operation)
        assert state() == applied
        assert self.warnings == []
