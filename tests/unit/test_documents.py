"""The pages: links lead somewhere, commands exist, and none of them is left untried in silence."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree as ET

import click
import documents
import pytest
from documents import LEFT_OUT, PAGES, ROOT, RUN
from pydantic import ValidationError
from test_schemas import refused

from dharma_tasks.cli import main
from dharma_tasks.databases import NAMES
from dharma_tasks.migration import JSON
from dharma_tasks.operations import catalogue

TESTS = ROOT / "tests"
_CALL = re.compile(r"`dharma ([a-z][^`]*)`")
_TALL = re.compile(
    r"^(\$ )?(dharma|celery|make|pip|python\S*|docker|kubectl|helm|systemctl|git|sh) "
)


def test_every_page_is_looked_at() -> None:
    """A new one comes to the list."""
    ignored = {".venv", ".local", ".pytest_cache", "node_modules"}
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.md")
        if not ignored & set(path.relative_to(ROOT).parts)
    }
    assert found - {"benchmarks/RESULTS.md"} == set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_links(page: str) -> None:
    """Each leads to a file of the project, and to a heading that is there."""
    wrong = []
    for link in documents.links(page):
        path, _, anchor = link.target.partition("#")
        if re.match(r"https?://", link.target):
            continue
        target = ((ROOT / page).parent / path if path else ROOT / page).resolve()
        there = target.is_relative_to(ROOT) and target.exists()
        known = documents.anchors(str(target.relative_to(ROOT))) if there and anchor else []
        if not there or (anchor and anchor not in known):
            wrong.append(link.target)
    assert wrong == []


def test_every_page_is_linked() -> None:
    """From the README, or from a page that it names."""
    named = {
        str(((ROOT / page).parent / link.target.partition("#")[0]).resolve().relative_to(ROOT))
        for page in PAGES
        for link in documents.links(page)
        if "://" not in link.target and link.target.partition("#")[0]
    }
    assert set(PAGES) - named == {"README.md"}


def test_pictures_are_readable() -> None:
    """A drawing is a whole file, and says in words what it shows."""
    drawing = ET.parse(ROOT / "docs" / "flow.svg").getroot()  # noqa: S314 - our own file
    words = [node for node in drawing if node.tag.rpartition("}")[2] in ("title", "desc")]
    said = [node.text or "" for node in words]
    assert all(len(text) > 10 for text in said)
    assert len(said) == 2
    for page in PAGES:
        for token in documents.tokens(page):
            for each in token.children or ():
                assert each.type != "image" or each.content, f"{page}: {each.attrs}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_stand_in_blocks_of_their_own(page: str) -> None:
    """Only those in a block that is `sh` are run: none hides among what a program prints."""
    hidden = [
        line
        for _, language, text in documents.blocks(page)
        if language != "sh"
        for line in text.splitlines()
        if _TALL.match(line)
    ]
    assert hidden == []


@pytest.mark.parametrize("page", PAGES)
def test_no_command_is_left_out_in_silence(page: str) -> None:
    """It is run, or it is in the list of those that are not, with the test that stands for it."""
    untried = [
        command.text
        for command in documents.commands(page)
        if command.text not in LEFT_OUT and page not in RUN
    ]
    assert untried == []


def test_what_is_left_out_is_there_and_is_tested() -> None:
    """The list names no command that no page has, and no test that is not there."""
    there = {command.text for page in PAGES for command in documents.commands(page)}
    assert set(LEFT_OUT) - there == set()
    for named in LEFT_OUT.values():
        file, _, test = named.partition("::")
        (path,) = TESTS.rglob(file)
        assert not test or f"def {test}(" in path.read_text(), named


def calls() -> list[tuple[str, str]]:
    """Each call of `dharma` in the running text, with its page."""
    return [(page, call) for page in PAGES for call in _CALL.findall((ROOT / page).read_text())]


@pytest.mark.parametrize(("page", "call"), calls())
def test_calls_in_the_text(page: str, call: str) -> None:
    """The command is there and takes these options; words in capitals stand for something."""
    del page
    name, *words = shlex.split(call.replace("…", "").partition(" | ")[0])
    command = main.get_command(click.Context(main), name)
    assert command is not None, call
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    options = {word.partition("=")[0].partition("|")[0] for word in words if word.startswith("--")}
    assert options - {"--help"} <= known, call


def test_pages_are_as_short_as_they_say() -> None:
    """The README is for the first five minutes; the concepts are a page."""
    assert len((ROOT / "README.md").read_text().splitlines()) < 180
    assert len((ROOT / "docs" / "concepts.md").read_text().splitlines()) < 60


def shown() -> list[tuple[str, JSON]]:
    """Each whole migration, and each operation, that a page shows as JSON."""
    found = []
    for page in PAGES:
        for _, language, text in documents.blocks(page):
            if language != "json":
                continue
            try:
                parts = [json.loads(text)]
            except json.JSONDecodeError:
                parts = [json.loads(f"{{{line}}}" if line[0] == '"' else line)
                         for line in text.splitlines()]  # fmt: skip
            found += [(page, part) for part in parts]
    return found


def fits(database: str, operation: JSON) -> bool:
    """Whether it is one of that database's; two of them have some of the same name."""
    try:
        return catalogue(database).parse(operation).problems() == []
    except ValidationError:
        return False


@pytest.mark.parametrize(("page", "content"), shown())
def test_json_that_is_shown(page: str, content: JSON) -> None:
    """A file fits its schema, and an operation is one; the rest is a part of one."""
    del page
    if "database_type" in content:
        assert refused(content) == []
    elif "type" in content:
        fitting = [name for name in NAMES if content["type"] in catalogue(name).operations]
        assert any(fits(name, content) for name in fitting)
    else:
        assert content.keys() <= {"settings"}


@pytest.mark.parametrize("page", ["README.md", "docs/recipes.md"])
def test_files_that_are_shown(page: str, tmp_path: Path) -> None:
    """Together they are a folder in which nothing is wrong but what they build upon."""
    for name, text in documents.files(page).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        if path.suffix == ".json":
            assert refused(json.loads(text)) == []
    assert len(list(tmp_path.rglob("*.json"))) >= 3
