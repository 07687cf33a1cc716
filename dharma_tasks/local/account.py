"""As whom a server runs, and which files it can read then.

PostgreSQL and Elasticsearch refuse to run as root. Where the caller is root they run as `nobody`,
which needs no new user, and their files go where `nobody` can reach them: root's home usually has
mode 0700, and so has pytest's temporary folder.
"""

from __future__ import annotations

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

SHARED = Path("/var/cache/dharma-tasks")
"""Readable by everyone and writable by root only; used only where the caller is root."""

_NOBODY = 65534


@dataclass(frozen=True)
class Account:
    """A user of this machine; without numbers the one who calls."""

    uid: int | None = None
    gid: int | None = None

    def own(self, path: Path) -> None:
        """Make a folder and all that is in it this account's."""
        if self.uid is None or self.gid is None:
            return
        for folder, _, files in os.walk(path):
            for name in (".", *files):
                os.chown(Path(folder, name), self.uid, self.gid, follow_symlinks=False)

    def reaches(self, path: Path) -> bool:
        """Whether this account may walk to a path and read it."""
        if self.uid is None:
            return os.access(path, os.R_OK)
        path = path.resolve()
        return all(self._may(folder, stat.S_IXOTH) for folder in path.parents) and self._may(
            path, stat.S_IROTH | (stat.S_IXOTH if path.is_dir() else 0)
        )

    def _may(self, path: Path, needed: int) -> bool:
        status = path.stat()
        if status.st_uid == self.uid:
            needed <<= 6
        elif status.st_gid == self.gid:
            needed <<= 3
        return status.st_mode & needed == needed


CALLER = Account()


def unprivileged() -> Account:
    """The caller, or `nobody` where the caller is root."""
    if os.geteuid() != 0:
        return CALLER
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:  # enough for Elasticsearch; PostgreSQL wants a name and says so
        return Account(_NOBODY, _NOBODY)
    return Account(entry.pw_uid, entry.pw_gid)


def cache() -> Path:
    """The folder for what is made once per user: downloads and unpacked programs."""
    if os.geteuid() == 0:
        return shared()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(base).expanduser() / "dharma-tasks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def shared() -> Path:
    """Root's folder for what other accounts read."""
    SHARED.mkdir(parents=True, exist_ok=True)
    SHARED.chmod(0o755)  # whatever the umask says
    return SHARED
