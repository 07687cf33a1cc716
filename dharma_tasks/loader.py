"""The migrations folder as checked `Migration`s, or every reason why not (Law 9).

The flow: `folder` finds the files, this module reads each of them, `checker` looks at what
must hold between them. Nothing is read after this: workers get what is loaded here (Law 7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dharma_tasks.bounds import Bounds
from dharma_tasks.checker import Entry, check
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.explain import explain, suggestion
from dharma_tasks.folder import MigrationFile, find
from dharma_tasks.hidden import misplaced
from dharma_tasks.keys import MigrationKeys, RollbackKeys, names, valid_version
from dharma_tasks.migration import JSON, Migration, Reference, Version, reference
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import HIDES_NOTHING, Catalogue, Operation
from dharma_tasks.ordering import built_too_early
from dharma_tasks.strict_json import Path as JSONPath
from dharma_tasks.strict_json import line_of, parse, path_of, text_of
from dharma_tasks.values import Resolved, Value, Values, gathered, resolve

__all__ = ["Loaded", "load"]

_OPERATIONS = "operations"
"""The key under which most databases keep their operations; see `Catalogue.keys`."""


_NO_VALUES = Values()
_USUAL = Bounds()
_SHOWN = 100
"""So many problems of one file are named."""


@dataclass(frozen=True)
class Loaded:
    """A folder that holds nothing wrong.

    `migrations` are sorted by database and version, each with the operations of its
    `NNN_name_rollback.json`. `warnings` do not keep it from running. `values` were put in;
    `missing` names those that nobody has given, where they need not be known. `advice` is for who
    may still change a file.
    """

    migrations: tuple[Migration, ...]
    warnings: tuple[Problem, ...]
    values: tuple[Value, ...] = ()
    missing: tuple[str, ...] = ()
    advice: tuple[Problem, ...] = ()


def load(folder: Path, values: Values = _NO_VALUES, bounds: Bounds = _USUAL) -> Loaded:
    """Read and check every migration below `folder`, with its values put in.

    No file is read further than `bounds` allow.

    Raises:
        Refused: with everything that is wrong, not only the first, sorted by file.
    """
    try:
        files, problems = find(folder)
    except OSError as error:
        what = f"the migrations folder {str(folder)!r} cannot be read: {error.strerror}"
        todo = "Make it (dharma init), or name it: --migrations DIR or DHARMA_MIGRATIONS_DIR."
        raise Refused([Problem("", "", what, todo)]) from error
    if len(files) > bounds.files:
        what = f"{len(files)} migrations, and no more than {bounds.files} may be in the folder"
        todo = "Is it the right folder? If so, set DHARMA_MAX_FILES higher."
        raise Refused([Problem("", "", what, todo)])
    readings = [_read(file, values, bounds) for file in files]
    unread = {problem.file.partition("/")[0] for problem in problems}
    problems += [problem for reading in readings for problem in reading.problems]
    problems += _between(readings, unread)
    problems += _unused(readings, values)
    texts = {reading.file.file: reading.text for reading in readings}
    if problems:
        located = [_with_line(problem, texts) for problem in problems]
        raise Refused(sorted(located, key=lambda problem: problem.file))
    warnings = [_with_line(w, texts) for reading in readings for w in reading.warnings]
    if not files:
        todo = "Make the first one: dharma init, or dharma new."
        warnings.append(Problem("", "", f"there are no migrations in {str(folder)!r}", todo))
    rollbacks = {r.file.undoes: r.operations for r in readings if r.file.undoes}
    made = [r.migration(rollbacks.get(r.file.file, ())) for r in readings if not r.file.undoes]
    return Loaded(
        tuple(sorted(made, key=_order)),
        tuple(warnings),
        gathered(value for reading in readings for value in reading.json.used.values()),
        tuple(sorted({name for reading in readings for name in reading.json.missing})),
        tuple(_with_line(each, texts) for reading in readings for each in reading.advice),
    )


def _order(migration: Migration) -> tuple[int, Version]:
    return NAMES.index(migration.database), migration.order


def _with_line(problem: Problem, texts: Mapping[str, str]) -> Problem:
    """A JSON path is easier to find with its line."""
    text = texts.get(problem.file)
    if not text or not problem.place or problem.place.startswith("line "):
        return problem
    line = line_of(text, path_of(problem.place))
    return replace(problem, place=f"line {line}, {problem.place}")


# -- one file ------------------------------------------------------------------------------


@dataclass
class _Reading:
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


def _read(file: MigrationFile, values: Values, bounds: Bounds) -> _Reading:
    reading = _Reading(file)
    try:
        written, reading.text = parse(bounds.read(file.path), bounds.depth)
    except Refused as error:
        reading.problems += [replace(problem, file=file.file) for problem in error.problems]
    except OSError as error:
        reading.refuse("", f"cannot be read: {error.strerror}", "Give yourself access to it.")
    else:
        operations = catalogue(file.database)
        reading.json = resolve(written, file.file, values, _places(operations))
        _read_keys(reading, reading.json.content, operations)
        if reading.keys and len(reading.keys.name) > bounds.name:
            what = f"has {len(reading.keys.name)} characters, and may have {bounds.name}"
            reading.refuse("name", what, "Put the rest into the description.")
        if _companion_fits(reading, bounds):
            _read_operations(reading, written, operations)
        _settle(reading)
        _read_hidden(reading, operations)
    if len(reading.problems) > _SHOWN:
        more = f"and {len(reading.problems) - _SHOWN} more problems"
        reading.problems = reading.problems[:_SHOWN]
        reading.refuse("", more, "Correct those above first.")
    return reading


def _companion_fits(reading: _Reading, bounds: Bounds) -> bool:
    """Refuse a companion that is too large; what else may be wrong with it others say."""
    beside = reading.file.companion
    try:
        if beside:
            bounds.confirm(beside)
    except Refused as error:
        name = f"{reading.file.database}/{beside.name}" if beside else ""
        reading.problems += [replace(problem, file=name) for problem in error.problems]
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


def _read_hidden(reading: _Reading, operations: Catalogue) -> None:
    """Refuse secrets where none may stand; whatever else is said of such a place is left out."""

    def why(path: JSONPath) -> str | None:
        if path[0] != _OPERATIONS or len(path) <= 2:  # noqa: PLR2004 - the list, the operation
            return HIDES_NOTHING
        operation = reading.json.content[_OPERATIONS][path[1]]
        kind = operation.get("type") if isinstance(operation, dict) else None
        model = operations.operations.get(kind) if isinstance(kind, str) else None
        return model.hides(path[2:]) if model else HIDES_NOTHING

    for path, problem in misplaced(reading.json.content, why):
        reading.problems = [
            each for each in reading.problems if path_of(each.place)[: len(path)] != path
        ]
        reading.problems.append(replace(problem, file=reading.file.file))


def _settle(reading: _Reading) -> None:
    """Say which values the problems are about; leave out what only a missing one would tell."""
    json, file = reading.json, reading.file.file
    reading.problems = [
        replace(problem, what=problem.what + json.origin(problem.place))
        for problem in reading.problems
        if problem.file != file or not json.open(problem.place)
    ]
    reading.warnings = [each for each in reading.warnings if not json.open(each.place)]
    reading.problems += [replace(problem, file=file) for problem in json.problems]


def _read_keys(reading: _Reading, content: JSON, operations: Catalogue) -> None:
    model = RollbackKeys if reading.file.undoes else MigrationKeys
    known = names(model)
    common = {key: value for key, value in content.items() if key in known}
    for key in content:
        if key not in common and key not in operations.keys:
            todo = suggestion(key, {*known, *operations.keys}, "keys")
            reading.refuse(text_of((key,)), f"unknown key {key!r}", todo)
    wrong: set[str | int] = set()
    try:
        reading.keys = model.model_validate(common)
    except ValidationError as error:
        for problem in explain(error, model, common):
            reading.refuse(problem.place, problem.what, problem.todo)
            wrong.add(path_of(problem.place)[0])
    if "version" not in wrong:
        reading.version = common["version"]
    if "dependencies" not in wrong:
        _read_dependencies(reading, common.get("dependencies", []))
    database = reading.file.database
    if "database_type" not in wrong and common["database_type"] != database:
        what = f"says {common['database_type']!r}, but the file is in the folder of {database}"
        reading.refuse("database_type", what, "Correct it, or move the file.")


def _read_dependencies(reading: _Reading, texts: list[str]) -> None:
    for index, text in enumerate(texts):
        place = f"dependencies[{index}]"
        database, _, version = text.rpartition(":")
        if database and database not in NAMES:
            todo = suggestion(database, NAMES, "databases")
            reading.refuse(place, f"no such database: {database!r}", todo)
            continue
        try:
            wanted = reference(database or reading.file.database, valid_version(version))
        except ValueError as error:
            reading.refuse(place, str(error), "Name a database where it is another one's.")
            continue
        if wanted in reading.dependencies.values():
            what = f"{wanted} is named twice"
            reading.warnings.append(Problem(reading.file.file, place, what, "Remove one."))
        reading.dependencies[index] = wanted


# -- its operations ------------------------------------------------------------------------


def _read_operations(reading: _Reading, written: JSON, operations: Catalogue) -> None:
    content, path = reading.json.content, reading.file.path
    listed = _OPERATIONS in operations.keys
    if operations.companion and not reading.file.companion:
        return  # `folder` has said so
    if listed and not _list_fits(reading, content):
        return
    reading.operations, problems = operations.read(content, path)
    reading.written = reading.operations
    if content != written:
        reading.written, _ = operations.read(written, path)
    if problems:
        reading.problems += [_placed(problem, reading.file, "") for problem in problems]
        return
    checked: list[tuple[str, Operation[Any]]] = []
    for index, operation in enumerate(reading.operations):
        place = f"{_OPERATIONS}[{index}]" if listed else ""
        if parsed := _check_operation(reading, operation, operations, place):
            checked.append((place, parsed))
    reading.advice = [_placed(what, reading.file, at) for at, what in built_too_early(checked)]
    if not reading.operations:
        reading.refuse("", "there are no operations in it", "Write one, or remove the file.")


def _list_fits(reading: _Reading, content: JSON) -> bool:
    found = content.get(_OPERATIONS)
    if _OPERATIONS not in content:
        reading.refuse("", f"{_OPERATIONS!r} is missing", "Add the list of what to do.")
    elif not isinstance(found, list) or not found:
        reading.refuse(_OPERATIONS, "must be a list of at least one operation", "Correct it.")
    else:
        others = [i for i, operation in enumerate(found) if not isinstance(operation, dict)]
        for index in others:
            place = f"{_OPERATIONS}[{index}]"
            reading.refuse(place, "must be an object", 'Write {"type": …, …}.')
        return not others
    return False


def _check_operation(
    reading: _Reading, operation: JSON, operations: Catalogue, place: str
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
    reading.problems += [_placed(problem, reading.file, place) for problem in problems]
    reading.warnings += [_placed(warning, reading.file, place) for warning in warnings]
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


# -- between files -------------------------------------------------------------------------


def _unused(readings: list[_Reading], values: Values) -> list[Problem]:
    """What --set names and no file does; where a file cannot be read, it may be in that."""
    if not all(reading.text for reading in readings):
        return []
    known = {name for reading in readings for name in reading.json.names}
    return [
        Problem(
            "",
            "",
            f"--set {name}: no file has a value of that name",
            suggestion(name, known, "values"),
        )
        for name in values.given
        if name not in known
    ]


def _between(readings: list[_Reading], unread: set[str]) -> list[Problem]:
    migrations = {r.file.file: r for r in readings if not r.file.undoes}
    entries = [entry for reading in migrations.values() if (entry := reading.entry())]
    unread |= {r.file.database for r in migrations.values() if not r.version}
    problems = check(entries, unread)
    for reading in readings:
        undone = migrations.get(reading.file.undoes or "")
        if undone and undone.version and reading.version not in (None, undone.version):
            what = f"has the version {reading.version}, but undoes {undone.version}"
            todo = f"Give it the version of {undone.file.file}."
            problems.append(Problem(reading.file.file, "version", what, todo))
    return problems
