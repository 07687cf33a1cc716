"""`create_alias`: another name for an index, added or moved in one atomic call."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.elasticsearch import aliases
from dharma_tasks.operations.elasticsearch.indices import (
    find,
    name_problems,
    recorded,
    require,
    told,
    unchanged,
)
from dharma_tasks.work import Prepared, Step, Work


class CreateAlias(Operation[Elasticsearch]):
    """Make `alias` a name of `index`.

    With `exclusive` it is taken off every other index in the same call, so that a reader sees
    either the old index or the new one. `filter` and `is_write_index` as in Elasticsearch.
    """

    kind: ClassVar[str] = "create_alias"

    index: str
    """Which index."""
    alias: str
    """The name that it gets."""
    exclusive: bool = False
    """Take the name off every other index, in the same call."""
    filter: JSON | None = None
    """Which documents are seen by this name: a query."""
    is_write_index: bool | None = None
    """Whether writes by this name go to this index, where several have it."""

    @property
    def summary(self) -> str:
        """The alias and its index."""
        return f"{self.alias} -> {self.index}"

    def problems(self) -> list[Problem]:
        """Names that are none."""
        return name_problems("index", self.index) + name_problems("alias", self.alias)

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record the index, and what the alias was: its indices with filter, routing and all."""
        found = require(work.handle, self.index)
        before = self._holders(work.handle)
        there = before.get(self.index)
        if there is not None and there != self._asked and not self.exclusive:
            what = (
                f'alias "{self.alias}" of "{self.index}" is there already, and different: '
                f"asked for {json.dumps(self._asked)}, there is {json.dumps(there)}"
            )
            raise OperationFailed(what, "Make the file say what is there, or use another name")
        return Prepared({"uuid": found.uuid, "before": before}, total=1)

    def step(self, work: Work[Elasticsearch]) -> Step:
        """Make one call for all of it; repeating it changes nothing."""
        unchanged(work.handle, self.index, work.undo["uuid"])
        holders = self._holders(work.handle)
        if self._is_done(holders):
            if self._is_done(work.undo["before"]):
                work.warn(f'alias "{self.alias}" is there already, and equal; nothing was done')
            return Step(None, done=1, finished=True)
        work.confirm()
        told(work, work.handle.indices.update_aliases(actions=self._actions(holders)))
        unchanged(work.handle, self.index, work.undo["uuid"])
        if not self._is_done(self._holders(work.handle)):
            message = f'alias "{self.alias}" is not yet what was asked for'
            raise Interrupted(message)
        return Step(None, done=1, finished=True)

    @property
    def _asked(self) -> JSON:
        """The alias as the server would show it."""
        asked = {"filter": self.filter, "is_write_index": self.is_write_index}
        return {name: value for name, value in asked.items() if value is not None}

    def _is_done(self, holders: JSON) -> bool:
        if self.exclusive and holders.keys() != {self.index}:
            return False
        return bool(holders.get(self.index) == self._asked)

    def _actions(self, holders: JSON) -> list[JSON]:
        names = {"index": self.index, "alias": self.alias}
        actions: list[JSON] = [{"add": {**names, **self._asked}}]
        if self.exclusive:
            others = sorted(holders.keys() - {self.index})
            actions += [{"remove": {"index": each, "alias": self.alias}} for each in others]
        return actions

    def _holders(self, client: Elasticsearch) -> JSON:
        """The indices that have the alias now, and how."""
        holders = aliases.holders(client, self.alias)
        if not holders and self._is_an_index(client):
            what = f'"{self.alias}" is the name of an index'
            raise OperationFailed(what, "Choose another name for the alias")
        return holders

    def _is_an_index(self, client: Elasticsearch) -> bool:
        return find(client, self.alias) is not None

    # --- the way back ---

    def irreversible(self) -> None:
        """The alias goes back to where it was."""

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def undo(self, work: Work[Elasticsearch]) -> Step:
        """Put the alias back in one call, where it is as this operation has left it."""
        if work.undo and not self._is_done(work.undo["before"]):
            self._put_back(work)
        return Step(None, done=1, finished=True)

    def _put_back(self, work: Work[Elasticsearch]) -> None:
        # Other indices are touched only where `exclusive` has touched them.
        before = work.undo["before"] if self.exclusive else {}
        there = {index: how for index, how in before.items() if _is_there(work.handle, index)}
        holders = aliases.holders(work.handle, self.alias)
        actions = self._back(there, holders)
        if not actions:
            return  # before a crash it was put back, or it was never moved
        gone = sorted(before.keys() - there.keys())
        if gone:
            work.warn(f'alias "{self.alias}" was a name of {", ".join(gone)}, which is gone')
        if (gone and not there) or not self._is_ours(work, holders):
            return
        work.confirm()
        told(work, work.handle.indices.update_aliases(actions=actions))
        if self._back(there, aliases.holders(work.handle, self.alias)):
            message = f'alias "{self.alias}" is not yet what it was'
            raise Interrupted(message)

    def _back(self, before: JSON, holders: JSON) -> list[JSON]:
        """What brings back what was before."""
        actions: list[JSON] = []
        for index in sorted(before.keys() | (holders.keys() if self.exclusive else {self.index})):
            names = {"index": index, "alias": self.alias}
            if index not in before and index in holders:
                actions.append({"remove": names})
            elif index in before and holders.get(index) != before[index]:
                actions.append({"add": {**names, **before[index]}})
        return actions

    def _is_ours(self, work: Work[Elasticsearch], holders: JSON) -> bool:
        """Whether nobody has changed the alias since, with a warning where somebody has."""
        same = recorded(work.handle, self.index, work.undo["uuid"]) is not None
        if same and self._is_done(holders):
            return True
        work.warn(
            f'alias "{self.alias}" was changed by somebody else since, and is left as it is: '
            f"{json.dumps(holders)}; before this migration it was {json.dumps(work.undo['before'])}"
        )
        return False


def _is_there(client: Elasticsearch, name: str) -> bool:
    """Whether there is an index of this name; an alias is none."""
    try:
        return find(client, name) is not None
    except OperationFailed:
        return False
