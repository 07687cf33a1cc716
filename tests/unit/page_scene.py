"""A page made by hand: a fake Redis with a run in it, and journals that say what the test wants."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime

from fake_run import NAMESPACE, Driver
from fakeredis import FakeRedis

from dharma_tasks.databases import NAMES
from dharma_tasks.migration import Migration
from dharma_tasks.page.known import Known
from dharma_tasks.page.lines import Lines
from dharma_tasks.page.making import Facts, make
from dharma_tasks.page.shown import DatabaseShown, Shown
from dharma_tasks.page.submissions import Submissions
from dharma_tasks.records import Head, MigrationRecord, MigrationState, Survey
from dharma_tasks.run import Run
from dharma_tasks.settings import Settings
from dharma_tasks.status import Pulse, feel
from dharma_tasks.workers import Worker, Workers

BEGUN = datetime(2026, 5, 9, 12, 3, tzinfo=UTC)


def record(found: Migration, state: MigrationState, **changes: object) -> MigrationRecord:
    """What a journal says of a migration."""
    kept = MigrationRecord(
        version=found.version,
        name=found.name,
        state=state,
        checksum=found.checksum,
        run="r",
        by="me@here",
        started=BEGUN,
        seconds=1.3,
    )
    return kept.model_copy(update=changes)


def applied(*found: Migration) -> list[MigrationRecord]:
    """What a journal says of migrations that are applied."""
    return [record(each, MigrationState.APPLIED) for each in found]


class Scene:
    """What the page knows, put together by the test."""

    def __init__(self, *migrations: Migration) -> None:
        self.redis = FakeRedis(decode_responses=True)
        self.driver = Driver(self.redis, *migrations)
        self.settings = Settings(_env_file=None, namespace=NAMESPACE)  # type: ignore[call-arg]
        self.submissions = Submissions(self.driver.runs)
        self.lines = Lines()
        self.known: dict[str, Known] = {}
        Workers(self.redis, NAMESPACE).announce(Worker(name="w@here", databases=NAMES), seconds=60)

    def journal(self, name: str, *records: MigrationRecord, run: Run | None = None) -> None:
        """Let a journal say this."""
        head = Head(identity="i", run=run.id) if run else None
        survey = Survey(database=name, head=head, migrations=list(records))
        self.known[name] = Known(survey=survey, at=time.time())

    def shown(self, pulse: Pulse | None = None, lost: float | None = None) -> Shown:
        """What the page shows."""
        pulse = pulse or feel(self.redis, self.settings)
        known: Mapping[str, Known] = {name: self.known.get(name, Known()) for name in NAMES}
        runs = {
            name: each.survey.head.run
            for name, each in known.items()
            if each.survey and each.survey.head
        }
        found = self.submissions.by_database(pulse.snapshots, runs)
        lines = self.lines.put_together(known, found)
        return make(Facts(time.time(), pulse, known, lines, found, lost))

    def database(self, name: str) -> DatabaseShown:
        """What the page shows of one database."""
        (found,) = [each for each in self.shown().databases if each.name == name]
        return found
