"""Every command of the pages, in their order, as a reader types them: one place, one worker.

What is not run is in `documents.LEFT_OUT`, with the tests that show what it does.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import documents
import pytest
from documents import LEFT_OUT, RUN, Command
from elasticsearch import Elasticsearch
from place import DEADLINE, Place, wait_for
from pymongo import MongoClient

from dharma_tasks.redis_client import connect_redis

TYPING = Path(__file__).parent / "typing_dharma.py"
NUMBERS = {"1.0.0": 1, "1.1.0": 2, "1.2.0": 3, "1.3.0": 4, "1.4.0": 5}


class Reader:
    """Somebody who types what the pages say, and what has to be so before each of them."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._child = subprocess.Popen(
            [sys.executable, str(TYPING)],
            env=place.environment,
            cwd=place.folder.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> None:
        """Close the terminal."""
        self._child.communicate(timeout=DEADLINE)

    def dharma(self, *arguments: str, typed: str = "y\n", status: int = 0) -> str:
        """Call `dharma ARGUMENTS`, which must end with that status. Returns what it has printed."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([arguments, typed]) + "\n")
        self._child.stdin.flush()
        ended, out, err = json.loads(self._child.stdout.readline())
        assert ended == status, f"dharma {shlex.join(arguments)}\n{out}\n{err}"
        return str(out)

    def type(self, command: Command) -> None:
        """Do what the page says."""
        words = shlex.split(command.text)
        if words[0] == "celery":
            if not self.place.workers:
                self.place.start_worker()
            return
        if words[:3] == ["python", "-m", "dharma_tasks.submit"]:
            words = ["dharma", "submit", *words[3:]]
        assert words[0] == "dharma", f"nobody knows how to run {command}: see documents.LEFT_OUT"
        before = PREPARED.get((command.place, command.text)) or PREPARED.get(command.text)
        if before:
            before(self)
        self.dharma(*words[1:], status=STATUS.get(command.text, 0))

    # -- what has to be so ----------------------------------------------------------------

    def write(
        self, database: str, version: str, *operations: dict[str, Any], sql: str = ""
    ) -> None:
        """Write the migration of that version; what was there under its number goes."""
        stem = f"{NUMBERS[version]:03d}_step"
        for path in (self.place.folder / database).glob(f"{NUMBERS[version]:03d}_*"):
            path.unlink()
        content: dict[str, Any] = {"version": version}
        if operations:
            content["operations"] = list(operations)
        self.place.write(database, stem, content, sql)

    def remove(self, version: str) -> None:
        """Take the files of that version away."""
        for path in self.place.folder.glob(f"[!.]*/{NUMBERS[version]:03d}_*"):
            path.unlink()

    def fill(self, *counted: tuple[int, object]) -> None:
        """Let MongoDB have so many notes, with these words, and no others."""
        with MongoClient[dict[str, Any]](self.place.url("mongodb")) as client:
            notes = client.get_default_database()["notes"]
            notes.delete_many({})
            notes.insert_many({"words": words} for count, words in counted for _ in range(count))

    def slow(self) -> None:
        """A run that is at work for as long as it takes."""
        self.fill((2_000, 1))
        self.write("mongodb", "1.3.0", COUNT | {"throttle": 20, "keep_before_image": True})
        self.dharma("submit", "--no-wait")
        wait_for(lambda: self.working("mongodb"), "the lease")

    def working(self, database: str) -> bool:
        """Whether a worker is at an operation there."""
        found = json.loads(self.dharma("status", "--json"))["databases"][database]
        return bool(found["progress"] and found["progress"]["holder"])


COUNT = {
    "type": "update_documents",
    "collection": "notes",
    "filter": {},
    "update": {"$inc": {"words": 1}},
    "batch": {"max": 100},
}


def three_versions(reader: Reader) -> None:
    """The versions that `docs/using.md` speaks of, above what `dharma init` has made."""
    make = {"type": "create_collection"}
    for number, version in enumerate(("1.1.0", "1.2.0"), start=1):
        reader.write("mongodb", version, make | {"collection": f"step{number}"})
        reader.write("postgresql", version, sql="SELECT 1;\n")
        stem = f"{NUMBERS[version]:03d}_step_rollback"
        reader.place.write("postgresql", stem, {"version": version}, "SELECT 1;\n")
    alias = {"type": "create_alias", "index": "notes_v1", "alias": "notes_now"}
    reader.write("elasticsearch", "1.2.0", alias)


def forgotten(reader: Reader) -> None:
    """What is pending is there already, and nobody has applied it."""
    reader.remove("1.3.0")
    reader.dharma("rollback", "1.1.0", "--databases", "postgresql", "--yes")


def pull_request(reader: Reader) -> None:
    """The skeletons of `dharma new` go again, for they are refused."""
    for path in reader.place.folder.glob("[!.]*/*_add_email*"):
        path.unlink()


def failed(reader: Reader) -> None:
    """A migration that has failed, whose cause is then corrected."""
    for path in reader.place.folder.glob("[!.]*/*_drop_search*"):
        path.unlink()
    pull_request(reader)
    reader.write("postgresql", "1.3.0", sql="SELECT 1 / 0;\n")
    reader.dharma("submit", status=1)
    assert "rolled_back" in reader.dharma("status")
    reader.write("postgresql", "1.3.0", sql="SELECT 1 / 1;\n")


def half_done(reader: Reader) -> None:
    """A migration of which something is left that cannot be undone, and one that is rolled back."""
    reader.fill((500, 1), (1, "many"))
    reader.write("mongodb", "1.4.0", COUNT)
    reader.write("postgresql", "1.4.0", sql="SELECT 1 / 0;\n")
    reader.dharma("submit", status=1)
    assert "Left of it: 1 update_documents" in reader.dharma("status")


def changed(reader: Reader) -> None:
    """The file of an applied migration has changed."""
    path = reader.place.folder / "mongodb" / "001_create_notes.json"
    path.write_text(path.read_text().replace('"create_notes"', '"create_the_notes"'))


def hangs(reader: Reader) -> None:
    """A worker that is at it."""
    reader.remove("1.4.0")
    reader.slow()


def no_redis(reader: Reader) -> None:
    """Redis has lost everything while a migration was half done, which may go faster by now."""
    reader.write("mongodb", "1.3.0", COUNT | {"keep_before_image": True})
    redis = connect_redis(reader.place.settings)
    redis.delete(*redis.keys(f"{reader.place.settings.namespace}:*"))


PREPARED: dict[str | tuple[str, str], Callable[[Reader], None]] = {
    "python -m dharma_tasks.submit --target latest": three_versions,
    "dharma pause": lambda reader: None if reader.working("mongodb") else reader.slow(),
    "dharma baseline 1.2.0": forgotten,
    ("a-migration-has-failed", "dharma submit"): failed,
    "dharma repair mongodb 1.4.0 --retry --yes": half_done,
    "dharma repair mongodb 1.0.0 --accept-checksum --yes": changed,
    "dharma unlock mongodb --yes": hangs,
    ("redis-has-lost-its-data", "dharma submit"): no_redis,
}
"""What is done before a command, by its text, or by that and where it stands."""
STATUS = {"dharma alive mongodb@web1": 1}
"""Of commands that end otherwise than with 0, for what they name is not here."""


@pytest.fixture
def reader(place: Place) -> Iterator[Reader]:
    """A reader in a folder of her own; Elasticsearch's names belong to all, so they are freed."""
    made = Reader(place)
    yield made
    made.end()
    with Elasticsearch(place.url("elasticsearch")) as client:
        client.indices.delete(index="notes_v1", ignore_unavailable=True)


def test_every_command_of_the_pages(reader: Reader) -> None:
    """From `dharma init` on, page after page, each does what the page promises: it ends well."""
    every = [command for page in RUN for command in documents.commands(page)]
    begin = next(i for i, command in enumerate(every) if command.text == "dharma init")
    typed = [command for command in every[begin:] if command.text not in LEFT_OUT]
    assert {command.text for command in every[:begin]} <= {c.text for c in typed} | set(LEFT_OUT)
    for command in typed:
        reader.type(command)
    assert len(typed) > 30
    known = {command.text for command in typed} | {(c.place, c.text) for c in typed}
    assert set(PREPARED) | set(STATUS) <= known
