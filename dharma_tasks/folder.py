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

    `file` is its name in messages, below the migrations folder `root`, and `companion` that of the
    file beside it that its database asks for; None where it asks for none or the file cannot be
    read. `undoes` is the `file` of the migration that a rollback belongs to, None for a migration.
    """

    root: str
    database: str
    file: str
    number: int
    companion: str | None
    undoes: str | None

    @property
    def path(self) -> str:
        """Where the file is."""
        return f"{self.root}/{self.file}"


def find(folder: Path) -> tuple[list[MigrationFile], list[Problem]]:
    """List the migration files below `folder`, by database and name, and all that is amiss.

    `*.md` and names that begin with a dot are never looked at.

    Raises:
        OSError: `folder` itself cannot be listed.
    """
    files: list[MigrationFile] = []
    problems: list[Problem] = []
    root = folder.resolve()
    for entry in _visible(folder):
        path = folder / entry.name
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
        self.folder = folder
        self.database = folder.name
        self.companion = catalogue(folder.name).companion
        entries = _visible(folder)
        self.names = {entry.name for entry in entries}
        # Of a regular file that is no link the list says so: none of them is looked at.
        others = (entry for entry in entries if not entry.is_file(follow_symlinks=False))
        looked_at = [folder / entry.name for entry in others]
        self.unusable = {path.name: wrong for path in looked_at if (wrong := _unusable(path, root))}
        self.folders = {path.name for path in looked_at if path.is_dir()}
        parts = map(_split, self.names)
        self.stems = {stem for stem, suffix in parts if suffix == ".json"}
        self.migrations = {stem for stem in self.stems if not stem.endswith(_ROLLBACK)}

    def files(self) -> list[MigrationFile]:
        """The files whose names fit and that can be read."""
        return [
            self._file(stem, int(match["number"]))
            for stem in sorted(self.stems)
            if (match := _NAME.fullmatch(stem)) and self._readable(f"{stem}.json")
        ]

    def _readable(self, name: str) -> bool:
        return name not in self.unusable and name not in self.folders

    def _file(self, stem: str, number: int) -> MigrationFile:
        beside = f"{stem}{self.companion}" if self.companion else ""
        there = beside in self.names and self._readable(beside)
        undone = stem.removesuffix(_ROLLBACK)
        return MigrationFile(
            root=str(self.folder.parent),
            database=self.database,
            file=f"{self.database}/{stem}.json",
            number=number,
            companion=f"{self.database}/{beside}" if there else None,
            undoes=f"{self.database}/{undone}.json" if undone != stem else None,
        )

    def problems(self) -> list[Problem]:
        """Everything in the folder that is not a migration, or not a whole one."""
        return [
            Problem(f"{self.database}/{_printable(name)}", "", *wrong)
            for name in sorted(self.names)
            if (wrong := self._wrong(name))
        ]

    def _wrong(self, name: str) -> _Wrong | None:
        stem, suffix = _split(name)
        if wrong := self.unusable.get(name):
            return wrong
        if name in self.folders:
            return _folder_below(self.folder / name)
        if suffix == ".json":
            return self._wrong_json(stem)
        if suffix == self.companion and stem in self.stems:
            return None
        if suffix == self.companion:
            todo = suggestion(f"{stem}.json", self._lonely(), "files without one")
            return f"there is no {stem}.json for it", f"Write that file, or rename. {todo}"
        meant = nearest(suffix, [".json", *filter(None, [self.companion])])
        todo = f"Did you mean {stem}{meant}?" if meant else "Move it out of this folder."
        return f"not a kind of file that {self.database} migrations are made of", todo

    def _wrong_json(self, stem: str) -> _Wrong | None:
        if not _NAME.fullmatch(stem):
            what = "the name is not NNN_name.json (NNN: three or more digits; name: letters, "
            return f"{what}digits, '_', '-', '.')", f"Rename it, for instance {_fitting(stem)}."
        undone = stem.removesuffix(_ROLLBACK)
        if undone != stem and undone not in self.migrations:
            todo = suggestion(undone, self.migrations, "migrations")
            return f"a rollback of {undone}.json, which is not there", todo
        beside = f"{stem}{self.companion}"
        if self.companion and beside not in self.names:
            return f"there is no {beside} beside it", "Write it, or rename the one you have."
        return None

    def _lonely(self) -> list[str]:
        """The JSON files that wait for their companion."""
        return [f"{s}.json" for s in self.stems if f"{s}{self.companion}" not in self.names]


def _split(name: str) -> tuple[str, str]:
    """Stem and suffix, as `Path` has them, in less time: there may be very many names."""
    stem, dot, end = name.rpartition(".")
    return (stem, dot + end) if dot else (name, "")


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        found = [each for each in entries if not _is_passed_over(each.name)]
    return sorted(found, key=lambda entry: entry.name)


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name.lower().endswith(".md")


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


def _fitting(stem: str) -> str:
    """A name near the given one that would be taken."""
    digits = re.search(r"[0-9]+", stem)
    words = re.sub(r"[^A-Za-z0-9_.-]+", "_", re.sub(r"^[^A-Za-z]+", "", stem))
    return f"{int(digits[0]) if digits else 1:03d}_{words.strip('_') or 'name'}.json"


def _printable(name: str) -> str:
    """A file name need not be UTF-8; a message must be."""
    return os.fsencode(name).decode(errors="backslashreplace")
