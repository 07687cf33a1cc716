"""Writing into a folder of migrations, where nothing is ever overwritten."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dharma_tasks import schemas
from dharma_tasks.errors import Problem, Refused


def write_new(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write `texts`, by their names below `folder`: all of them, or none. Returns their paths.

    The schemas that they name come with them; those of another release are replaced.

    Raises:
        Refused: one of them is there already, or cannot be written.
    """
    written: list[Path] = []
    name = ""
    try:
        for name, text in texts.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                written.append(path)
                file.write(text)
        name = ""
        schemas.put(folder)
    except OSError as error:
        for path in written:
            with suppress(OSError):
                path.unlink()
        there = isinstance(error, FileExistsError)
        what = "is there already" if there else f"cannot be written: {error.strerror}"
        todo = "Nothing was written."
        raise Refused([Problem(name or str(folder), "", what, todo)]) from error
    return written
