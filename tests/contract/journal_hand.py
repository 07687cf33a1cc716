"""A database as one worker has it, with the journal's calls made short."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from elasticsearch import Elasticsearch
from pymongo import MongoClient

from dharma_tasks.databases import Database, connect
from dharma_tasks.errors import FenceLost
from dharma_tasks.journal import Journal, Opening
from dharma_tasks.migration import Key
from dharma_tasks.records import Direction, MigrationRecord, MigrationState, Owner
from dharma_tasks.settings import Settings
from dharma_tasks.work import Assignment, Prepared, Step, Taken


class Worker:
    """A database as one worker has it, with the journal's calls made short."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.settings = settings
        self.database: Database[Any] = connect(name, settings)

    @property
    def journal(self) -> Journal[Any]:
        return self.database.journal

    def begin(self, run: str = "run-1", expected: int = 0) -> int:
        opening = Opening(run=run, direction=Direction.FORWARD, plan="plan", by="somebody")
        return self.journal.begin(opening, expected)

    def assignment(self, generation: int, number: int = 1, count: int = 1) -> Assignment:
        key = Key(database=self.name, version="1.0.0", number=number)
        run = f"run-{generation}"
        return Assignment(run, generation, "somebody", key, "first", "sum-1", "kind", count)

    def owner(self) -> Owner:
        resources = self.database.resources()
        return Owner(worker="w", node="n", boot="b", pid=1, started=2.5, resources=resources)

    def backdate(self, version: str, by: timedelta) -> None:
        """Let a migration have begun that much earlier, by hand."""
        started = self.journal.survey().by_version()[version].started - by
        self._forge("migrations", ("version", version), ("started", started))

    def renew(self, schema_version: int) -> None:
        """Let the journal be a newer release's, by hand."""
        self._forge("head", ("one", "head"), ("schema_version", schema_version))

    def _forge(self, part: str, which: tuple[str, str], what: tuple[str, Any]) -> None:
        found = self.settings.url(self.name)
        assert found is not None
        url, ours = found.get_secret_value(), f"{self.settings.namespace}_{part}"
        (column, key), (field, value) = which, what
        if self.name == "postgresql":
            with psycopg.connect(url) as connection:
                text = f"UPDATE public.{ours} SET {field} = %s WHERE {column}::text IN (%s, 'true')"
                connection.execute(text, [value, key])
        elif self.name == "mongodb":
            with MongoClient[dict[str, Any]](url) as client:
                documents = client.get_default_database()[ours]
                documents.update_one({"_id": key}, {"$set": {field: value}})
        else:
            value = value.isoformat() if isinstance(value, datetime) else value
            with Elasticsearch(url) as client:
                client.update(index=ours, id=key, doc={field: value})

    def take(self, assignment: Assignment, *, counted: bool = True) -> Taken:
        return self.journal.take(assignment, self.owner(), counted=counted)

    def step(self, taken: Taken, cursor: Any, *, finished: bool = False, done: int = 10) -> Taken:
        step = Step(cursor=cursor, done=done, finished=finished, total=100)
        return self.journal.step(taken, lambda _handle: step, transactional=True)


def back(assignment: Assignment, generation: int | None = None) -> Assignment:
    """The assignment to undo the same operation; in another generation, of another run."""
    run = assignment.run if generation is None else f"run-{generation}"
    return replace(
        assignment,
        run=run,
        generation=generation or assignment.generation,
        direction=Direction.BACK,
        outcome=MigrationState.ROLLED_BACK,
    )


def rollback_file(assignment: Assignment, number: int, count: int, **more: Any) -> Assignment:
    """The assignment to carry out an operation of the migration's rollback file."""
    key = assignment.key.model_copy(update={"number": number})
    outcome = MigrationState.ROLLED_BACK
    return replace(assignment, key=key, count=count, outcome=outcome, **more)


def record(worker: Worker) -> MigrationRecord:
    """The one migration."""
    (found,) = worker.journal.survey().migrations
    return found


def refused(worker: Worker, taken: Taken) -> None:
    """Every write of `taken` is refused, and nothing of them is kept."""
    with pytest.raises(FenceLost):
        worker.step(taken, "late", finished=True)
    with pytest.raises(FenceLost):
        worker.journal.prepare(taken, Prepared(undo={"late": True}, total=1))
    with pytest.raises(FenceLost):
        worker.journal.note(taken, "late")
    with pytest.raises(FenceLost):
        worker.journal.fail(taken, "late", MigrationState.FAILED)
