"""`add_field`: give a field to the documents that have none of that name."""

from __future__ import annotations

from typing import Any, ClassVar

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.operations.base import HIDES_NOTHING
from dharma_tasks.operations.mongodb.keeping import Documents
from dharma_tasks.operations.mongodb.touched import MISSING, Touched, at, below, nested, same
from dharma_tasks.operations.mongodb.values import Field, Value
from dharma_tasks.operations.mongodb.walk import Walk
from dharma_tasks.strict_json import Path


class AddField(Walk):
    """Sets a field where it is missing; one that holds null is there, and stays."""

    kind: ClassVar[str] = "add_field"

    field: Field
    """Its name, or a path like `address.city`."""
    value: Value
    """What it is set to."""

    @property
    def summary(self) -> str:
        """The collection and the field."""
        return f"{self.collection}.{self.field}"

    def change(self) -> tuple[Document, Document]:
        """Set it where it is missing."""
        return {self.field: {"$exists": False}}, {"$set": {self.field: self.value}}

    @classmethod
    def hides(cls, place: Path) -> str | None:
        """The value, or a part of it."""
        return None if place[0] == "value" else HIDES_NOTHING

    def undo_needs_secrets(self) -> bool:
        """Without before-images it looks where the value is still what was added."""
        return not self.keep_before_image

    def touched(self) -> Added:
        """Which documents it has given the field to."""
        return Added(self.field, self.value)


class Added(Touched):
    """The documents that were given a field, and how that is undone."""

    def __init__(self, field: str, value: Any) -> None:
        super().__init__(field)
        self.value = value

    def back(self, documents: Documents, created: str, ids: list[Any]) -> list[Any]:
        """Unset it where it is still what was added, with the part of the path that was too."""
        whole, alone, left = [], [], []
        added = nested(below(created, self.field), self.value)
        for each in documents.find(ids, {created: True}):
            now = at(each, self.field)
            if same(at(each, created), added):
                whole.append(each["_id"])
            elif same(now, self.value):
                alone.append(each["_id"])
            elif now is not MISSING:
                left.append(each["_id"])
        documents.update(whole, {created: {"$eq": added}}, {"$unset": {created: ""}})
        documents.update(alone, {self.field: {"$eq": self.value}}, {"$unset": {self.field: ""}})
        return left
