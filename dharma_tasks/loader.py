"""The migrations folder as checked `Migration`s, or every reason why not (Law 9).

The flow: `folder` finds the files, `contents` reads each of them, `checker` looks at what must
hold between them, `judge` at their operations. Nothing is read after this: workers get what is
loaded here (Law 7).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from dharma_tasks.bounds import Bounds
from dharma_tasks.checker import check
from dharma_tasks.contents import Contents, read
from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem, Refused
from dharma_tasks.explain import suggestion
from dharma_tasks.folder import find
from dharma_tasks.judge import Verdict, judge
from dharma_tasks.migration import Migration, Reference, Version
from dharma_tasks.strict_json import line_of, path_of
from dharma_tasks.values import Value, Values, gathered

__all__ = ["Loaded", "Read", "load", "read_folder"]

_NO_VALUES = Values()
_USUAL = Bounds()
_NONE: Mapping[Reference, str] = MappingProxyType({})


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
    return read_folder(folder, values, bounds).judged()


def read_folder(folder: Path, values: Values = _NO_VALUES, bounds: Bounds = _USUAL) -> Read:
    """As `load`, but for what the operations say.

    Raises:
        Refused: something cannot be a migration; with all else that is wrong, also in operations.
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
    around = [*problems, *_between(contents, unread), *_unused(contents, values)]
    found = Read(folder, contents)
    if around or any(each.problems for each in contents):
        inside = [problem for each in contents for problem in judge(each).problems]
        raise found.refusal([*inside, *around])
    return found


@dataclass(frozen=True)
class Read:
    """A folder whose files could all be read, and whose operations nobody has looked at."""

    folder: Path
    contents: list[Contents]

    @cached_property
    def migrations(self) -> tuple[Migration, ...]:
        """See `Loaded`."""
        rollbacks = {each.file.undoes: each for each in self.contents if each.file.undoes}
        made = []
        for each in self.contents:
            if back := rollbacks.get(each.file.file):
                rollback = {"rollback": tuple(back.operations)}
                made.append(each.migration.model_copy(update=rollback))
            elif not each.file.undoes:
                made.append(each.migration)
        return tuple(sorted(made, key=_order))

    def judged(self, applied: Mapping[Reference, str] = _NONE) -> Loaded:
        """Check the operations of all migrations but of those `applied`, by their checksums.

        What is done as it stands in the file is not done again, and nobody may change the file.
        Rollback files are checked: they are yet to come.

        Raises:
            Refused: with everything that is wrong in them, sorted by file.
        """
        verdicts = [judge(each) for each in self.contents if not _is_done(each, applied)]
        if problems := [problem for each in verdicts for problem in each.problems]:
            raise self.refusal(problems)
        return Loaded(
            self.migrations,
            tuple(self._warnings(verdicts)),
            gathered(value for each in self.contents for value in each.json.used.values()),
            tuple(sorted({name for each in self.contents for name in each.json.missing})),
            tuple(map(self._with_line, (said for each in verdicts for said in each.advice))),
        )

    def _warnings(self, verdicts: Iterable[Verdict]) -> Iterator[Problem]:
        yield from map(self._with_line, (said for each in verdicts for said in each.warnings))
        if not self.contents:
            todo = "Make the first one: dharma init, or dharma new."
            yield Problem("", "", f"there are no migrations in {str(self.folder)!r}", todo)

    def refusal(self, problems: Iterable[Problem]) -> Refused:
        """The problems, with the lines that they are in."""
        return Refused(sorted(map(self._with_line, problems), key=lambda problem: problem.file))

    def _with_line(self, problem: Problem) -> Problem:
        """A JSON path is easier to find with its line."""
        if not problem.place or problem.place.startswith("line "):
            return problem
        text = self._texts.get(problem.file)
        if not text:
            return problem
        line = line_of(text, path_of(problem.place))
        return replace(problem, place=f"line {line}, {problem.place}")

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {each.file.file: each.text for each in self.contents}


def _is_done(contents: Contents, applied: Mapping[Reference, str]) -> bool:
    """Whether it is a migration that was applied as it is."""
    if contents.file.undoes:
        return False
    migration = contents.migration
    return applied.get(migration.reference) == migration.checksum


def _order(migration: Migration) -> tuple[int, Version]:
    return NAMES.index(migration.database), migration.order


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
