"""The JSON Schemas of the migration files, for editors; `dharma_tasks.reference` makes them.

`dharma init` and `dharma new` put them into a folder of migrations, below `.dharma/`, where the
files name them by a relative path: every editor finds those, and nothing is fetched from anywhere.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from dharma_tasks.databases import NAMES

__all__ = ["file_name", "put", "reference"]

_FOLDER = ".dharma"
"""The loader looks at nothing whose name begins with a dot."""


def file_name(database: str) -> str:
    """What a database's schema is called."""
    return f"{database}.schema.json"


def reference(database: str) -> str:
    """The `$schema` of a file in `database`'s folder."""
    return f"../{_FOLDER}/{file_name(database)}"


def put(folder: Path) -> None:
    """Write the schemas of this release into the migrations folder, over those of another one.

    Raises:
        OSError: they cannot be written.
    """
    place = folder / _FOLDER
    place.mkdir(parents=True, exist_ok=True)
    for name in map(file_name, NAMES):
        text = resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
        path = place / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
