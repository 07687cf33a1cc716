"""`rename_field`: give a field another name, and lose nothing that has that name already."""

from __future__ import annotations

from typing import ClassVar

from dharma_tasks.databases.mongodb.connection import Document, Handle
from dharma_tasks.errors import Problem
from dharma_tasks.journal import Work
from dharma_tasks.operations.mongodb.values import Field
from dharma_tasks.operations.mongodb.walk import Walk


class RenameField(Walk):
    """Renames a field, or a path like `address.city`.

    A document that has a field of the new name too is left as it is, both fields included, and
    counted in a warning. MongoDB's own `$rename` would overwrite the new field; usually the
    application has written that one since, and it is the newer of the two.
    """

    kind: ClassVar[str] = "rename_field"

    old_name: Field
    new_name: Field

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

    def _update(self, work: Work[Handle], within: Document) -> int:
        renamed = super()._update(work, within)
        if renamed < work.size:  # else it was every document of the batch
            self._warn_of_both(work, within)
        return renamed

    def _warn_of_both(self, work: Work[Handle], within: Document) -> None:
        left_over: Document = {self.old_name: {"$exists": True}}
        if left := self._count(work, {"$and": [within, left_over, self.filter]}):
            work.warn(
                f"{left} documents of this batch have both {self.old_name!r} and "
                f"{self.new_name!r}; they were left as they are"
            )
