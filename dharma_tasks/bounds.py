"""How large what people write may be, so that a hostile or a mistaken file costs no memory or time.

Each bound is a setting. What is beyond one is refused by name before anything is done (Law 9).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dharma_tasks.errors import Problem, Refused
from dharma_tasks.strict_json import MAX_DEPTH

if TYPE_CHECKING:
    from dharma_tasks.settings import Settings

__all__ = ["Bounds"]

_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Bounds:
    """What the settings `max_file_mb`, `max_depth`, `max_files` and `max_name` say.

    The defaults here are theirs.
    """

    file_mb: float = 16
    depth: int = MAX_DEPTH
    files: int = 50_000
    name: int = 200

    @classmethod
    def of(cls, settings: Settings) -> Bounds:
        """Take them from the settings."""
        return cls(settings.max_file_mb, settings.max_depth, settings.max_files, settings.max_name)

    def read(self, path: str) -> bytes:
        """The file's content; no more than the bound is ever read.

        Raises:
            Refused: it is larger; `file` is left empty.
            OSError: it cannot be read.
        """
        most = int(self.file_mb * _MEGABYTE)
        # There may be very many: no `Path` is made of each, and no room for more than is in it.
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            content = file.read(min(os.fstat(file.fileno()).st_size, most) + 1)
        if len(content) > most:
            what = f"larger than {self.file_mb:g} MB"
            todo = "Divide it over several migrations, or set DHARMA_MAX_FILE_MB higher."
            raise Refused([Problem("", "", what, todo)])
        return content
