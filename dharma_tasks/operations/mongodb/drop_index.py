"""`drop_index`: drop an index, by its name or by its keys."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, WithJsonSchema

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.errors import OperationFailed, Problem
from dharma_tasks.explain import nearest
from dharma_tasks.operations.base import Burden, Operation
from dharma_tasks.operations.mongodb import indexes
from dharma_tasks.operations.mongodb.collections import aimed, existing, find
from dharma_tasks.operations.mongodb.values import (
    INDEX_KEYS,
    CollectionName,
    dumps,
    index_keys,
    loads,
)
from dharma_tasks.records import Direction
from dharma_tasks.work import Prepared, Step, Work


def _name_or_keys(value: Any) -> Any:
    return value if isinstance(value, str) and value else index_keys(value)


class DropIndex(Operation[Handle]):
    """Drops one index, and keeps its whole definition.

    Only the very index that was there when the operation began is dropped: one of the same
    name that was made since, with another definition, stays (FAULTS 10).
    """

    kind: ClassVar[str] = "drop_index"

    collection: CollectionName
    """Which collection."""
    index: Annotated[
        Any,
        BeforeValidator(_name_or_keys),
        WithJsonSchema({"anyOf": [{"type": "string"}, INDEX_KEYS]}),
    ]
    """Its name, or its keys: `[["field", 1]]`."""
    if_exists: bool = False
    """Whether it is fine that it is not there."""

    @property
    def summary(self) -> str:
        """The collection and the index."""
        named = self.index if isinstance(self.index, str) else indexes.text(self.index)
        return f"{self.collection}({named})"

    def problems(self) -> list[Problem]:
        """What MongoDB never drops, and what would drop more than one."""
        if self.index == "*":
            what, todo = "'*' would drop every index", "Name one; write an operation for each."
            return [Problem("", "index", what, todo)]
        if self.index in ("_id_", [("_id", 1)]):
            return [Problem("", "index", "the index on _id cannot be dropped", "Remove this.")]
        return []

    def transactional(self, cursor: Any) -> bool:  # noqa: ARG002
        """MongoDB drops no index inside a transaction."""
        return False

    def prepare(self, work: Work[Handle]) -> Prepared:
        """Record the index's whole definition and the collection's identity.

        Raises:
            OperationFailed: there is no such index, and `if_exists` is not set.
        """
        collection = find(work.handle, self.collection)
        if collection is None and not self.if_exists:
            existing(work.handle, self.collection)
        found = self._find(indexes.listed(work.handle, self.collection))
        if found is None:
            return Prepared(undo={"definition": None}, total=1)
        identity = collection and collection.identity
        return Prepared(undo={"definition": dumps(found), "identity": identity}, total=1)

    def step(self, work: Work[Handle]) -> Step:
        """Drop the recorded index, if it is still there."""
        if work.undo["definition"] is None:
            work.warn(f"there is no index {self.summary} to drop")
        else:
            self._drop(work, work.undo["definition"])
        return Step(cursor=None, done=1, finished=True, total=1)

    def _drop(self, work: Work[Handle], recorded: str) -> None:
        if not self._still_there(work, recorded):
            return
        name = loads(recorded)["name"]
        indexes.drop(work, self.collection, name, work.undo["identity"])
        if self._still_there(work, recorded):
            what = f"the index {name!r} was dropped, and then it was there again"
            raise OperationFailed(what, "Look who builds it, then submit again")

    def irreversible(self) -> None:
        """Built again."""

    def burden(self, direction: Direction) -> Burden:
        """Built again, it is as heavy as any index."""
        if direction is Direction.BACK:
            return Burden(heavy=True, targets=(self.collection,))
        return Burden()

    def undoes_in_transaction(self, cursor: Any) -> bool:  # noqa: ARG002
        """MongoDB builds no index on a collection that exists inside a transaction."""
        return False

    def undo(self, work: Work[Handle]) -> Step:
        """Build it again from its whole definition; an equal one that is there is fine."""
        if recorded := work.undo.get("definition"):
            self._build(work, loads(recorded))
        return Step(cursor=None, done=1, finished=True, total=1)

    def _build(self, work: Work[Handle], before: Document) -> None:
        collection = find(work.handle, self.collection)
        if collection is None or collection.identity != work.undo["identity"]:
            how = "dropped" if collection is None else "dropped and made again"
            work.warn(
                f"the collection {self.collection!r} was {how} since: there is nothing to build "
                f"the index {before['name']!r} on"
            )
            return
        found = indexes.listed(work.handle, self.collection)
        named = [each for each in found if each["name"] == before["name"]]
        if named and dumps(named[0]) != dumps(before):
            work.warn(
                f"an index {before['name']!r} was built since with another definition, so it "
                f"stays: {indexes.show(named)}, before: {indexes.show([before])}"
            )
            return
        work.confirm()  # an equal one may still be being built: then the command joins it
        spec = {key: value for key, value in before.items() if key != "ns"}
        command = {"createIndexes": self.collection, "indexes": [spec], "comment": work.label}
        work.handle.patient(command | aimed(work.handle, work.undo["identity"]))

    def _still_there(self, work: Work[Handle], recorded: str) -> bool:
        collection = find(work.handle, self.collection)
        if collection is None or collection.identity != work.undo["identity"]:
            return False
        before = loads(recorded)
        found = indexes.listed(work.handle, self.collection)
        named = next((each for each in found if each["name"] == before["name"]), None)
        if named is None or dumps(named) == recorded:
            return named is not None
        work.warn(
            f"the index {before['name']!r} has another definition than when this operation "
            f"began, so it stays: {indexes.show([named])}, before: {indexes.show([before])}"
        )
        return False

    def _find(self, found: list[Document]) -> Document | None:
        fitting = [each for each in found if self._fits(each)]
        if len(fitting) > 1:
            what = f"{len(fitting)} indexes have these keys: {indexes.show(fitting)}"
            raise OperationFailed(what, "Give the index's name instead of its keys")
        if fitting:
            return fitting[0]
        if self.if_exists:
            return None
        names = sorted(each["name"] for each in found)
        meant = nearest(self.index, names) if isinstance(self.index, str) else None
        what = f"there is no index {self.summary}. There are: {indexes.show(found)}"
        ask = f"Did you mean {meant!r}? " if meant else ""
        raise OperationFailed(what, f'{ask}Where it may be missing, write "if_exists": true')

    def _fits(self, found: Document) -> bool:
        if isinstance(self.index, str):
            return bool(found["name"] == self.index)
        return indexes.same_keys(indexes.keys(found), self.index)
