"""Whether what a migration file asks for can be done: its operations, and what they hide."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from dharma_tasks.contents import OPERATIONS, Contents, placed
from dharma_tasks.errors import Problem
from dharma_tasks.explain import explain, suggestion
from dharma_tasks.hidden import misplaced
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import HIDES_NOTHING, Catalogue, Operation
from dharma_tasks.ordering import built_too_early
from dharma_tasks.strict_json import Path, path_of

__all__ = ["Verdict", "judge"]

_SHOWN = 100
"""So many problems of one file are named."""


@dataclass(frozen=True)
class Verdict:
    """All that is to be said of one file, `Contents.problems` and `.warnings` among it."""

    problems: list[Problem]
    warnings: list[Problem]
    advice: list[Problem]


def judge(contents: Contents) -> Verdict:
    """Look at every operation of a file that was read."""
    known, file = catalogue(contents.file.database), contents.file
    problems, warnings = list(contents.problems), list(contents.warnings)
    fine: list[tuple[str, Operation[Any]]] = []
    for index, operation in enumerate(contents.operations if contents.complete else ()):
        place = f"{OPERATIONS}[{index}]" if OPERATIONS in known.keys else ""
        parsed, wrong, doubts = _check(operation, known)
        problems += contents.settled(placed(each, file, place) for each in wrong)
        warnings += [placed(each, file, place) for each in doubts]
        if parsed and not wrong:
            fine.append((place, parsed))
    return Verdict(
        _at_most(_SHOWN, _with_hidden(problems, contents, known)),
        [each for each in warnings if not contents.json.open(each.place)],
        [placed(each, file, place) for place, each in built_too_early(fine)],
    )


def _check(
    operation: JSON, known: Catalogue
) -> tuple[Operation[Any] | None, list[Problem], list[Problem]]:
    """The operation, as far as it can be made of its JSON; what is wrong; what to look at."""
    kind = operation.get("type")
    model = known.operations.get(kind) if isinstance(kind, str) else None
    if model is None:
        todo = suggestion(str(kind or ""), known.operations, "operations")
        what = f"no such operation: {kind!r}" if "type" in operation else "'type' is missing"
        return None, [Problem("", "type" if "type" in operation else "", what, todo)], []
    try:
        parsed = known.parse(operation)
    except ValidationError as error:
        parameters = {key: value for key, value in operation.items() if key != "type"}
        return None, explain(error, model, parameters), []
    return parsed, parsed.problems(), parsed.warnings()


def _with_hidden(problems: list[Problem], contents: Contents, known: Catalogue) -> list[Problem]:
    """Refuse secrets where none may stand; whatever else is said of such a place is left out."""

    def why(path: Path) -> str | None:
        if path[0] != OPERATIONS or len(path) <= 2:  # noqa: PLR2004 - the list, the operation
            return HIDES_NOTHING
        operation = contents.json.content[OPERATIONS][path[1]]
        kind = operation.get("type") if isinstance(operation, dict) else None
        model = known.operations.get(kind) if isinstance(kind, str) else None
        return model.hides(path[2:]) if model else HIDES_NOTHING

    for path, problem in misplaced(contents.json.content, why):
        others = [each for each in problems if path_of(each.place)[: len(path)] != path]
        problems = [*others, replace(problem, file=contents.file.file)]
    return problems


def _at_most(count: int, problems: list[Problem]) -> list[Problem]:
    if len(problems) <= count:
        return problems
    more = f"and {len(problems) - count} more problems"
    return [*problems[:count], Problem(problems[0].file, "", more, "Correct those above first.")]
