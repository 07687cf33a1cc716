"""What one migration file says, as far as it can be read: keys, values, operations.

Everything that is wrong in it is noted, not only the first thing (Law 9). What `judge` says of its
operations is apart: those of a file that is applied already are nobody's business any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from pydantic import ValidationError

from dharma_tasks.bounds import Bounds
from dharma_tasks.checker import Entry
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.explain import explain, suggestion
from dharma_tasks.folder import MigrationFile
from dharma_tasks.keys import MigrationKeys, RollbackKeys, names, valid_version
from dharma_tasks.migration import JSON, Migration, Reference, reference
from dharma_tasks.operations import catalogue
from dharma_tasks.operations.base import Catalogue
from dharma_tasks.strict_json import Path as JSONPath
from dharma_tasks.strict_json import parse, path_of, text_of
from dharma_tasks.values import Resolved, Values, resolve

__all__ = ["OPERATIONS", "Contents", "read"]

OPERATIONS = "operations"
"""The key under which most databases keep their operations; see `Catalogue.keys`."""


@dataclass
class Contents:
    """What one file says, as far as it could be read. `problems` keep it from being a migration."""

    file: MigrationFile
    text: str = ""
    json: Resolved = field(default_factory=Resolved)
    keys: RollbackKeys | None = None
    version: str | None = None
    dependencies: dict[int, Reference] = field(default_factory=dict)
    operations: list[JSON] = field(default_factory=list)
    written: list[JSON] = field(default_factory=list)
    """The operations as they are in the file, without their values."""
    complete: bool = True
    """Whether the operations are all that they will be, once every value is known."""
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)

    def refuse(self, place: str, what: str, todo: str) -> None:
        """Note what is wrong, where, and what to do."""
        self.problems.append(Problem(self.file.file, place, what, todo))

    def settled(self, problems: Iterable[Problem]) -> list[Problem]:
        """Say which values they are about; leave out what only a missing one would tell."""
        return [
            replace(problem, what=problem.what + self.json.origin(problem.place))
            for problem in problems
            if problem.file != self.file.file or not self.json.open(problem.place)
        ]

    def entry(self) -> Entry | None:
        """What the checker needs; None where the file's version is not known."""
        if not self.version:
            return None
        file = self.file
        return Entry(file.database, self.version, file.number, file.file, self.dependencies)

    @cached_property
    def migration(self) -> Migration:
        """The migration, without its rollback; only where there are no problems."""
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
        beside = _beside(contents, bounds)
        if beside is not None:
            _read_operations(contents, written, beside, operations)
        unset = [replace(problem, file=file.file) for problem in contents.json.problems]
        contents.problems = contents.settled(contents.problems) + unset
    return contents


def _beside(contents: Contents, bounds: Bounds) -> bytes | None:
    """What is in the companion, nothing where there is to be none; None where it cannot be read."""
    file = contents.file
    if catalogue(file.database).companion is None:
        return b""
    if file.companion is None:
        return None  # `folder` has said so
    try:
        return bounds.read(f"{file.root}/{file.companion}")
    except Refused as error:
        contents.problems += [replace(problem, file=file.companion) for problem in error.problems]
    except OSError as error:
        what, todo = f"cannot be read: {error.strerror}", "Give yourself access to it."
        contents.problems.append(Problem(file.companion, "", what, todo))
    return None


def _places(operations: Catalogue) -> Callable[[JSONPath], bool]:
    """Where a value may stand: in the parameters of an operation, which is of one type."""
    listed = OPERATIONS in operations.keys
    depth = 2 if listed else 1

    def allowed(path: JSONPath) -> bool:
        inside = path[0] in operations.keys and len(path) > depth
        return inside and not (listed and path[depth:] == ("type",))

    return allowed


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


def _read_operations(
    contents: Contents, written: JSON, beside: bytes, operations: Catalogue
) -> None:
    content = contents.json.content
    if OPERATIONS in operations.keys and not _list_fits(contents, content):
        return
    contents.operations, problems = operations.read(content, beside)
    contents.written = contents.operations
    if content != written:
        contents.written, _ = operations.read(written, beside)
    contents.complete = not problems
    contents.problems += [placed(problem, contents.file, "") for problem in problems]
    if not problems and not contents.operations:
        contents.refuse("", "there are no operations in it", "Write one, or remove the file.")


def _list_fits(contents: Contents, content: JSON) -> bool:
    found = content.get(OPERATIONS)
    if OPERATIONS not in content:
        contents.refuse("", f"{OPERATIONS!r} is missing", "Add the list of what to do.")
    elif not isinstance(found, list) or not found:
        contents.refuse(OPERATIONS, "must be a list of at least one operation", "Correct it.")
    else:
        others = [i for i, operation in enumerate(found) if not isinstance(operation, dict)]
        for index in others:
            place = f"{OPERATIONS}[{index}]"
            contents.refuse(place, "must be an object", 'Write {"type": …, …}.')
        return not others
    return False


def placed(problem: Problem, file: MigrationFile, below: str) -> Problem:
    """Complete what an operation says of itself with its file and where it is in that.

    One that names only a line means the file that its text came from.
    """
    place = problem.place
    line = place.startswith("line ")
    name = file.companion if line and file.companion else file.file
    if below and not line:
        joint = "." if place and not place.startswith("[") else ""
        place = f"{below}{joint}{place}"
    return replace(problem, file=name, place=place)
