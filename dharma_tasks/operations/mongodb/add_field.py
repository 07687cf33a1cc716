"""`add_field`: give a field to the documents that have none of that name."""

from __future__ import annotations

from typing import ClassVar

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.operations.mongodb.values import Field, Value
from dharma_tasks.operations.mongodb.walk import Walk


class AddField(Walk):
    """Sets a field where it is missing; one that holds null is there, and stays."""

    kind: ClassVar[str] = "add_field"

    field: Field
    value: Value

    @property
    def summary(self) -> str:
        """The collection and the field."""
        return f"{self.collection}.{self.field}"

    def change(self) -> tuple[Document, Document]:
        """Set it where it is missing."""
        return {self.field: {"$exists": False}}, {"$set": {self.field: self.value}}
