"""The pages of this project as their readers see them: links, commands, files to write."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[1]
PAGES = (
    *("README.md", "docs/concepts.md", "docs/using.md", "docs/recipes.md", "docs/runbook.md"),
    *("docs/programming.md", "docs/reference.md", "docs/reliability.md"),
    *("docs/monitoring.md", "docs/security.md"),
    *(
        "migrations/README.md",
        "workers/README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
    ),
)
RUN = ("README.md", "docs/using.md", "docs/runbook.md", "workers/README.md")
"""Their commands are run by tests/acceptance/test_commands.py, in this order."""
_FILE = re.compile(r"`migrations/((?:mongodb|postgresql|elasticsearch)/\d{3}_\w+\.(?:json|sql))`")

LEFT_OUT = {
    # What installs, builds, or starts engines of its own.
    "make demo": "test_spine.py::test_the_example_on_seeded_databases",
    'pip install ".[flower]"': "test_wheel.py::test_the_wheel_installs_and_answers",
    "pip install squawk-cli": "test_sql_checks.py",
    "python -m dharma_tasks.local up": "test_local.py",
    'eval "$(python -m dharma_tasks.local env)"': "test_local.py",
    # Other workers, and Flower.
    "celery -A dharma_tasks worker --loglevel INFO": "test_spine.py",
    'pip install ".[metrics]"': "test_wheel.py::test_the_wheel_installs_and_answers",
    "DHARMA_METRICS_PORT=9464 celery -A dharma_tasks worker": (
        "test_scraped.py::test_a_live_worker_is_scraped"
    ),
    "curl http://127.0.0.1:9464/metrics": "test_scraped.py::test_a_live_worker_is_scraped",
    "celery -A dharma_tasks worker -Q mongodb": "test_spine.py::test_split_queues",
    "celery -A dharma_tasks worker -Q postgresql,elasticsearch": "test_spine.py::test_split_queues",
    "export FLOWER_BASIC_AUTH=user:password": "test_page.py",
    "celery -A dharma_tasks flower --conf=workers/flowerconfig.py": "test_page.py",
    # What goes on until Ctrl-C.
    "dharma status --watch": "test_terminal.py::test_it_moves_in_place",
    # What needs Docker.
    "docker build --file workers/Dockerfile --tag dharma-tasks:0.1.0 .": "test_worker_files.py",
    "docker run --env-file worker.env dharma-tasks:0.1.0": "test_worker_files.py",
    "docker run --env-file worker.env dharma-tasks:0.1.0 worker -Q mongodb": "test_worker_files.py",
    "docker run --env-file flower.env -p 5555:5555 dharma-tasks:0.1.0 flower": (
        "test_worker_files.py"
    ),
    "docker run --env-file submit.env -v ./migrations:/migrations:ro -e DHARMA_MIGRATIONS_DIR="
    "/migrations --entrypoint python dharma-tasks:0.1.0 -m dharma_tasks.submit --target latest": (
        "test_worker_files.py"
    ),
    "#!/bin/sh": "test_hooks.py::test_each_hook_does_as_submit_does",
    # What a contributor calls: these tests among it.
    **dict.fromkeys(
        (
            *(
                "make setup",
                "make lint",
                "make test",
                "make long",
                "make reference",
                "make picture",
                ".ci/run",
            ),
            ".venv/bin/python -m dharma_tasks.local up",
            ".venv/bin/python -m dharma_tasks.local down",
            "DHARMA_TEST_ENGINES=.local .venv/bin/python -m pytest tests/integration",
            "python3 -m venv /tmp/fresh",
            (
                "/tmp/fresh/bin/pip install --only-binary :all: "  # noqa: S108
                "'.[local,flower,metrics,check,dev,bench]' hatchling"
            ),
            "/tmp/fresh/bin/pip freeze --exclude dharma-tasks > constraints.txt",  # noqa: S108
        ),
        "test_documents.py",
    ),
}
"""Commands that are not run as they are written, each with the tests that show what it does."""


@dataclass(frozen=True)
class Command:
    """One command of a page, without its comment; `place` is the anchor of its heading."""

    page: str
    place: str
    text: str


@dataclass(frozen=True)
class Link:
    """Where a link, or a picture, of a page leads."""

    page: str
    target: str


@cache
def tokens(page: str) -> list[Token]:
    """The page, parsed as code hosts do."""
    return MarkdownIt("commonmark").enable("table").parse((ROOT / page).read_text())


@cache
def anchors(page: str) -> list[str]:
    """What a link to a heading of the page ends with, in their order; as GitHub makes them."""
    found: list[str] = []
    for text in _headings(page):
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        again = sum(bool(re.fullmatch(rf"{re.escape(slug)}(-\d+)?", one)) for one in found)
        found.append(f"{slug}-{again}" if again else slug)
    return found


def _headings(page: str) -> Iterator[str]:
    for token, inside in pairwise(tokens(page)):
        if token.type == "heading_open":
            yield "".join(each.content for each in inside.children or () if each.content)


def links(page: str) -> Iterator[Link]:
    """Every link and picture."""
    for token in tokens(page):
        for each in token.children or ():
            target = each.attrGet("href") or each.attrGet("src")
            if target is not None:
                yield Link(page, str(target))


def blocks(page: str) -> Iterator[tuple[str, str, str]]:
    """Every block of code: the anchor above it, its language ("" where indented), its text."""
    place, number = "", 0
    for token in tokens(page):
        if token.type == "heading_open":
            place, number = anchors(page)[number], number + 1
        elif token.type in ("fence", "code_block"):
            yield place, token.info, token.content


def commands(page: str) -> Iterator[Command]:
    """Every command in the blocks that are `sh`; a script is one, by its first line."""
    for place, language, text in blocks(page):
        if language != "sh":
            continue
        lines = text.replace("\\\n", " ").splitlines()
        if lines[0].startswith("#!"):
            lines = lines[:1]
        for line in lines:
            bare = line if line.startswith("#!") else re.sub(r"(^|\s)#.*$", "", line)
            yield Command(page, place, " ".join(bare.split()))


def files(page: str, place: str | None = None) -> dict[str, str]:
    """The files that a page shows whole, by their names below `migrations/`; those of a place."""
    found: dict[str, str] = {}
    named = here = ""
    number = 0
    parsed = tokens(page)
    for token in parsed:
        if token.type == "heading_open":
            here, number = anchors(page)[number], number + 1
        if token.type == "inline" and (match := _FILE.search(token.content)):
            named = match[1]
        elif token.type == "fence" and named and token.info == named.rpartition(".")[2]:
            if place in (None, here):
                found[named] = token.content
            named = ""
    return found
