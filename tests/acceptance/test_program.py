"""docs/programming.md, line by line, and what else a program may do, on the real engines."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from place import DEADLINE, Place
from psycopg.conninfo import make_conninfo
from pymongo.database import Database

from dharma_tasks import (
    DatabaseMigrationManager,
    MongoDBManager,
    PostgreSQLManager,
    Refused,
    RunState,
)
from dharma_tasks.databases import NAMES, connect

Document = dict[str, Any]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "programming.md").read_text()
SCRIPT = ROOT / "scripts" / "migrate.py"
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([^`]+)`")


@pytest.fixture
def program(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Place:
    """The environment of a program as the page has it, and a small folder of migrations."""
    for name in [name for name in os.environ if name.startswith("DHARMA_")]:
        monkeypatch.delenv(name)
    for name in ("DHARMA_REDIS_URL", "DHARMA_NAMESPACE", "DHARMA_SIGNING_KEY"):
        monkeypatch.setenv(name, place.environment[name])
    for name in NAMES:
        monkeypatch.setenv(f"{name.upper()}_URL", place.url(name))
    monkeypatch.setenv("MONGODB_DATABASE", place.settings.namespace)
    monkeypatch.chdir(tmp_path)
    for number in (1, 2):
        version = f"1.{number - 1}.0"
        made = {"type": "create_collection", "collection": f"made{number}"}
        place.write(
            "mongodb", f"00{number}_made{number}", {"version": version, "operations": [made]}
        )
        sql = f"CREATE TABLE made{number} (id int)" if number == 1 else "-- nothing\n"
        place.write("postgresql", f"00{number}_made{number}", {"version": version}, sql)
    index = {"type": "create_index", "index": f"{place.settings.namespace}-made"}
    place.write("elasticsearch", "001_made", {"version": "1.0.0", "operations": [index]})
    return place


def states(place: Place, database: str = "mongodb") -> dict[str, str]:
    """The states in the journal, by version."""
    found = connect(database, place.settings)
    try:
        return {each.version: str(each.state) for each in found.journal.survey().migrations}
    finally:
        found.close()


async def python(code: str, names: dict[str, Any]) -> None:
    """Run a piece of the page, as `python -m asyncio` would."""
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    waiting = eval(compile(code, "programming.md", "exec", flags=flags), names)  # noqa: S307
    if inspect.iscoroutine(waiting):
        await waiting


def command(line: str) -> str:
    """Run a command of the page, which must end well; what it says."""
    words = line.split()
    start = ["-m", "dharma_tasks"] if words[0] == "dharma" else [str(SCRIPT)]
    rest = words[1:] if words[0] == "dharma" else words[2:]
    return subprocess.run(
        [sys.executable, *start, *rest],
        check=True,
        timeout=DEADLINE,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


def new_ones() -> list[str]:
    """The code in the right column of the page's table."""
    table = PAGE[PAGE.index("| before | now |") :].splitlines()[2:]
    rows = [line.strip("| ").split(" | ") for line in table if line.startswith("|")]
    assert len(rows) > 8
    return [code for _before, now in rows for code in _CODE.findall(now)]


@pytest.mark.long
def test_the_page_does_what_it_says(program: Place) -> None:
    """Each block and each new call of the table, in their order, with a worker."""
    program.start_worker()
    blocks = _BLOCK.findall(PAGE)
    assert len(blocks) > 4

    said, after = {}, {}

    async def everything() -> dict[str, Any]:
        names: dict[str, Any] = {}
        for block in blocks:
            await python(block, names)
        assert names["status"].databases["mongodb"].current == "1.0.0"
        assert names["progress"].databases["mongodb"].done == 1
        for code in new_ones():
            if code.startswith(("dharma ", "python ")):
                if "repair" in code:
                    await names["manager"].rollback("1.0.0", databases="postgresql")
                said[code] = await asyncio.to_thread(command, code)
                after[code] = states(program)
            else:
                await python(code, names)
        return names

    names = asyncio.run(everything())
    assert names["result"].state is names["progress"].state is RunState.DONE
    old = "python scripts/migrate.py"
    both = {"1.0.0": "applied", "1.1.0": "applied"}
    assert after["dharma repair postgresql 1.1.0 --mark-applied --yes"] == both
    assert after[f"{old} migrate --version 1.1.0"] == both
    assert "made2" in said[f"{old} status"]
    assert after[f"{old} rollback 1.0.0 --databases mongodb"] == both | {"1.1.0": "rolled_back"}
    assert states(program, "postgresql") == both
    assert states(program, "elasticsearch") == {"1.0.0": "applied"}


def test_a_worker_with_another_database_is_refused(program: Place) -> None:
    """It is not where the program is: both are named, and neither of them has a journal then."""
    url = program.url("postgresql")
    elsewhere = make_conninfo(url, dbname="postgres")
    program.start_worker(DHARMA_POSTGRESQL_URL=elsewhere)
    manager = DatabaseMigrationManager(postgresql_manager=PostgreSQLManager(url))
    with pytest.raises(Refused) as refused:
        asyncio.run(manager.run_migrations())
    (problem,) = refused.value.problems
    assert "another postgresql than was named: to postgres (" in problem.what
    assert f"and not to {program.settings.namespace} (" in problem.what
    assert "DHARMA_POSTGRESQL_URL" in problem.todo
    for each in (url, elsewhere):
        with psycopg.connect(each) as connection:
            head = f"{program.settings.namespace}_head"
            assert connection.execute("SELECT to_regclass(%s)", [head]).fetchone() == (None,)


def test_inline_and_cancelled(
    program: Place, mongodb: Database[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops in the middle of its batches; the same call goes on, and each is changed once."""
    size = 20_000
    mongodb["users"].insert_many({"n": 0} for _ in range(size))
    add = {
        "type": "update_documents",
        "collection": "users",
        "filter": {},
        "update": {"$inc": {"n": 1}},
    }
    content = {"version": "1.2.0", "operations": [add | {"batch": {"max": 200}}]}
    program.write("mongodb", "003_add", content)
    manager = DatabaseMigrationManager(
        MongoDBManager(program.url("mongodb"), program.settings.namespace), inline=True
    )

    def done() -> int:
        return mongodb["users"].count_documents({"n": 1})

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - others bring it about
                await asyncio.sleep(0.01)

    async def stopped_and_gone_on() -> int:
        task = asyncio.create_task(manager.run_migrations())
        await until(lambda: done() > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        stopped = await asyncio.to_thread(done)
        assert (await manager.run_migrations()).state is RunState.DONE
        return stopped

    assert 0 < asyncio.run(stopped_and_gone_on()) < size
    assert done() == size
    assert mongodb["users"].count_documents({}) == size
