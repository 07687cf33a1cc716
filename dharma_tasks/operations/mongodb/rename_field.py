"""`rename_field`: give a field another name, and lose nothing that has that name already."""

from __future__ import annotations

from typing import Any, ClassVar

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.errors import Problem
from dharma_tasks.operations.mongodb.keeping import Documents
from dharma_tasks.operations.mongodb.touched import MISSING, Touched, at, below, nested, same
from dharma_tasks.operations.mongodb.values import Field
from dharma_tasks.operations.mongodb.walk import Walk
from dharma_tasks.work import Work


class RenameField(Walk):
    """Renames a field, or a path like `address.city`.

    A document that has a field of the new name too is left as it is, both fields included, and
    counted in a warning. MongoDB's own `$rename` would overwrite the new field; usually the
    application has written that one since, and it is the newer of the two.
    """

    kind: ClassVar[str] = "rename_field"

    old_name: Field
    """Its name, or a path like `address.city`."""
    new_name: Field
    """The same for the new one."""

    @property
    def summary(self) -> str:
        """The collection and both names."""
        return f"{self.collection}.{self.old_name} -> {self.new_name}"

    def problems(self) -> list[Problem]:
        """One name inside the other, or twice the same: MongoDB refuses it."""
        old, new = f"{self.old_name}.", f"{self.new_name}."
        if old.startswith(new) or new.startswith(old):
            what = f"{self.new_name!r} is, or lies within, {self.old_name!r} or the reverse"
            return [Problem("", "new_name", what, "Choose another name.")]
        return []

    def change(self) -> tuple[Document, Document]:
        """Rename it where only the old one is there."""
        where = {self.old_name: {"$exists": True}, self.new_name: {"$exists": False}}
        return where, {"$rename": {self.old_name: self.new_name}}

    def touched(self) -> Renamed:
        """Which documents it has renamed it in."""
        return Renamed(self.old_name, self.new_name)

    def _report(self, work: Work[Handle], within: Document, *, all_changed: bool) -> None:
        """Count the documents that have both."""
        if all_changed:
            return
        left_over: Document = {self.old_name: {"$exists": True}}
        if left := self._count(work, {"$and": [within, left_over, self.filter]}):
            work.warn(
                f"{left} documents of this batch have both {self.old_name!r} and "
                f"{self.new_name!r}; they were left as they are"
            )


class Renamed(Touched):
    """The documents in which a field was renamed, and how that is undone."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(new)
        self.old = old

    def back(self, documents: Documents, created: str, ids: list[Any]) -> list[Any]:
        """Rename it back where only the new one is there, with the value that it has now."""
        renamed, emptied, left = [], [], []
        shown = {created: True, self.old: True}
        for each in documents.find(ids, shown):
            new, old = at(each, self.field), at(each, self.old)
            if new is not MISSING and old is MISSING:
                renamed.append(each["_id"])
                if same(at(each, created), nested(below(created, self.field), new)):
                    emptied.append(each["_id"])
            elif new is not MISSING or old is MISSING:
                left.append(each["_id"])
        only = {self.field: {"$exists": True}, self.old: {"$exists": False}}
        documents.update(renamed, only, {"$rename": {self.field: self.old}})
        if created != self.field:
            parent = below(created, self.field).rpartition(".")[0]
            documents.update(emptied, {created: nested(parent, {})}, {"$unset": {created: ""}})
        return left
