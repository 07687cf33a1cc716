"""What `squawk` says of the SQL: locks that stop a site, and changes that break its clients.

squawk is a program of its own, and optional. It gives advice, so its findings are warnings: what
PostgreSQL's own parser takes is never refused because of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
from collections.abc import Collection, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dharma_tasks.errors import Problem
from dharma_tasks.migration import JSON
from dharma_tasks.operations.postgresql.kinds import SQL_BATCH, SQL_STATEMENTS

__all__ = ["HOW_TO_GET_IT", "findings", "missing", "program"]

HOW_TO_GET_IT = (
    "squawk is not installed, so nobody has looked for dangerous SQL: pip install squawk-cli"
)

_NOT_HERE = frozenset(
    {
        # The session has a lock_timeout, and says so; a long statement is watched and may be ended.
        "require-lock-timeout",
        "require-statement-timeout",
        # A file that fails part way is rolled back, or goes on after its last statement.
        "prefer-robust-stmts",
        # Refused by the check itself, by PostgreSQL's own rules.
        "transaction-nesting",
        "ban-concurrent-index-creation-in-transaction",
    }
)
"""Rules for which the worker that runs the file is the answer."""

_SECONDS = 60
"""How long it may take: 10 ms a file is usual."""


def program() -> str | None:
    """Where squawk is: beside this Python, or on the PATH."""
    return shutil.which("squawk", path=sysconfig.get_path("scripts")) or shutil.which("squawk")


def missing() -> str | None:
    """How to get it, where it is not there."""
    return None if program() else HOW_TO_GET_IT


def findings(
    files: Mapping[str, JSON], folder: Path, exclude: Collection[str] = ()
) -> list[Problem]:
    """Run squawk over the SQL of operations, by the names of their files; nothing without it.

    `folder` is where its own configuration, a `.squawk.toml` there or in a folder above, is
    looked for; `exclude` names rules to leave out besides.
    """
    found = program()
    if found is None:
        return []
    without = _NOT_HERE | set(exclude)
    problems: list[Problem] = []
    for assume, alone in (("--assume-in-transaction", False), ("--no-assume-in-transaction", True)):
        texts = {
            name: _text(operation)
            for name, operation in files.items()
            if (operation["type"] == SQL_STATEMENTS) is alone
        }
        problems += _run([found, assume], texts, folder, without)
    return sorted(problems, key=lambda problem: problem.file)


def _run(
    command: list[str], texts: Mapping[str, str], folder: Path, without: Collection[str]
) -> list[Problem]:
    if not texts:
        return []
    with TemporaryDirectory(prefix="dharma-squawk-") as scratch:
        below = Path(scratch).resolve()  # as squawk will name it
        names = {_write(below / name, text): name for name, text in texts.items()}
        try:
            done = subprocess.run(  # noqa: S603 - our own arguments
                [*command, "--reporter", "json", *names],
                cwd=folder,
                capture_output=True,
                text=True,
                encoding="utf-8",
                timeout=_SECONDS,
                check=False,
            )
            listed = json.loads(done.stdout)
        except (OSError, subprocess.TimeoutExpired) as error:
            return [_failed(str(error))]
        except ValueError:
            return [_failed(done.stderr.strip() or f"it ended with {done.returncode}")]
    return [_problem(each, names) for each in listed if each["rule_name"] not in without]


def _text(operation: JSON) -> str:
    """The file's text as squawk can read it; its lines are the file's."""
    from dharma_tasks.operations.postgresql.parsing import batched  # noqa: PLC0415 - see kinds

    sql: str = operation["sql"]
    return batched(sql).text if operation["type"] == SQL_BATCH else sql


def _write(path: Path, text: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="")
    return str(path)


def _problem(found: Mapping[str, Any], names: Mapping[str, str]) -> Problem:
    what = f"{found['message'].rstrip('.')} (squawk: {found['rule_name']})"
    todo = found["help"] or ""
    if todo and not todo.endswith("."):
        todo += "."
    # Its lines count from 0.
    return Problem(names[found["file"]], f"line {found['line'] + 1}", what, todo)


def _failed(why: str) -> Problem:
    return Problem("", "", f"squawk could not look at the SQL: {why}", "Correct that first.")
