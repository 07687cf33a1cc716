"""Whether all is there that migrations need: settings, Redis, workers, databases, the folder.

A database is examined by a worker that serves it, because it is the worker's credentials that
count and its network that must lead there; where there is none, directly, by the URL in the
settings. So it also works where only Redis is known, in a deployment hook for instance.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel
from redis import Redis
from redis.exceptions import RedisError

from dharma_tasks import redis_examine
from dharma_tasks.bounds import Bounds
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Refused, Unreachable
from dharma_tasks.findings import Examination, Finding, Grade, problem, warning
from dharma_tasks.loader import load
from dharma_tasks.reading import EXAMINATION, Relayed, Send, ask
from dharma_tasks.redis_client import lost, require_redis
from dharma_tasks.settings import Settings
from dharma_tasks.signing import MAKE_ONE, advice
from dharma_tasks.values import Values
from dharma_tasks.workers import Worker, Workers

__all__ = ["Diagnosis", "examine"]


class Diagnosis(BaseModel):
    """What was found: by subject, in the order in which it is shown."""

    subjects: dict[str, Examination]

    @property
    def grade(self) -> Grade:
        """The gravest."""
        found = {finding.grade for each in self.subjects.values() for finding in each.findings}
        return max(found, key=list(Grade).index, default=Grade.OK)

    def count(self, grade: Grade) -> int:
        """How many findings are of that grade."""
        return sum(f.grade is grade for each in self.subjects.values() for f in each.findings)


def examine(settings: Settings, migrations: Path | None, send: Send) -> Diagnosis:
    """Look at everything; nothing is changed, and what cannot be looked at is a finding.

    `migrations` is the folder, where it is not that of the settings; `send` asks workers.
    """
    redis, found = _redis(settings)
    workers = _workers(redis, settings)
    folder, needed = _folder(settings, migrations)
    served = {database for worker in workers for database in worker.databases}
    subjects = {"redis": found, "workers": _said(workers, redis), "migrations": folder}
    used = [name for name in NAMES if name in needed | served or settings.url(name)]
    answers = ask(EXAMINATION, used, settings, Relayed(redis, served, send))
    for name in used:
        seen = answers.found.get(name) or Examination(findings=[])
        if name in answers.errors:
            seen.findings.append(_unreachable("connection", answers.errors[name], ""))
        if workers and name not in served:
            seen.findings.append(_unserved(name))
        subjects[name] = seen
    return Diagnosis(subjects=subjects)


def _redis(settings: Settings) -> tuple[Redis | None, Examination]:
    findings = [_signed(settings)]
    try:
        redis = require_redis(settings)
        findings += redis_examine.examine(redis, settings.namespace)
    except Unreachable as error:
        findings.append(_unreachable("connection", str(error), ""))
        return None, Examination(findings=findings)
    except RedisError as error:
        findings.append(_unreachable("connection", str(lost(error)), ""))
        return None, Examination(findings=findings)
    return redis, Examination(findings=findings)


def _signed(settings: Settings) -> Finding:
    """Whether what is in Redis is believed without a signature."""
    if (what := advice(settings)) is not None:
        return warning("signatures", what, MAKE_ONE)
    return Finding(check="signatures", what="a key is set, which the workers must have too")


def _workers(redis: Redis | None, settings: Settings) -> list[Worker]:
    if redis is None:
        return []
    try:
        return Workers(redis, settings.namespace).alive()
    except RedisError:
        return []


def _said(workers: list[Worker], redis: Redis | None) -> Examination:
    findings = [
        Finding(check=worker.name, what=f"alive, serves {', '.join(worker.databases)}")
        for worker in workers
    ]
    if not findings:
        what = "none is alive" if redis else "not known without Redis"
        todo = "Start one: celery -A dharma_tasks worker" if redis else ""
        findings.append(_unreachable("alive", what, todo))
    return Examination(findings=findings)


def _folder(settings: Settings, migrations: Path | None) -> tuple[Examination, set[str]]:
    """What the folder is like, and which databases it is for."""
    folder = migrations or settings.migrations_dir
    if not folder.exists():
        todo = "Make it: dharma init; or name it with --migrations DIR or DHARMA_MIGRATIONS_DIR."
        finding = warning("folder", f"there is no {folder} here", todo)
        return Examination(findings=[finding]), set()
    try:
        loaded = load(folder, Values(settings=settings.values, required=False), Bounds.of(settings))
    except Refused as refused:
        count = len(refused.problems)
        what = f"problems in {folder}: {count}, the first one is {refused.problems[0]}"
        finding = problem("folder", what, "All of them: dharma check")
        return Examination(findings=[finding]), {p.file.partition("/")[0] for p in refused.problems}
    names = {migration.database for migration in loaded.migrations}
    finding = Finding(check="folder", what=f"{folder}, migrations: {len(loaded.migrations)}")
    return Examination(findings=[finding]), names


def _unserved(name: str) -> Finding:
    todo = f"Start one with DHARMA_{name.upper()}_URL: celery -A dharma_tasks worker -Q {name}"
    return _unreachable("worker", "none that is alive serves it", todo)


def _unreachable(check: str, what: str, todo: str) -> Finding:
    return Finding(check=check, what=what, grade=Grade.UNREACHABLE, todo=todo)
