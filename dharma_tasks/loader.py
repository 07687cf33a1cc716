"""The migrations folder as checked `Migration`s, or every reason why not (Law 9).

The flow: `folder` finds the files, `contents` reads each of them, `checker` looks at what
must hold between them. Nothing is read after this: workers get what is loaded here (Law 7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from dharma_tasks.bounds import Bounds
from dharma_tasks.checker import check
from dharma_tasks.contents import Contents, read
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.explain import suggestion
from dharma_tasks.folder import find
from dharma_tasks.migration import Migration, Version
from dharma_tasks.strict_json import line_of, path_of
from dharma_tasks.values import Value, Values, gathered

__all__ = ["Loaded", "load"]

_NO_VALUES = Values()
_USUAL = Bounds()


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
    contents = [read(file, values, bounds) for file in files]
    unread = {problem.file.partition("/")[0] for problem in problems}
    problems += [problem for each in contents for problem in each.problems]
    problems += _between(contents, unread)
    problems += _unused(contents, values)
    texts = {each.file.file: each.text for each in contents}
    if problems:
        located = [_with_line(problem, texts) for problem in problems]
        raise Refused(sorted(located, key=lambda problem: problem.file))
    warnings = [_with_line(w, texts) for each in contents for w in each.warnings]
    if not files:
        todo = "Make the first one: dharma init, or dharma new."
        warnings.append(Problem("", "", f"there are no migrations in {str(folder)!r}", todo))
    rollbacks = {r.file.undoes: r.operations for r in contents if r.file.undoes}
    made = [r.migration(rollbacks.get(r.file.file, ())) for r in contents if not r.file.undoes]
    return Loaded(
        tuple(sorted(made, key=_order)),
        tuple(warnings),
        gathered(value for each in contents for value in each.json.used.values()),
        tuple(sorted({name for each in contents for name in each.json.missing})),
        tuple(_with_line(said, texts) for each in contents for said in each.advice),
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


# -- between files -------------------------------------------------------------------------


def _unused(contents: list[Contents], values: Values) -> list[Problem]:
    """What --set names and no file does; where a file cannot be read, it may be in that."""
    if not all(each.text for each in contents):
        return []
    known = {name for each in contents for name in each.json.names}
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


def _between(contents: list[Contents], unread: set[str]) -> list[Problem]:
    migrations = {r.file.file: r for r in contents if not r.file.undoes}
    entries = [entry for each in migrations.values() if (entry := each.entry())]
    unread |= {r.file.database for r in migrations.values() if not r.version}
    problems = check(entries, unread)
    for each in contents:
        undone = migrations.get(each.file.undoes or "")
        if undone and undone.version and each.version not in (None, undone.version):
            what = f"has the version {each.version}, but undoes {undone.version}"
            todo = f"Give it the version of {undone.file.file}."
            problems.append(Problem(each.file.file, "version", what, todo))
    return problems
