"""What one migration file says, as far as it can be read: keys, values, operations.

Everything that is wrong in it is noted, not only the first thing (Law 9).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError

from dharma_tasks.bounds import Bounds
from dharma_tasks.checker import Entry
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.explain import explain, suggestion
from dharma_tasks.folder import MigrationFile
from dharma_tasks.hidden import misplaced
from dharma_tasks.keys import MigrationKeys, RollbackKeys, names, valid_version
from dharma_tasks.migration import JSON, Migration, Reference, reference
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import HIDES_NOTHING, Catalogue, Operation
from dharma_tasks.ordering import built_too_early
from dharma_tasks.strict_json import Path as JSONPath
from dharma_tasks.strict_json import parse, path_of, text_of
from dharma_tasks.values import Resolved, Values, resolve

__all__ = ["Contents", "read"]

_OPERATIONS = "operations"
"""The key under which most databases keep their operations; see `Catalogue.keys`."""
_SHOWN = 100
"""So many problems of one file are named."""


@dataclass
class Contents:
    """What one file says, as far as it could be read."""

    file: MigrationFile
    text: str = ""
    json: Resolved = field(default_factory=Resolved)
    keys: RollbackKeys | None = None
    version: str | None = None
    dependencies: dict[int, Reference] = field(default_factory=dict)
    operations: list[JSON] = field(default_factory=list)
    written: list[JSON] = field(default_factory=list)
    """The operations as they are in the file, without their values."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    advice: list[Problem] = field(default_factory=list)

    def refuse(self, place: str, what: str, todo: str) -> None:
        """Note what is wrong, where, and what to do."""
        self.problems.append(Problem(self.file.file, place, what, todo))

    def entry(self) -> Entry | None:
        """What the checker needs; None where the file's version is not known."""
        if not self.version:
            return None
        file = self.file
        return Entry(file.database, self.version, file.number, file.file, self.dependencies)

    def migration(self, rollback: Iterable[JSON]) -> Migration:
        """The migration, with its rollback's operations; only where there are no problems."""
        if not self.keys:
            raise Refused(self.problems)
        made = Migration(
            database=self.file.database,
            version=self.keys.version,
            name=self.keys.name,
            description=self.keys.description,
            breaking=getattr(self.keys, "breaking", ""),
            migration_type=self.keys.migration_type,
            dependencies=tuple(dict.fromkeys(self.dependencies.values())),
            operations=tuple(self.written),
            rollback=tuple(rollback),
            file=self.file.file,
        ).with_checksum()
        return made if self.written == self.operations else made.resolved(self.operations)


def read(file: MigrationFile, values: Values, bounds: Bounds) -> Contents:
    """Read one file, and the one beside it that its database asks for; nothing is raised.

    No file is read further than `bounds` allow; `values` are put in.
    """
    contents = Contents(file)
    try:
        written, contents.text = parse(bounds.read(file.path), bounds.depth)
    except Refused as error:
        contents.problems += [replace(problem, file=file.file) for problem in error.problems]
    except OSError as error:
        contents.refuse("", f"cannot be read: {error.strerror}", "Give yourself access to it.")
    else:
        operations = catalogue(file.database)
        contents.json = resolve(written, file.file, values, _places(operations))
        _read_keys(contents, contents.json.content, operations)
        if contents.keys and len(contents.keys.name) > bounds.name:
            what = f"has {len(contents.keys.name)} characters, and may have {bounds.name}"
            contents.refuse("name", what, "Put the rest into the description.")
        if _companion_fits(contents, bounds):
            _read_operations(contents, written, operations)
        _settle(contents)
        _read_hidden(contents, operations)
    if len(contents.problems) > _SHOWN:
        more = f"and {len(contents.problems) - _SHOWN} more problems"
        contents.problems = contents.problems[:_SHOWN]
        contents.refuse("", more, "Correct those above first.")
    return contents


def _companion_fits(contents: Contents, bounds: Bounds) -> bool:
    """Refuse a companion that is too large; what else may be wrong with it others say."""
    beside = contents.file.companion
    try:
        if beside:
            bounds.confirm(beside)
    except Refused as error:
        name = f"{contents.file.database}/{beside.name}" if beside else ""
        contents.problems += [replace(problem, file=name) for problem in error.problems]
        return False
    except OSError:
        return True
    return True


def _places(operations: Catalogue) -> Callable[[JSONPath], bool]:
    """Where a value may stand: in the parameters of an operation, which is of one type."""
    listed = _OPERATIONS in operations.keys
    depth = 2 if listed else 1

    def allowed(path: JSONPath) -> bool:
        inside = path[0] in operations.keys and len(path) > depth
        return inside and not (listed and path[depth:] == ("type",))

    return allowed


def _read_hidden(contents: Contents, operations: Catalogue) -> None:
    """Refuse secrets where none may stand; whatever else is said of such a place is left out."""

    def why(path: JSONPath) -> str | None:
        if path[0] != _OPERATIONS or len(path) <= 2:  # noqa: PLR2004 - the list, the operation
            return HIDES_NOTHING
        operation = contents.json.content[_OPERATIONS][path[1]]
        kind = operation.get("type") if isinstance(operation, dict) else None
        model = operations.operations.get(kind) if isinstance(kind, str) else None
        return model.hides(path[2:]) if model else HIDES_NOTHING

    for path, problem in misplaced(contents.json.content, why):
        contents.problems = [
            each for each in contents.problems if path_of(each.place)[: len(path)] != path
        ]
        contents.problems.append(replace(problem, file=contents.file.file))


def _settle(contents: Contents) -> None:
    """Say which values the problems are about; leave out what only a missing one would tell."""
    json, file = contents.json, contents.file.file
    contents.problems = [
        replace(problem, what=problem.what + json.origin(problem.place))
        for problem in contents.problems
        if problem.file != file or not json.open(problem.place)
    ]
    contents.warnings = [each for each in contents.warnings if not json.open(each.place)]
    contents.problems += [replace(problem, file=file) for problem in json.problems]


def _read_keys(contents: Contents, content: JSON, operations: Catalogue) -> None:
    model = RollbackKeys if contents.file.undoes else MigrationKeys
    known = names(model)
    common = {key: value for key, value in content.items() if key in known}
    for key in content:
        if key not in common and key not in operations.keys:
            todo = suggestion(key, {*known, *operations.keys}, "keys")
            contents.refuse(text_of((key,)), f"unknown key {key!r}", todo)
    wrong: set[str | int] = set()
    try:
        contents.keys = model.model_validate(common)
    except ValidationError as error:
        for problem in explain(error, model, common):
            contents.refuse(problem.place, problem.what, problem.todo)
            wrong.add(path_of(problem.place)[0])
    if "version" not in wrong:
        contents.version = common["version"]
    if "dependencies" not in wrong:
        _read_dependencies(contents, common.get("dependencies", []))
    database = contents.file.database
    if "database_type" not in wrong and common["database_type"] != database:
        what = f"says {common['database_type']!r}, but the file is in the folder of {database}"
        contents.refuse("database_type", what, "Correct it, or move the file.")


def _read_dependencies(contents: Contents, texts: list[str]) -> None:
    for index, text in enumerate(texts):
        place = f"dependencies[{index}]"
        database, _, version = text.rpartition(":")
        if database and database not in NAMES:
            todo = suggestion(database, NAMES, "databases")
            contents.refuse(place, f"no such database: {database!r}", todo)
            continue
        try:
            wanted = reference(database or contents.file.database, valid_version(version))
        except ValueError as error:
            contents.refuse(place, str(error), "Name a database where it is another one's.")
            continue
        if wanted in contents.dependencies.values():
            what = f"{wanted} is named twice"
            contents.warnings.append(Problem(contents.file.file, place, what, "Remove one."))
        contents.dependencies[index] = wanted


# -- its operations ------------------------------------------------------------------------


def _read_operations(contents: Contents, written: JSON, operations: Catalogue) -> None:
    content, path = contents.json.content, contents.file.path
    listed = _OPERATIONS in operations.keys
    if operations.companion and not contents.file.companion:
        return  # `folder` has said so
    if listed and not _list_fits(contents, content):
        return
    contents.operations, problems = operations.read(content, path)
    contents.written = contents.operations
    if content != written:
        contents.written, _ = operations.read(written, path)
    if problems:
        contents.problems += [_placed(problem, contents.file, "") for problem in problems]
        return
    checked: list[tuple[str, Operation[Any]]] = []
    for index, operation in enumerate(contents.operations):
        place = f"{_OPERATIONS}[{index}]" if listed else ""
        if parsed := _check_operation(contents, operation, operations, place):
            checked.append((place, parsed))
    contents.advice = [_placed(what, contents.file, at) for at, what in built_too_early(checked)]
    if not contents.operations:
        contents.refuse("", "there are no operations in it", "Write one, or remove the file.")


def _list_fits(contents: Contents, content: JSON) -> bool:
    found = content.get(_OPERATIONS)
    if _OPERATIONS not in content:
        contents.refuse("", f"{_OPERATIONS!r} is missing", "Add the list of what to do.")
    elif not isinstance(found, list) or not found:
        contents.refuse(_OPERATIONS, "must be a list of at least one operation", "Correct it.")
    else:
        others = [i for i, operation in enumerate(found) if not isinstance(operation, dict)]
        for index in others:
            place = f"{_OPERATIONS}[{index}]"
            contents.refuse(place, "must be an object", 'Write {"type": …, …}.')
        return not others
    return False


def _check_operation(
    contents: Contents, operation: JSON, operations: Catalogue, place: str
) -> Operation[Any] | None:
    """Read one operation, and note what is wrong; returns it where nothing is."""
    parsed: Operation[Any] | None = None
    kind = operation.get("type")
    model = operations.operations.get(kind) if isinstance(kind, str) else None
    if model is None:
        todo = suggestion(str(kind or ""), operations.operations, "operations")
        what = f"no such operation: {kind!r}" if "type" in operation else "'type' is missing"
        problems = [Problem("", "type" if "type" in operation else "", what, todo)]
        warnings = []
    else:
        try:
            parsed = operations.parse(operation)
            problems, warnings = parsed.problems(), parsed.warnings()
        except ValidationError as error:
            parameters = {key: value for key, value in operation.items() if key != "type"}
            problems, warnings = explain(error, model, parameters), []
    contents.problems += [_placed(problem, contents.file, place) for problem in problems]
    contents.warnings += [_placed(warning, contents.file, place) for warning in warnings]
    return None if problems else parsed


def _placed(problem: Problem, file: MigrationFile, below: str) -> Problem:
    """Complete what an operation says of itself with its file and where it is in that.

    An operation that names a file names it without the database's folder; one that names only
    a line means the file that its text came from.
    """
    place = problem.place
    line = place.startswith("line ")
    if problem.file:
        name = f"{file.database}/{problem.file}"
    elif line and file.companion:
        name = f"{file.database}/{file.companion.name}"
    else:
        name = file.file
    if below and not line and not problem.file:
        joint = "." if place and not place.startswith("[") else ""
        place = f"{below}{joint}{place}"
    return replace(problem, file=name, place=place)
