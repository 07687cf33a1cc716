"""`update_settings`: those settings of an index that may change while it is in use."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, ClassVar

from elasticsearch import BadRequestError, Elasticsearch

from dharma_tasks.databases.elasticsearch.errors import Interrupted, describe
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.elasticsearch.definitions import Setting, leaves
from dharma_tasks.operations.elasticsearch.indices import (
    Index,
    name_problems,
    recorded,
    require,
    told,
    unchanged,
)
from dharma_tasks.work import Prepared, Step, Work

_NEVER = (
    *("index.number_of_shards", "index.number_of_routing_shards"),
    *("index.routing_partition_size", "index.soft_deletes.enabled", "index.sort."),
)
_STATIC = "non dynamic settings"
_NEW_INDEX = (
    "It can be set for a new index only: create one with these settings, reindex into it, "
    "and move the alias"
)


class UpdateSettings(Operation[Elasticsearch]):
    """Set `settings` of `index`; null gives a setting its default. All of them, or none."""

    kind: ClassVar[str] = "update_settings"

    index: str
    """Which index."""
    settings: JSON
    """Those that may change in use: `{"refresh_interval": "5s"}`; null for a default."""

    @property
    def summary(self) -> str:
        """The index and the settings."""
        return f"{self.index}({', '.join(name.removeprefix('index.') for name in self._asked)})"

    def problems(self) -> list[Problem]:
        """A name that is none, no setting, one that is there twice, and what never works."""
        found = name_problems("index", self.index)
        names = Counter(name for name, _ in leaves(self.settings))
        if not names:
            found.append(_problem("there is no setting in it", 'Write {"name": value}'))
        for name, times in names.items():
            if times > 1:
                found.append(_problem(f"{name} is there {times} times", "Keep one of them"))
            found += _never(name)
        return found

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    @property
    def _asked(self) -> dict[str, Setting]:
        return dict(leaves(self.settings))

    def _now(self, index: Index) -> dict[str, Setting]:
        """What the index has for the settings that are asked for."""
        return {name: index.settings.get(name) for name in self._asked}

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record which index this is, and what it has for these settings."""
        found = require(work.handle, self.index)
        return Prepared({"uuid": found.uuid, "before": self._now(found)}, total=1)

    def step(self, work: Work[Elasticsearch]) -> Step:
        """Send what is different; the server sets all of it or nothing."""
        now = self._now(unchanged(work.handle, self.index, work.undo["uuid"]))
        different = {name: value for name, value in self._asked.items() if value != now[name]}
        if different:
            self._set(work, different)
            unchanged(work.handle, self.index, work.undo["uuid"])
        elif work.undo["before"] == self._asked:
            work.warn(f'index "{self.index}" has these settings already; nothing was done')
        return Step(None, done=1, finished=True)

    def _set(self, work: Work[Elasticsearch], settings: dict[str, Setting]) -> None:
        work.confirm()
        try:
            answer = work.handle.indices.put_settings(index=self.index, settings=settings)
        except BadRequestError as error:
            message = describe(error)
            todo = _NEW_INDEX if _STATIC in message else "Correct the settings in the file"
            raise OperationFailed(message, todo) from error
        told(work, answer)
        if not answer["acknowledged"]:
            message = f'the new settings of "{self.index}" are not everywhere yet'
            raise Interrupted(message)

    # --- the way back ---

    def irreversible(self) -> None:
        """The settings of before are recorded."""

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def undo(self, work: Work[Elasticsearch]) -> Step:
        """Put the settings of before back where they are as this operation has left them."""
        found = recorded(work.handle, self.index, work.undo.get("uuid"))
        if found is not None:
            self._put_back(work, self._now(found), work.undo["before"])
        elif work.undo:
            work.warn(f'index "{self.index}" is gone, or another one by now; it is left alone')
        return Step(None, done=1, finished=True)

    def _put_back(
        self, work: Work[Elasticsearch], now: dict[str, Setting], before: dict[str, Setting]
    ) -> None:
        changed = {name: value for name, value in now.items() if value != before[name]}
        ours = {name: before[name] for name in changed if changed[name] == self._asked[name]}
        if ours:
            self._set(work, ours)
        for name in changed.keys() - ours.keys():
            work.warn(
                f'{name} of index "{self.index}" was changed by somebody else since, and is left '
                f"as it is: {json.dumps(now[name])}; before this migration it was "
                f"{json.dumps(before[name])}"
            )


def _never(name: str) -> list[Problem]:
    """What is known to fail without asking the server."""
    if name.startswith("index.settings."):
        todo = 'Take the word away: "settings": {"refresh_interval": ...}'
        return [_problem("one level too many: settings in settings", todo)]
    if name.startswith(_NEVER):
        return [_problem(f"{name} can never be changed", f"{_NEW_INDEX}.")]
    if "*" in name:
        return [_problem(f"{name} stands for several settings", "Name each of them")]
    if name == "index.blocks.metadata":
        what = f"{name} would keep this migration's own workers from the index"
        return [_problem(what, "Use blocks.read_only, blocks.write or blocks.read")]
    return []


def _problem(what: str, todo: str) -> Problem:
    return Problem("", "settings", what, todo)
