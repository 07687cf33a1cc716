"""Which files of the migrations folder are migrations, and which do not belong there.

A file that is passed over in silence is a migration that somebody believes to be applied, so
everything that looks like one and is not read is a problem (Law 9).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from dharma_tasks.databases import NAMES
from dharma_tasks.errors import Problem
from dharma_tasks.explain import nearest, suggestion
from dharma_tasks.operations import catalogue

__all__ = ["MigrationFile", "find"]

_NAME = re.compile(r"(?P<number>[0-9]{3,})_[A-Za-z0-9][A-Za-z0-9_.-]*")
_ROLLBACK = "_rollback"
_READ = (".json", ".sql")

_Wrong = tuple[str, str]
"""What is wrong, and what to do."""


@dataclass(frozen=True)
class MigrationFile:
    """One `NNN_name.json`; `number` is its NNN.

    `companion` is the file beside it that its database asks for; None where it asks for none
    or the file cannot be read. `undoes` is the `file` of the migration that a rollback
    belongs to, None for a migration.
    """

    database: str
    path: Path
    number: int
    companion: Path | None
    undoes: str | None

    @property
    def file(self) -> str:
        """The name in messages, relative to the migrations folder."""
        return f"{self.database}/{self.path.name}"


def find(folder: Path) -> tuple[list[MigrationFile], list[Problem]]:
    """List the migration files below `folder`, by database and name, and all that is amiss.

    `*.md` and names that begin with a dot are never looked at.

    Raises:
        OSError: `folder` itself cannot be listed.
    """
    files: list[MigrationFile] = []
    problems: list[Problem] = []
    root = folder.resolve()
    for path in _visible(folder):
        name = _printable(path.name)
        if wrong := _stray(path) if path.name not in NAMES else _unusable(path, root):
            problems.append(Problem(name, "", *wrong))
        elif path.name in NAMES and not path.is_dir():
            problems.append(Problem(name, "", "not a folder", "Make it one."))
        elif path.name in NAMES:
            try:
                listed = _DatabaseFolder(path, root)
            except OSError as error:
                wrong = (f"cannot be read: {error.strerror}", "Give yourself access to it.")
                problems.append(Problem(name, "", *wrong))
                continue
            files += listed.files()
            problems += listed.problems()
    return files, problems


class _DatabaseFolder:
    """One database's folder, listed once."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.database = folder.name
        self.companion = catalogue(folder.name).companion
        self.paths = {path.name: path for path in _visible(folder)}
        self.unusable = {name: _unusable(path, root) for name, path in self.paths.items()}
        stems = {path.stem for path in self.paths.values() if path.suffix == ".json"}
        self.migrations = {stem for stem in stems if not stem.endswith(_ROLLBACK)}
        self.stems = stems

    def files(self) -> list[MigrationFile]:
        """The files whose names fit and that can be read."""
        return [
            self._file(path, int(match["number"]))
            for path in self.paths.values()
            if path.suffix == ".json"
            and (match := _NAME.fullmatch(path.stem))
            and path.is_file()
            and not self.unusable[path.name]
        ]

    def _file(self, path: Path, number: int) -> MigrationFile:
        beside = self.paths.get(f"{path.stem}{self.companion}")
        if beside and (not beside.is_file() or self.unusable[beside.name]):
            beside = None
        undone = path.stem.removesuffix(_ROLLBACK)
        undoes = f"{self.database}/{undone}.json" if undone != path.stem else None
        return MigrationFile(self.database, path, number, beside, undoes)

    def problems(self) -> list[Problem]:
        """Everything in the folder that is not a migration, or not a whole one."""
        found = ((name, self._wrong(path)) for name, path in self.paths.items())
        return [
            Problem(f"{self.database}/{_printable(name)}", "", *wrong)
            for name, wrong in found
            if wrong
        ]

    def _wrong(self, path: Path) -> _Wrong | None:
        if wrong := self.unusable[path.name]:
            return wrong
        if path.is_dir():
            return _folder_below(path)
        if path.suffix == ".json":
            return self._wrong_json(path)
        if path.suffix == self.companion and path.stem in self.stems:
            return None
        if path.suffix == self.companion:
            todo = suggestion(f"{path.stem}.json", self._lonely(), "files without one")
            return f"there is no {path.stem}.json for it", f"Write that file, or rename. {todo}"
        meant = nearest(path.suffix, [".json", *filter(None, [self.companion])])
        todo = f"Did you mean {path.stem}{meant}?" if meant else "Move it out of this folder."
        return f"not a kind of file that {self.database} migrations are made of", todo

    def _wrong_json(self, path: Path) -> _Wrong | None:
        if not _NAME.fullmatch(path.stem):
            what = "the name is not NNN_name.json (NNN: three or more digits; name: letters, "
            return f"{what}digits, '_', '-', '.')", f"Rename it, for instance {_fitting(path)}."
        undone = path.stem.removesuffix(_ROLLBACK)
        if undone != path.stem and undone not in self.migrations:
            todo = suggestion(undone, self.migrations, "migrations")
            return f"a rollback of {undone}.json, which is not there", todo
        beside = f"{path.stem}{self.companion}"
        if self.companion and beside not in self.paths:
            return f"there is no {beside} beside it", "Write it, or rename the one you have."
        return None

    def _lonely(self) -> list[str]:
        """The JSON files that wait for their companion."""
        return [f"{s}.json" for s in self.stems if f"{s}{self.companion}" not in self.paths]


def _visible(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.suffix.lower() != ".md"
    )


def _stray(path: Path) -> _Wrong | None:
    what = "not in a database's folder, so nothing would read it"
    if path.is_dir():
        todo = suggestion(path.name, NAMES, "folders")
        return (what, todo) if _holds_migrations(path) else None
    todo = f"Move it to the folder of its database: {', '.join(NAMES)}."
    return (what, todo) if path.suffix.lower() in _READ else None


def _folder_below(path: Path) -> _Wrong | None:
    if path.suffix in _READ:
        return "a folder with the name of a file", "Rename or remove it."
    if _holds_migrations(path):
        return "a folder inside a database's folder is not read", "Move its files up."
    return None


def _unusable(path: Path, root: Path) -> _Wrong | None:
    """Say why what `path`, in a folder inside `root`, must not be read.

    Links inside `root` are fine: a mounted Kubernetes ConfigMap is made of them.
    """
    try:
        leaves = path.is_symlink() and not path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return "a symbolic link that leads nowhere", "Correct or remove it."
    if leaves:
        return "a symbolic link that leaves the migrations folder", "Put the file itself here."
    if not (path.is_file() or path.is_dir()):
        return "not a regular file", "Remove it."
    return None


def _holds_migrations(folder: Path) -> bool:
    return any(path.suffix.lower() in _READ for path in folder.rglob("*"))


def _fitting(path: Path) -> str:
    """A name near the given one that would be taken."""
    digits = re.search(r"[0-9]+", path.stem)
    words = re.sub(r"[^A-Za-z0-9_.-]+", "_", re.sub(r"^[^A-Za-z]+", "", path.stem))
    return f"{int(digits[0]) if digits else 1:03d}_{words.strip('_') or 'name'}.json"


def _printable(name: str) -> str:
    """A file name need not be UTF-8; a message must be."""
    return os.fsencode(name).decode(errors="backslashreplace")
