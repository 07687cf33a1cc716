"""`reindex`: copy the documents of one index into another, on the server.

First the server's own `_reindex` copies ranges of sequence numbers, two at a time, as tasks that
go on without us (`in_ranges.py`). A range may run twice; `op_type: create`, or versions that are
kept, make that harmless: what is there already counts as a conflict and stays as it is. Then what
was written to the source meanwhile is followed (`following.py`), and the counts are compared
(`verified.py`).
"""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Literal

from elastic_transport import ApiResponse
from elasticsearch import Elasticsearch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.base import Burden
from dharma_tasks.operations.elasticsearch import write_block
from dharma_tasks.operations.elasticsearch.alias_move import is_moved, look, move
from dharma_tasks.operations.elasticsearch.destination import (
    original,
    prepare_load,
    put_back,
    why_irreversible,
    why_shared,
)
from dharma_tasks.operations.elasticsearch.disk import confirm_room
from dharma_tasks.operations.elasticsearch.following import go_on
from dharma_tasks.operations.elasticsearch.in_ranges import InRanges, Source, tag
from dharma_tasks.operations.elasticsearch.indices import (
    find,
    name_problems,
)
from dharma_tasks.operations.elasticsearch.pair import Pair
from dharma_tasks.operations.elasticsearch.ranges import (
    Following,
    Progress,
    Range,
    count,
    marks,
    matching,
    refresh,
)
from dharma_tasks.operations.elasticsearch.reindex_back import put_back_load, undo
from dharma_tasks.operations.elasticsearch.sources import pattern_problems, resolve
from dharma_tasks.operations.elasticsearch.verified import verify
from dharma_tasks.operations.elasticsearch.write_block import are_on, is_still, put_on, take_off
from dharma_tasks.records import Direction
from dharma_tasks.work import Prepared, Step, Work

_CREATED = {"op_type": "create"}
_KEPT = {"version_type": "external"}
_REFUSED = (
    "writes to {} are refused (403) while the last documents are copied: about a second, and a "
    "minute more for every million documents where some were deleted meanwhile"
)


def _index(value: object) -> object:
    return {"index": value} if isinstance(value, str) else value


class Destination(BaseModel):
    """Where to, and whose versions its documents get: their own, or (`external`) the source's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: str
    """Its name."""
    version_type: Literal["internal", "external"] = "internal"
    """`external` keeps the versions that the application gives its documents."""


class Reindex(InRanges):
    """Copy `source` (a name or `{index, query, _source}`) into `dest` (a name or `{index}`).

    The source may be an alias or a pattern: it is what it stands for when the operation begins.
    `dest` must exist, made by `create_index`; documents that it held before are never touched. With
    `version_type` external the copies keep the versions that an application gives by itself.
    At the end `move_aliases` go from the source to `dest`. With `block_source` writes to the source
    are refused while the last documents are copied. That is the default where aliases move, for
    there it closes the gap; elsewhere the next write would be missed all the same. Up to
    `max_failures` documents that do not fit are left out, and named. With `check_disk` it does not
    begin where the disks have no room for the copies.
    """

    kind: ClassVar[str] = "reindex"

    source: Annotated[Source, BeforeValidator(_index, json_schema_input_type=str | Source)]
    """An index, an alias or a pattern like `logs-2024-*`."""
    dest: Annotated[Destination, BeforeValidator(_index, json_schema_input_type=str | Destination)]
    """An index that is there, made by `create_index`."""
    move_aliases: tuple[str, ...] = ()
    """Aliases that go from the source to the destination at the end, in one call."""
    block_source: bool | None = None
    """Whether writes to the source are refused at the end; by default where aliases move."""
    max_failures: int = Field(default=0, ge=0, le=100)
    """Up to so many documents that do not fit into the destination are left out, and named."""
    check_disk: bool = True
    """Whether the disk is looked at before: see `dharma plan`."""

    @property
    def summary(self) -> str:
        """Both indices."""
        return f"{self.source.index} -> {self.dest.index}"

    def problems(self) -> list[Problem]:
        """Names that are none, and an index that would be copied into itself."""
        found = pattern_problems("source", self.source.index) + name_problems(
            "dest", self.dest.index
        )
        if self.source.index == self.dest.index:
            todo = "Create a new index with create_index and copy into that"
            found.append(Problem("", "dest", "source and dest are the same index", todo))
        for alias in self.move_aliases:
            found += name_problems("move_aliases", alias)
        return found

    def warnings(self) -> list[Problem]:
        """Aliases that move while the source is written to."""
        if not self.move_aliases or self._blocks:
            return []
        what = "what is written between the last pass and the move of the aliases is lost"
        return [Problem("", "block_source", what, 'Leave "block_source" out.')]

    @property
    def _keeps(self) -> bool:
        return self.dest.version_type == "external"

    @property
    def _blocks(self) -> bool:
        return bool(self.move_aliases) if self.block_source is None else self.block_source

    # --- before the first change ---

    def prepare(self, work: Work[Elasticsearch]) -> Prepared:
        """Record both indices, the destination's settings, and what it holds."""
        client = work.handle
        found = resolve(client, self.source.index, self.dest.index)
        sources = {each.name: each.uuid for each in found}
        dest = find(client, self.dest.index)
        if dest is None:
            what = f'there is no index "{self.dest.index}" to copy into'
            todo = "Put a create_index with its mapping before this; else every type is a guess"
            raise OperationFailed(what, todo)
        refresh(client, dest.name)
        held = count(client, dest.name)
        if held and self._keeps:
            what = f"{dest.name} holds {held} documents, which the copies could replace"
            todo = 'Copy into an empty index, or leave "version_type" out'
            raise OperationFailed(what, todo)
        others = 0 if _was_empty(work, dest.uuid) else held
        undo = {
            "tag": tag(work),
            "sources": sources,
            "dest": dest.uuid,
            "settings": {} if held else original(dest),
            "held": held,
            "marks": marks(client, dest, "max_seq_no"),
            "shared": why_shared(dest, others),
            "aliases": {each: look(client, each, sources) for each in self.move_aliases},
            "blocks": {each.name: each.settings.get(write_block.SETTING) for each in found},
        }
        reason = why_irreversible(dest, others)
        if self.check_disk:
            whole = self.source.fields is None
            confirm_room(work, found, self.source.query, dest, whole=whole)
        return Prepared(undo if reason is None else {**undo, "irreversible": reason})

    # --- each step ---

    def _pair(self, work: Work[Elasticsearch]) -> Pair:
        found = work.undo
        return Pair(
            sources=found.get("sources") or {self.source.index: found["source"]},
            query=self.source.query,
            fields=self.source.fields,
            dest=self.dest.index,
            uuid=found["dest"],
            before=found.get("marks", {}),
            held=found["held"],
            shared=found.get("shared"),
            max_failures=self.max_failures,
            keeps=self._keeps,
        )

    def origin(self, work: Work[Elasticsearch]) -> Source:
        """The source."""
        return Source(index=self._pair(work).source, query=self.source.query)

    @property
    def advice(self) -> tuple[str, str]:
        """Documents that do not fit into the destination."""
        todo = (
            f"Correct these documents in {self.source.index}, or the mapping of {self.dest.index}"
        )
        return f"copying to {self.dest.index}", todo

    def begin(self, work: Work[Elasticsearch]) -> Step:
        """Note how far the source is, all shards together."""
        now = self._pair(work).marks(work.handle)
        end = max(now.values())
        total = self.estimate(work, 0, end)
        return Step(Progress(marks=now, end=end, source=total).model_dump(), total=total)

    def send(self, work: Work[Elasticsearch], one: Range, header: str) -> ApiResponse[Any]:
        """Copy what is not there yet. A late one can add documents, but change none."""
        # Without its destination the server would make one, and guess the types.
        pair = self._pair(work)
        dest = pair.check(work.handle)
        if work.undo["settings"]:
            work.confirm()
            prepare_load(work.handle, dest)
        work.confirm()
        return work.handle.options(opaque_id=header).reindex(
            source={
                "index": list(pair.sources),
                "query": matching(self.source.query, one.low, one.high),
                "size": self.at_once(work),
                **({} if pair.fields is None else {"_source": pair.fields}),
            },
            dest={"index": self.dest.index, **(_KEPT if self._keeps else _CREATED)},
            conflicts="proceed",
            requests_per_second=work.rate,
            wait_for_completion=False,
        )

    def leaves(self, progress: Progress, failed: Range, response: JSON) -> bool:
        """Where documents may be left out, the catch-up finds out which do not fit.

        Where versions are kept, a conflict may be one with a deletion, as after a rollback.
        """
        failures = response.get("failures", [])
        unfit = self.max_failures and failures and all(_is_unfit(each) for each in failures)
        outdated = self._keeps and not failures and response.get("version_conflicts")
        if not (unfit or outdated):
            return False
        progress.left = min(failed.low, failed.low if progress.left is None else progress.left)
        return True

    # --- after the ranges ---

    def end(self, work: Work[Elasticsearch], progress: Progress) -> Step:
        """Follow the source, in two rounds, until the destination is the same; then finish."""
        pair = self._pair(work)
        at = progress.following = progress.following or _first(progress)
        if at.proven:
            return self._end(work, pair, progress, at)
        if at.closed and not self._is_closed(work, pair, at):
            return _followed(progress, at)
        if go_on(work, pair, at, to_the_end=at.closed):
            return _followed(progress, at)
        if not at.last:
            work.confirm()
            put_back(work.handle, pair.dest, work.undo["settings"])
            at.begin_last(closed=self._blocks)
            return _followed(progress, at)
        verify(work, pair, progress.dropped, at)
        progress.written = marks(work.handle, pair.check(work.handle), "max_seq_no")
        at.proven = True
        return _followed(progress, at) if self.move_aliases else self._end(work, pair, progress, at)

    def _is_closed(self, work: Work[Elasticsearch], pair: Pair, at: Following) -> bool:
        """Block the source, unless it is blocked; whether no write to it is on its way any more.

        Where the block was gone, as after a pause, the counts are compared anew.
        """
        if not are_on(work.handle, pair):
            put_on(work, pair)
            at.looked = False
        return is_still(work.handle, pair)

    def _end(
        self, work: Work[Elasticsearch], pair: Pair, progress: Progress, at: Following
    ) -> Step:
        """The destination has all of it: move the aliases while the block holds, and lift it."""
        before = work.undo.get("aliases", {})
        if not is_moved(work.handle, pair, before):
            if at.closed and not are_on(work.handle, pair):  # it was paused here
                at.proven = False
                return _followed(progress, at)
            move(work, pair, before)
        take_off(work)
        at.closed = False
        return replace(_followed(progress, at), finished=True, total=progress.shown)

    def halt(self, work: Work[Elasticsearch]) -> None:
        """Lift the write block, end the server's tasks, and put the destination's settings back.

        Their ranges are copied again, and the settings turned off again, by whoever goes on.

        Raises:
            Interrupted: one is still there.
        """
        take_off(work)
        put_back_load(work, self.dest.index)
        super().halt(work)

    # --- the way back ---

    def irreversible(self) -> None:
        """It depends on what the destination is: see `prepare`."""

    def burden(self, direction: Direction) -> Burden:
        """It copies every document that matches; back, it goes through all of the destination."""
        if direction is Direction.BACK:
            return Burden(heavy=True, targets=(self.dest.index,))
        return Burden(
            heavy=True,
            targets=(self.source.index,),
            partly=self.source.query is not None,
            counted=True,
            blocking=(_REFUSED.format(self.source.index),) if self._blocks else (),
        )

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """Elasticsearch has no transactions."""
        return False

    def undo(self, work: Work[Elasticsearch]) -> Step:
        """Make what was copied gone, where the application has not changed it since."""
        return undo(work, self._pair(work)) if work.undo else Step(None, finished=True)


def _first(progress: Progress) -> Following:
    """The catch-up begins where the first pass has left off, or with what that has left out."""
    end = max(progress.marks.values()) if progress.left is None else progress.left - 1
    return Following(marks={each: min(mark, end) for each, mark in progress.marks.items()})


def _followed(progress: Progress, at: Following) -> Step:
    """The step's result, with the documents of the passes."""
    done = max(0, progress.copied + at.followed - progress.shown)
    progress.shown += done
    return Step(progress.model_dump(), done=done, total=progress.shown + at.left)


def _is_unfit(failure: JSON) -> bool:
    return "id" in failure and failure.get("status") == HTTPStatus.BAD_REQUEST


def _was_empty(work: Work[Elasticsearch], dest: str) -> bool:
    """Whether the destination was made by this migration, or empty when that first copied to it.

    Then what is in it comes from this migration, or from the application since.
    """
    return any(
        each.cursor == {"made": dest}
        or (each.undo.get("dest") == dest and "irreversible" not in each.undo)
        for each in work.earlier()
    )
