"""What the journals say, and how much there is, asked of all databases at once; nothing is changed.

A database whose URL is set is read directly, another one through a worker that serves it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter
from redis import Redis
from redis.exceptions import RedisError

from dharma_tasks import replies
from dharma_tasks.databases import NAMES, Database, connect
from dharma_tasks.databases.base import Fault
from dharma_tasks.errors import Problem, Unreachable
from dharma_tasks.findings import Examination, Finding, problem
from dharma_tasks.messages import ERROR, Chain, Message, read_message
from dharma_tasks.records import SCHEMA_VERSION, Survey
from dharma_tasks.redis_client import require_redis
from dharma_tasks.settings import Settings
from dharma_tasks.workers import Workers

__all__ = [
    "COUNTS",
    "EXAMINATION",
    "SURVEY",
    "Answers",
    "Question",
    "Relayed",
    "Send",
    "ask",
    "counting",
    "examination",
    "surveys",
    "whereabouts",
    "workers",
]

ANSWER_SECONDS = 10
"""How long a worker may take to answer for a database that has no URL here."""
_AGAIN_SECONDS = 1
"""How long passing errors are tried over: one node of a cluster may be away."""

Send = Callable[[Iterable[Chain]], None]

Found = TypeVar("Found")


@dataclass(frozen=True)
class Question(Generic[Found]):
    """What a database is asked, directly (`read`) or through a worker.

    `message` makes the message from the database's name and that of the list for the answer,
    which `parse` reads. With `by_workers` the answer of a worker is wanted wherever there is one.
    """

    read: Callable[[Database[Any]], Found]
    message: Callable[[str, str], Message]
    parse: Callable[[str], Found]
    by_workers: bool = False


SURVEY = Question[Survey](
    read=lambda database: database.journal.survey(),
    message=read_message,
    parse=Survey.model_validate_json,
)
"""All that planning and `status` need."""


def examination(database: Database[Any], worker: str | None = None) -> Examination:
    """Whether all is there that migrations need, and which journal; `worker` is who looks."""
    findings = database.examine()
    head = database.journal.survey().head
    if head is None:
        findings.append(Finding(check="journal", what="none yet: the first run makes it"))
    elif head.schema_version > SCHEMA_VERSION:
        what = f"a newer release has made it its own (schema version {head.schema_version})"
        findings.append(problem("journal", what, "Update dharma-tasks, here and at the workers."))
    else:
        findings.append(Finding(check="journal", what=f"{head.identity}, of run {head.run}"))
    return Examination(worker=worker, findings=findings)


EXAMINATION = Question[Examination](
    read=examination,
    message=partial(read_message, examine=True),
    parse=Examination.model_validate_json,
    by_workers=True,
)
"""Whether all is there that migrations need, with the credentials of those who carry them out."""

COUNTS = TypeAdapter(dict[str, int | None])
"""The answer to `counting`."""


def counting(names: Mapping[str, Sequence[str]]) -> Question[dict[str, int | None]]:
    """Ask how much there is in `names`, by database: see `Database.count`."""
    return Question(
        read=lambda database: database.count(names[database.name]),
        message=lambda database, reply: read_message(database, reply, count=names[database]),
        parse=COUNTS.validate_json,
    )


@dataclass(frozen=True)
class Relayed:
    """The way through the workers: nobody is asked without Redis, or who is not `served`."""

    redis: Redis | None
    served: Collection[str]
    send: Send


@dataclass
class Answers(Generic[Found]):
    """By database: what it said, or why it could not be read. Nobody knows about the others."""

    found: dict[str, Found] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Unread:
    why: str


def ask(
    question: Question[Found], names: Sequence[str], settings: Settings, relayed: Relayed
) -> Answers[Found]:
    """Ask the databases `names`. What cannot be read is said in the result; nothing is raised."""
    direct = [
        name
        for name in names
        if settings.url(name) and not (question.by_workers and name in relayed.served)
    ]
    others = [name for name in names if name not in direct and name in relayed.served]
    with ThreadPoolExecutor(max_workers=len(NAMES) + 1) as pool:
        asking = pool.submit(_ask, question, others, settings, relayed)
        reading = pool.map(lambda name: _read(question.read, name, settings), direct)
        by_name = dict(zip(direct, reading, strict=True)) | asking.result()
    answers = Answers[Found]()
    for name, said in by_name.items():
        if isinstance(said, _Unread):
            answers.errors[name] = said.why
        else:
            answers.found[name] = said
    return answers


def workers(settings: Settings, send: Send) -> Relayed:
    """The way through the workers that are alive; without Redis nobody can be asked."""
    try:
        redis = require_redis(settings)
        return Relayed(redis, Workers(redis, settings.namespace).served(), send)
    except (Unreachable, RedisError):
        return Relayed(None, (), send)


def surveys(names: Iterable[str], settings: Settings, send: Send) -> dict[str, Survey]:
    """What the journals of all `names` say.

    Raises:
        Unreachable: one of them cannot be read.
    """
    wanted = sorted(names)
    answers = ask(SURVEY, wanted, settings, workers(settings, send))
    unknown = [name for name in wanted if name not in answers.found | answers.errors]
    why = [
        *answers.errors.values(),
        *(
            f"{name}: no URL is set, and no live worker serves it. Set DHARMA_{name.upper()}_URL, "
            "or start a worker that has it"
            for name in unknown
        ),
    ]
    if why:
        raise Unreachable("\n".join(why))
    return answers.found


def whereabouts(names: Iterable[str], settings: Settings) -> dict[str, str]:
    """Which databases the settings' URLs lead to: see `Database.whereabouts`.

    Raises:
        Unreachable: one of them cannot be asked.
    """
    with ThreadPoolExecutor(max_workers=len(NAMES)) as pool:
        asked = [
            (name, pool.submit(_read, lambda found: found.whereabouts(), name, settings))
            for name in names
        ]
    said = [(name, each.result()) for name, each in asked]
    why = [each.why for _, each in said if isinstance(each, _Unread)]
    if why:
        raise Unreachable("\n".join(why))
    return {name: each for name, each in said if isinstance(each, str)}


def _read(read: Callable[[Database[Any]], Found], name: str, settings: Settings) -> Found | _Unread:
    """What the database says, asked directly; or why it does not."""
    try:
        database = connect(name, settings)
    except Exception as error:  # noqa: BLE001 - a URL that a driver does not take
        return _Unread(f"DHARMA_{name.upper()}_URL cannot be used: {type(error).__name__}")
    until = time.monotonic() + _AGAIN_SECONDS
    try:
        while True:
            try:
                return read(database)
            except Exception as error:  # noqa: BLE001 - the database says what it means
                if database.classify(error) is Fault.LASTING or time.monotonic() > until:
                    return _Unread(_why(name, database.describe(error).strip()))
                database.recover()
                time.sleep(_AGAIN_SECONDS / 10)
    finally:
        database.close()


def _why(name: str, said: str) -> str:
    """Why it cannot be read, and what to do."""
    todo = f"Look at the server, and at DHARMA_{name.upper()}_URL."
    return Problem("", "", f"{name} cannot be read: {said}", todo).text


def _ask(
    question: Question[Found], names: Sequence[str], settings: Settings, relayed: Relayed
) -> dict[str, Found | _Unread]:
    """What workers say of the databases; or why they do not."""
    redis = relayed.redis
    if redis is None or not names:
        return {}
    asked = {name: replies.new_reply(settings.namespace) for name in names}
    try:
        relayed.send([question.message(name, reply)] for name, reply in asked.items())
        until = time.monotonic() + ANSWER_SECONDS
        answers: dict[str, Found | _Unread] = {}
        for name, reply in asked.items():
            said = _answer(question, redis, name, reply, until)
            answers[name] = said
    except Exception as error:  # noqa: BLE001 - Redis, or Celery's way to it
        return dict.fromkeys(names, _Unread(f"no worker could be asked: {error}"))
    return answers


def _answer(
    question: Question[Found], redis: Redis, name: str, reply: str, until: float
) -> Found | _Unread:
    text = replies.fetch(redis, reply, until)
    if text is not None and text.startswith(ERROR):
        return _Unread(text.removeprefix(ERROR))
    if text is not None:
        return question.parse(text)
    todo = f"Set DHARMA_{name.upper()}_URL here to read it directly"
    if question.by_workers:
        todo = "Try again later, or start another one"
    return _Unread(
        f"no worker has answered for {name} within {ANSWER_SECONDS} s: all of them may be busy "
        f"with long operations. {todo}"
    )
