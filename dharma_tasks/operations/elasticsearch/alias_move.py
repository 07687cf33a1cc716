"""Aliases that go from the sources of a reindex to its destination, all in one atomic call.

Each keeps what it was: filter, routing, whether writes go there. `undo["aliases"]` holds, by alias,
the indices that had it before, and how.
"""

from __future__ import annotations

import json

from elasticsearch import Elasticsearch

from dharma_tasks.databases.elasticsearch.errors import Interrupted
from dharma_tasks.errors import OperationFailed
from dharma_tasks.migration import JSON
from dharma_tasks.operations.elasticsearch import aliases
from dharma_tasks.operations.elasticsearch.indices import recorded, told
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.work import Work


def look(client: Elasticsearch, alias: str, sources: dict[str, str]) -> JSON:
    """The indices that have the alias, and how.

    Raises:
        OperationFailed: no source has it, or they have it in different ways.
    """
    holders = aliases.holders(client, alias)
    ours = [how for index, how in holders.items() if index in sources]
    if not ours:
        what = f'"{alias}" is no alias of {", ".join(sources)}'
        raise OperationFailed(what, aliases.suggest(client, alias))
    if any(_but_writes(how) != _but_writes(ours[0]) for how in ours):
        what = f'alias "{alias}" is not the same for all sources: {json.dumps(holders)}'
        raise OperationFailed(what, "Move it with create_alias, after the reindex")
    return holders


def is_moved(client: Elasticsearch, pair: Pair, before: JSON) -> bool:
    """Whether every alias is where it belongs at the end."""
    return all(
        aliases.holders(client, alias) == _after(pair, holders) for alias, holders in before.items()
    )


def move(work: Work[Elasticsearch], pair: Pair, before: JSON) -> None:
    """Move every alias; readers and writers see either the sources or the destination.

    Raises:
        OperationFailed: somebody else has changed one since the operation began.
    """
    actions: list[JSON] = []
    for alias, holders in before.items():
        now = aliases.holders(work.handle, alias)
        if now not in (holders, _after(pair, holders)):
            what = f'alias "{alias}" was changed by somebody else since: {json.dumps(now)}'
            raise OperationFailed(what, f"Before it was {json.dumps(holders)}; see by whom")
        actions += _changes(alias, now, _after(pair, holders))
    if actions:
        work.confirm()
        told(work, work.handle.indices.update_aliases(actions=actions))
    if not is_moved(work.handle, pair, before):
        raise Interrupted("the aliases are not yet where they belong")


def move_back(work: Work[Elasticsearch], pair: Pair) -> None:
    """Put every alias back that is as this operation has left it."""
    actions: list[JSON] = []
    for alias, before in work.undo.get("aliases", {}).items():
        now = aliases.holders(work.handle, alias)
        gone = [each for each, uuid in pair.sources.items() if not _is_there(work, each, uuid)]
        if now != before and (gone or now != _after(pair, before)):
            work.warn(
                f'alias "{alias}" was changed since, or {pair.source} is gone, and it is left '
                f"as it is: {json.dumps(now)}; before this migration it was {json.dumps(before)}"
            )
        else:
            actions += _changes(alias, now, before)
    if actions:
        work.confirm()
        told(work, work.handle.indices.update_aliases(actions=actions))


def _is_there(work: Work[Elasticsearch], name: str, uuid: str) -> bool:
    return recorded(work.handle, name, uuid) is not None


def _after(pair: Pair, before: JSON) -> JSON:
    """Who has an alias at the end, and how: writes go to the destination if to any source."""
    ours = [how for index, how in before.items() if index in pair.sources]
    writes = [how["is_write_index"] for how in ours if "is_write_index" in how]
    moved = {**_but_writes(ours[0]), **({"is_write_index": any(writes)} if writes else {})}
    others = {index: how for index, how in before.items() if index not in pair.sources}
    return {**others, pair.dest: moved}


def _but_writes(how: JSON) -> JSON:
    return {key: value for key, value in how.items() if key != "is_write_index"}


def _changes(alias: str, now: JSON, wanted: JSON) -> list[JSON]:
    """What makes `wanted` out of `now`."""
    actions: list[JSON] = []
    for index in sorted(now.keys() | wanted.keys()):
        names = {"index": index, "alias": alias}
        if index not in wanted:
            actions.append({"remove": names})
        elif now.get(index) != wanted[index]:
            actions.append({"add": {**names, **wanted[index]}})
    return actions
