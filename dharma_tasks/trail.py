"""The audit trails of the databases, put together: what has happened, and who asked for it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from pydantic import BaseModel

from dharma_tasks.declaring.repair import Action
from dharma_tasks.journal import Journal
from dharma_tasks.messages import read_message
from dharma_tasks.reading import Question, Relayed, Send, ask, workers
from dharma_tasks.records import HistoryRecord
from dharma_tasks.settings import Settings

__all__ = ["DECLARED", "History", "Told", "Trail", "gather", "read"]

DECLARED = frozenset(("baseline", *Action, "pruned"))
"""What a person has done to the journal itself, in a run of its own."""


class Trail(BaseModel):
    """The end of one database's audit trail, oldest first."""

    entries: list[HistoryRecord]


class Told(HistoryRecord):
    """An entry with the database that holds it."""

    database: str


class History(BaseModel):
    """What was found, oldest first; why a database could not be read; and of which none is known.

    Nothing is known of a database that has no URL here and is served by no live worker.
    """

    entries: list[Told]
    errors: dict[str, str]
    unknown: list[str]

    @property
    def unreachable(self) -> bool:
        """Whether a database did not answer, or none is known at all."""
        return bool(self.errors) or (bool(self.unknown) and not self.entries)


def read(journal: Journal[Any], limit: int) -> Trail:
    """Read the last `limit` entries of one trail."""
    return Trail(entries=journal.history(limit))


def gather(settings: Settings, names: Sequence[str], limit: int, send: Send) -> History:
    """Read the trails of the databases `names`, and keep the last `limit` entries of them all.

    `send` asks workers. What cannot be read is said in the result; nothing is raised.
    """
    question = Question[Trail](
        read=lambda database: read(database.journal, limit),
        message=partial(read_message, history=limit),
        parse=Trail.model_validate_json,
    )
    direct = all(map(settings.url, names))
    relayed = Relayed(None, (), send) if direct else workers(settings, send)
    answers = ask(question, names, settings, relayed)
    entries = [
        Told(**entry.model_dump(), database=name)
        for name, trail in answers.found.items()
        for entry in trail.entries
    ]
    return History(
        entries=sorted(entries, key=_at)[-limit:],
        errors=answers.errors,
        unknown=[name for name in names if name not in answers.found | answers.errors],
    )


def _at(entry: HistoryRecord) -> datetime:
    return entry.at
