"""`create_alias`: another name for an index, added or moved in one atomic call."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from elasticsearch import Elasticsearch, NotFoundError

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.journal import Prepared, Step, Work
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Operation
from dharma_tasks.operations.elasticsearch.indices import (
    find,
    name_problems,
    require,
    told,
    unchanged,
)


class CreateAlias(Operation[Elasticsearch]):
    """Make `alias` a name of `index`.

    With `exclusive` it is taken off every other index in the same call, so that a reader sees
    either the old index or the new one. `filter` and `is_write_index` as in Elasticsearch.
    """

    kind: ClassVar[str] = "create_alias"

    index: str
    alias: str
    exclusive: bool = False
    filter: JSON | None = None
    is_write_index: bool | None = None

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
        try:
            answer = client.indices.get_alias(name=self.alias)
        except NotFoundError:
            if self._is_an_index(client):
                what = f'"{self.alias}" is the name of an index'
                raise OperationFailed(what, "Choose another name for the alias") from None
            return {}
        return {index: found["aliases"][self.alias] for index, found in answer.items()}

    def _is_an_index(self, client: Elasticsearch) -> bool:
        return find(client, self.alias) is not None
