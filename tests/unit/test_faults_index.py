"""docs/reliability.md against the tests: what it names is there, and every fault has its place."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
DOCUMENT = TESTS.parent / "docs" / "reliability.md"
NUMBERS = range(1, 28)
LATER = "comes with the issue on "
_NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
_FAULTS = re.compile(r"FAULTS (\d+(?:(?:, | and )\d+)*)")


@cache
def faults_by_test() -> dict[tuple[str, str], set[int]]:
    """Every test by its file's name and its own, with the faults that its docstring names."""
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                texts = _FAULTS.findall(ast.get_docstring(node) or "")
                numbers = {int(number) for text in texts for number in re.findall(r"\d+", text)}
                found[path.name, node.name] = numbers
    return found


@cache
def rows() -> dict[int, str]:
    """The table of faults: number -> what shows it."""
    lines = DOCUMENT.read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if re.match(r"\| \d+ \|", line)]
    assert [int(row[0]) for row in cells] == list(NUMBERS)
    return {int(number): shown for number, _what, shown in cells}


def test_every_named_test_exists() -> None:
    """A link that leads nowhere promises what nobody shows."""
    named = set(_NAMED.findall(DOCUMENT.read_text()))
    assert len(named) > 20
    assert named <= set(faults_by_test()), sorted(named - set(faults_by_test()))


def test_names_of_files_are_there_once() -> None:
    """The document leaves the folders out; pytest wants it too."""
    paths = defaultdict(list)
    for path in TESTS.rglob("test_*.py"):
        paths[path.name].append(path)
    assert {name: found for name, found in paths.items() if len(found) > 1} == {}


@pytest.mark.parametrize("number", NUMBERS)
def test_every_fault_is_shown_or_comes_later(number: int) -> None:
    """Each row names a test whose own docstring names the fault, or the issue that brings it."""
    row = rows()[number]
    shown = [found for found in _NAMED.findall(row) if number in faults_by_test().get(found, set())]
    assert shown or LATER in row, f"FAULTS {number}: {row}"


def test_no_other_numbers() -> None:
    """A docstring that names a fault which is not in the table has a slip in it."""
    everywhere = set().union(*faults_by_test().values())
    assert everywhere <= set(NUMBERS)
    later = {n for n in NUMBERS if not _NAMED.search(rows()[n])}
    stale = later & everywhere
    assert not stale, f"has a test by now, which the table should name: {sorted(stale)}"
