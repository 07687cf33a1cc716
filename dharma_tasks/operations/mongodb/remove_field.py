"""`remove_field`: take a field away from every document that has it."""

from __future__ import annotations

from typing import ClassVar

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.operations.mongodb.values import Field
from dharma_tasks.operations.mongodb.walk import Walk


class RemoveField(Walk):
    """Removes a field, or a path like `address.city`."""

    kind: ClassVar[str] = "remove_field"

    field: Field
    """Its name, or a path like `address.city`."""

    @property
    def summary(self) -> str:
        """The collection and the field."""
        return f"{self.collection}.{self.field}"

    def change(self) -> tuple[Document, Document]:
        """Unset it where it is."""
        return {self.field: {"$exists": True}}, {"$unset": {self.field: ""}}
