"""`update_documents`: any update of MongoDB's, exactly once for each document."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import WithJsonSchema

from dharma_tasks.databases.mongodb.connection import Document
from dharma_tasks.errors import Problem
from dharma_tasks.explain import suggestion
from dharma_tasks.operations.base import HIDES_NOTHING
from dharma_tasks.operations.mongodb.values import Value, ValueDocument, ValueList
from dharma_tasks.operations.mongodb.walk import Walk
from dharma_tasks.strict_json import Path, text_of

_REPEATABLE = {
    *("$set", "$setOnInsert", "$unset", "$rename", "$min", "$max", "$currentDate"),
    *("$addToSet", "$pull", "$pullAll"),
}
_NOT_REPEATABLE = {"$inc", "$mul", "$push", "$pop", "$bit"}
_STAGES = ("$addFields", "$set", "$project", "$unset", "$replaceRoot", "$replaceWith")

_FIELD = 1
"""Where the name of a field stands in an update: after that of its operator."""
_LITERAL = (
    "Write {\"$literal\": {…}} around it: in a pipeline a text that begins with '$' would be the "
    "name of a field."
)

_Update = Annotated[
    Value,
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}]}),
]


class UpdateDocuments(Walk):
    """Updates the documents that match the filter, with operators or with a pipeline."""

    kind: ClassVar[str] = "update_documents"

    filter: ValueDocument
    """Which documents; `{}` for all."""
    update: _Update
    """Operators like `$set` and `$inc`, or a list of pipeline stages; never a whole document."""
    array_filters: ValueList | None = None
    """Which elements of arrays, as of MongoDB's `arrayFilters`."""

    def problems(self) -> list[Problem]:
        """An update that is none, or operators that MongoDB does not have."""
        if isinstance(self.update, list) and self.update:
            problems = [p for i, stage in enumerate(self.update) for p in _stage(i, stage)]
            if self.array_filters is not None:
                what = "MongoDB takes no array_filters with a pipeline"
                problems.append(Problem("", "array_filters", what, "Remove them."))
            return problems
        if isinstance(self.update, dict) and self.update:
            return [p for name, fields in self.update.items() for p in _operator(name, fields)]
        what = "must be an object with operators such as $set, or a list of pipeline stages"
        return [Problem("", "update", what, "Correct it.")]

    @classmethod
    def hides(cls, place: Path) -> str | None:
        """What fields are given; in a pipeline, where a text may name a field, only literals."""
        _, *within = place
        if place[0] != "update" or len(within) <= _FIELD or "$rename" in within[:1]:
            return HIDES_NOTHING
        pipeline = isinstance(within[0], int)
        return _LITERAL if pipeline and "$literal" not in within else None

    def repeatable(self) -> bool:
        """Whether each operator leaves alone what it has done already."""
        return isinstance(self.update, dict) and self.update.keys() <= _REPEATABLE

    def change(self) -> tuple[Document, Document | list[Document]]:
        """The update as the migration has it."""
        return {}, self.update

    def elements(self) -> list[Document] | None:
        """The migration's."""
        return self.array_filters


def _stage(index: int, stage: Any) -> list[Problem]:
    place = text_of(("update", index))
    if not isinstance(stage, dict) or len(stage) != 1:
        what = "a pipeline's stage must be an object with one key"
        return [Problem("", place, what, f"Known stages: {', '.join(_STAGES)}.")]
    (name,) = stage
    if name not in _STAGES:
        what = f"MongoDB's updates have no stage {name!r}"
        return [Problem("", place, what, suggestion(name, _STAGES, "stages"))]
    return []


def _operator(name: str, fields: Any) -> list[Problem]:
    place = text_of(("update", name))
    if not name.startswith("$"):
        what = f"{name!r} is no operator: this would replace whole documents"
        return [Problem("", place, what, f'Write {{"$set": {{"{name}": …}}}}.')]
    known = _REPEATABLE | _NOT_REPEATABLE
    if name not in known:
        what = f"MongoDB has no update operator {name!r}"
        return [Problem("", place, what, suggestion(name, known, "operators"))]
    if not isinstance(fields, dict) or not fields:
        what = f"{name} must be an object that names at least one field"
        return [Problem("", place, what, "Correct it.")]
    return []
