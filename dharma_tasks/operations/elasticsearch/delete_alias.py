"""`delete_alias`: take another name off an index, or off all; never an index itself."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from elasticsearch import Elasticsearch, NotFoundError

from dharma_tasks.databases.elasticsearch.errors import Interrupted, describe
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
)
from dharma_tasks.work import Prepared, Step, Work


class DeleteAlias(Operation[Elasticsearch]):
    """Take `alias` off `index`, or without that off every index that has it, in one atomic call.

    With `if_exists` a missing one is fine; else it is taken for a typo.
    """

    kind: ClassVar[str] = "delete_alias"

    alias: str
    """The name that goes."""
    index: str | None = None
    """From which index; without it from every one that has it."""
    if_exists: bool = False
    """Whether it is fine that it is not there."""

    @property
    def summary(self) -> str:
        """The alias, and its index where one is named."""
        return self.alias if self.index is None else f"{self.alias} -> {self.index}"

    def problems(self) -> list[Problem]:
        """Names that are none, and patterns."""
        found = name_problems("alias", self.alias)
        return found if self.index is None else found + name_problems("index", self.index)

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record the indices that it is taken off, how they have it, and who keeps it."""
        client = work.handle
        holders = aliases.holders(client, self.alias)
        if not holders and find(client, self.alias) is not None:
            what = f'"{self.alias}" is not an alias, but an index'
            raise OperationFailed(what, "To delete an index with its documents, write delete_index")
        if self.index is not None and not self.if_exists:
            require(client, self.index)
        aimed = {each for each in holders if self.index in (None, each)}
        if not aimed and not self.if_exists:
            raise self._missing(client, holders)
        before = {
            each: {"uuid": require(client, each).uuid, "how": holders[each]} for each in aimed
        }
        others = {each: how for each, how in holders.items() if each not in aimed}
        return Prepared({"before": before, "others": others}, total=1)

    def _missing(self, client: Elasticsearch, holders: JSON) -> OperationFailed:
        if not holders:
            what = f'there is no alias "{self.alias}"'
            return OperationFailed(what, aliases.suggest(client, self.alias))
        there = ", ".join(sorted(holders))
        what = f'alias "{self.alias}" is no name of index "{self.index}", but of {there}'
        return OperationFailed(what, "Correct the index in the file")

    def step(self, work: Work[Elasticsearch]) -> Step:
        """Make one call for all of it; what somebody else has changed meanwhile is left alone."""
        before: JSON = work.undo["before"]
        holders = aliases.holders(work.handle, self.alias)
        there = _recorded(work, before)
        found = [each for each, how in there.items() if holders.get(each) == how]
        if found:
            self._take_off(work, found)
        left = holders.keys() - found - work.undo["others"].keys()
        if left:
            work.warn(
                f'alias "{self.alias}" was made or changed by somebody else for '
                f"{', '.join(sorted(left))} since this operation began, and is left there"
            )
        return Step(None, done=1, finished=True)

    def _take_off(self, work: Work[Elasticsearch], indices: list[str]) -> None:
        actions = [{"remove": {"index": each, "alias": self.alias}} for each in sorted(indices)]
        work.confirm()
        try:
            told(work, work.handle.indices.update_aliases(actions=actions))
        except NotFoundError as error:  # somebody was faster with one of them
            raise Interrupted(describe(error)) from error
        if aliases.holders(work.handle, self.alias).keys() & indices:
            message = f'alias "{self.alias}" is not taken off yet'
            raise Interrupted(message)

    # --- the way back ---

    def irreversible(self) -> None:
        """How the indices had it is recorded."""

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def undo(self, work: Work[Elasticsearch]) -> Step:
        """Put the alias back in one call, where it is as this operation has left it."""
        before: JSON = work.undo.get("before", {})
        there = _recorded(work, before)
        holders = aliases.holders(work.handle, self.alias)
        wanted = {each: how for each, how in there.items() if holders.get(each) != how}
        if wanted or not there:
            gone = sorted(before.keys() - there.keys())
            if gone:
                work.warn(f'alias "{self.alias}" was a name of {", ".join(gone)}, which is gone')
        if wanted and self._is_as_left(work, there, holders):
            self._put_back(work, wanted)
        return Step(None, done=1, finished=True)

    def _is_as_left(self, work: Work[Elasticsearch], there: JSON, holders: JSON) -> bool:
        """Whether nobody has used the name since, with a warning where somebody has."""
        others = {each: how for each, how in holders.items() if there.get(each) != how}
        taken = not holders and find(work.handle, self.alias) is not None
        if others == work.undo["others"] and not taken:
            return True
        now = "it is the name of an index" if taken else json.dumps(holders)
        work.warn(
            f'alias "{self.alias}" was made or changed by somebody else since, and is left as it '
            f"is: {now}; before this migration it was {json.dumps(there | work.undo['others'])}"
        )
        return False

    def _put_back(self, work: Work[Elasticsearch], wanted: JSON) -> None:
        actions = [
            {"add": {"index": each, "alias": self.alias, **how}} for each, how in wanted.items()
        ]
        work.confirm()
        told(work, work.handle.indices.update_aliases(actions=actions))
        now = aliases.holders(work.handle, self.alias)
        if any(now.get(each) != how for each, how in wanted.items()):
            message = f'alias "{self.alias}" is not yet what it was'
            raise Interrupted(message)


def _recorded(work: Work[Elasticsearch], before: JSON) -> JSON:
    """How the alias was, of those indices that are there still, and are the same."""
    return {
        index: each["how"]
        for index, each in before.items()
        if recorded(work.handle, index, each["uuid"]) is not None
    }
