"""`python -m dharma_tasks.reference`: write what is made from the models into the sources."""

from __future__ import annotations

from pathlib import Path

from dharma_tasks.databases import NAMES
from dharma_tasks.reference.page import page
from dharma_tasks.reference.schema import text
from dharma_tasks.schemas import file_name

PACKAGE = Path(__file__).parents[1]
PAGE = PACKAGE.parent / "docs" / "reference.md"


def made() -> dict[Path, str]:
    """Every file that is made from the models, and what it holds."""
    schemas = {PACKAGE / "schemas" / file_name(name): text(name) for name in NAMES}
    return schemas | {PAGE: page()}


if __name__ == "__main__":
    for path, content in made().items():
        path.write_text(content, encoding="utf-8")
