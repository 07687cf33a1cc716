"""The audit trail as it is read, on the real databases: the same words on all three."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from journal_hand import Worker, back, record

from dharma_tasks.databases import NAMES, Database, connect
from dharma_tasks.flow import asked
from dharma_tasks.flow.context import Context
from dharma_tasks.journal import Entry, Journal, Opening
from dharma_tasks.migration import Key
from dharma_tasks.records import Direction, HistoryRecord, MigrationState, Owner, Survey
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.settings import Settings
from dharma_tasks.trail import Trail, read
from dharma_tasks.work import Assignment, Step, Taken

pytestmark = pytest.mark.parametrize("name", NAMES)


_OURS = {"taken", "applied", "failed"}
"""What a worker does to a migration."""


class Story:
    """What one worker does, for the journal to tell of."""

    def __init__(self, name: str, settings: Settings) -> None:
        self.name = name
        self.database: Database[Any] = connect(name, settings)

    @property
    def journal(self) -> Journal[Any]:
        return self.database.journal

    def begin(self, run: str, expected: int) -> None:
        self.journal.begin(Opening(run, Direction.FORWARD, "sum", f"{run}@here"), expected)

    def take(self, run: str, generation: int, version: str, number: int, count: int) -> Taken:
        key = Key(database=self.name, version=version, number=number)
        by = f"{run}@here"
        assignment = Assignment(run, generation, by, key, "first", "sum-1", "kind", count)
        resources = self.database.resources()
        owner = Owner(worker="w", node="n", boot="b", pid=1, started=2.5, resources=resources)
        return self.journal.take(assignment, owner, counted=True)

    def finish(self, taken: Taken) -> None:
        self.journal.step(
            taken, lambda _: Step(cursor=1, done=1, finished=True), transactional=True
        )

    def applies_and_fails(self) -> None:
        """Apply a version of two operations, fail at the next one, and break a lease of it."""
        self.begin("run-1", 0)
        self.finish(self.take("run-1", 1, "1.0.0", 1, 2))
        self.finish(self.take("run-1", 1, "1.0.0", 2, 2))
        self.begin("run-2", 1)
        taken = self.take("run-2", 2, "1.1.0", 1, 1)
        key = Key(database=self.name, version="1.1.0", number=1)
        self.journal.audit(Entry("unlocked", "run-2", "me@there", key, "lease 1 of w"))
        self.journal.fail(taken, "boom\nand why", MigrationState.FAILED)


@pytest.fixture
def story(name: str, settings: Settings) -> Iterator[Story]:
    """A database with a journal that nobody has made yet."""
    made = Story(name, settings)
    yield made
    made.database.close()


def told(entries: list[HistoryRecord]) -> list[tuple[Any, ...]]:
    """The entries that every database has: some tell of more."""
    only_some = {"started", "done"}
    return [
        (each.event, each.run, each.by, each.version, each.number, each.worker, each.detail)
        for each in entries
        if each.event not in only_some
    ]


def test_before_the_first_run(story: Story) -> None:
    """There is none, and reading makes none."""
    for _ in range(2):
        assert story.journal.history(10) == []
    assert story.journal.survey() == Survey(database=story.name)


def test_it_tells_everything_in_order(story: Story) -> None:
    """When, what, who, in which run, version and operation: in the same words everywhere."""
    before = datetime.now(UTC)
    story.applies_and_fails()
    entries = story.journal.history(100)
    first, second = "run-1@here", "run-2@here"
    assert told(entries) == [
        ("run", "run-1", first, None, None, None, "forward"),
        ("taken", "run-1", first, "1.0.0", 1, "w", None),
        ("taken", "run-1", first, "1.0.0", 2, "w", None),
        ("applied", "run-1", first, "1.0.0", None, None, None),
        ("run", "run-2", second, None, None, None, "forward"),
        ("taken", "run-2", second, "1.1.0", 1, "w", None),
        ("unlocked", "run-2", "me@there", "1.1.0", 1, None, "lease 1 of w"),
        ("failed", "run-2", second, "1.1.0", 1, None, None),
    ]
    ours = [(each.name, each.checksum) for each in entries if each.event in _OURS]
    assert ours == [("first", "sum-1")] * 5
    assert entries[-1].error == "boom\nand why"
    assert [each.error for each in entries[:-1]] == [None] * (len(entries) - 1)
    times = [each.at for each in entries]
    assert times == sorted(times)
    second_more = timedelta(seconds=1)
    assert before - second_more <= times[0] <= times[-1] <= datetime.now(UTC) + second_more


def test_it_says_that_data_loss_was_accepted(story: Story) -> None:
    """It is the only way past what cannot be undone, and whoever took it is known."""
    accepted = replace(Opening("run-1", Direction.BACK, "sum", "me"), accept_data_loss=True)
    story.journal.begin(accepted, 0)
    (entry,) = story.journal.history(10)
    assert (entry.event, entry.by, entry.detail) == ("run", "me", "back --accept-data-loss")


def test_nothing_to_prune(story: Story) -> None:
    """Where nothing is kept nothing is removed, and nothing is told."""
    story.applies_and_fails()
    before = story.journal.history(100)
    assert story.journal.prune(datetime.now(UTC), run="p", by="me") == []
    assert story.journal.history(100) == before


def test_only_the_last(story: Story) -> None:
    """A limit keeps the newest, and their order."""
    story.applies_and_fails()
    every = story.journal.history(100)
    assert story.journal.history(3) == every[-3:]
    assert [each.event for each in story.journal.history(2)] == ["unlocked", "failed"]


def ends(worker: Worker) -> list[tuple[Any, ...]]:
    """What the history alone says of each end: what, of which file, how long, and why."""
    return [
        (each.event, each.name, each.checksum, each.seconds, each.error)
        for each in read(worker.journal, 100).entries
        if each.event in {"applied", "failed", "rolled_back"}
    ]


def hours(worker: Worker, expected: int) -> float:
    """How long the last end took by the migration's record: about as many hours as were forged."""
    seconds = record(worker).seconds
    assert seconds is not None
    assert expected * 3600 <= seconds < expected * 3600 + 60
    return seconds


def test_each_end_keeps_what_it_was(worker: Worker) -> None:
    """Applied, rolled back, applied from a changed file: none of it changes what was told."""
    first = replace(worker.assignment(worker.begin()), checksum="sum-1+values")
    taken = worker.take(first)
    worker.backdate("1.0.0", timedelta(hours=2))
    worker.step(taken, "end", finished=True)
    expected = [("applied", "first", "sum-1", hours(worker, 2), None)]
    assert ends(worker) == expected
    worker.step(worker.take(back(first, worker.begin("run-2", 1))), None, finished=True)
    expected.append(("rolled_back", "first", "sum-1", hours(worker, 0), None))
    assert ends(worker) == expected
    generation = worker.begin("run-3", 2)
    changed = {"run": "run-3", "generation": generation, "name": "second", "checksum": "sum-2"}
    anew = replace(first, **changed)
    taken = worker.take(anew)
    worker.backdate("1.0.0", timedelta(hours=1))
    worker.step(taken, "end", finished=True)
    expected.append(("applied", "second", "sum-2", hours(worker, 1), None))
    assert ends(worker) == expected
    assert worker.take(anew).over  # a duplicate tells nothing again
    assert ends(worker) == expected


def test_a_failure_is_an_end(worker: Worker) -> None:
    """With its error, as are the way back from it, and what goes on from there."""
    first, second = (worker.assignment(worker.begin(), number, 2) for number in (1, 2))
    taken = worker.take(first)
    worker.backdate("1.0.0", timedelta(hours=1))
    worker.journal.fail(taken, "no", MigrationState.FAILED)
    expected = [("failed", "first", "sum-1", hours(worker, 1), "no")]
    assert ends(worker) == expected
    worker.journal.fail(worker.take(back(first)), "no way", MigrationState.FAILED)
    expected.append(("failed", "first", "sum-1", hours(worker, 0), "no way"))
    assert worker.take(back(second)).over
    worker.step(worker.take(back(first)), None, finished=True)
    expected.append(("rolled_back", "first", "sum-1", hours(worker, 0), None))
    assert ends(worker) == expected


def test_through_a_worker(story: Story, settings: Settings) -> None:
    """Who has no URL gets the same from a worker that has one."""
    story.applies_and_fails()
    redis = connect_redis(settings)
    context = Context(settings, redis, worker="w", shutting_down=lambda: False)
    wanted = asked.Wanted(history=3)
    try:
        assert asked.read(context, story.name, f"{settings.namespace}:reply", wanted) == []
        _, answer = redis.blpop([f"{settings.namespace}:reply"], timeout=1)
    finally:
        context.close()
        redis.close()
    assert Trail.model_validate_json(answer) == read(story.journal, 3)
