"""Errors say what, where and what to do next: each place in the code that makes one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from fake_run import without_settings

import dharma_tasks
from dharma_tasks.cli import common, main
from dharma_tasks.databases.elasticsearch import ElasticsearchDatabase
from dharma_tasks.databases.mongodb import MongodbDatabase
from dharma_tasks.databases.postgresql import PostgresqlDatabase
from dharma_tasks.errors import OperationFailed, Problem, Refused
from dharma_tasks.redis_client import connect_redis
from dharma_tasks.settings import Settings

PACKAGE = Path(dharma_tasks.__file__).parent
WAY_OUT = {
    # What is said there says what to do itself.
    "cli/asking.py: busy(name, run)",
    "cli/declaring.py: why",
    "cli/unlock.py: answer.removeprefix(REFUSED)",
}
"""Problems with an empty `todo`: the file, and their `what`."""


def made(*names: str) -> Iterator[tuple[str, ast.Call]]:
    """Each place in the package that calls one of `names`, with its file."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
                name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
                if name in names:
                    yield path.relative_to(PACKAGE).as_posix(), node


def test_every_problem_has_a_way_out() -> None:
    """`Problem("", "", what, "")` tells nobody what to do; who makes one anyway is listed here."""
    found = list(made("Problem"))
    assert len(found) > 100
    without = {
        f"{path}: {ast.unparse(node.args[2])}"
        for path, node in found
        if len(node.args) == 4 and ast.unparse(node.args[3]) == "''"
    }
    assert without == WAY_OUT


def test_every_lasting_error_has_a_way_out() -> None:
    """So has what an operation finds for itself."""
    found = list(made("OperationFailed"))
    assert len(found) > 60
    without = {path for path, node in found if len(node.args) + len(node.keywords) < 2}
    assert without == {"side_by_side.py"}  # a range's error, which has its own


def test_what_an_operation_finds_is_told_whole() -> None:
    """Both halves are in the message of the exception, which is what travels."""
    assert str(OperationFailed("there is no index a", "Correct it")) == (
        "there is no index a. Correct it"
    )
    assert str(Problem("mongodb/001_a.json", "line 2, name", "is empty", "Write one.")) == (
        "mongodb/001_a.json, line 2, name: is empty. Write one."
    )


def settings(**given: str) -> Settings:
    """With these, and nothing of the environment."""
    return Settings(_env_file=None, **cast("Any", given))


@pytest.mark.parametrize(
    "connect",
    [
        lambda: connect_redis(settings(redis_url="redis://a:geheim@[::1")),
        lambda: connect_redis(settings(redis_url="geheim")),
        lambda: connect_redis(settings(redis_url="redis://h:geheim/0")),
        lambda: MongodbDatabase(settings(mongodb_url="mongodb://a:geheim@[::1")).handle,
        lambda: MongodbDatabase(settings(mongodb_url="geheim")).handle,
        PostgresqlDatabase(settings(postgresql_url="geheim")).journal.survey,
        lambda: ElasticsearchDatabase(settings(elasticsearch_url="geheim")),
    ],
)
def test_urls_that_are_none(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused with the setting and the form that it should have; what is wrong is never shown."""
    without_settings(monkeypatch)
    with pytest.raises(Refused) as refused:
        connect()
    (problem,) = refused.value.problems
    assert "_URL" in str(problem)
    assert "Write " in problem.todo
    assert "geheim" not in str(problem)
    assert refused.value.__cause__ is None


def test_no_such_command() -> None:
    """The one that may be meant, or all of them."""
    near = CliRunner().invoke(main, ["statsu"])
    assert (near.exit_code, "Did you mean 'status'?" in near.stderr) == (2, True)
    far = CliRunner().invoke(main, ["xyz"])
    assert "Known commands: alive, baseline" in far.stderr


def test_an_error_that_nobody_has_foreseen() -> None:
    """It is told by its type and message, and where to see more; there is no trace by default."""
    assert common.message_of(KeyError("a"), None).splitlines() == [
        "KeyError: 'a'",
        "(DHARMA_LOG_LEVEL=DEBUG shows where this comes from)",
    ]
    with pytest.raises(Refused) as raised:
        connect_redis(settings(redis_url="x"))
    seen = cast("Settings", SimpleNamespace(log_level="DEBUG"))
    error = RuntimeError("b").with_traceback(raised.value.__traceback__)
    assert "redis_client.py" in common.message_of(error, seen)
