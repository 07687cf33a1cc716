"""Questions: what is shown before, who is asked, and what the answers end with."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_folder import Migrations
from fake_run import without_settings
from fakeredis import FakeRedis
from test_reversal import COLLECTION, REMOVE, record, survey

from dharma_tasks import replies
from dharma_tasks.cli import common, main
from dharma_tasks.cli import rollback as command
from dharma_tasks.errors import Unreachable
from dharma_tasks.loader import load
from dharma_tasks.records import Survey
from dharma_tasks.settings import Settings

NOBODY = "redis://127.0.0.1:1"
"""Nothing listens there."""
Rollback = Callable[..., Result]


@pytest.fixture
def folder(migrations: Migrations) -> Migrations:
    """Two migrations of mongodb."""
    migrations.write("mongodb/001_users.json", "1.0.0", name="users", operations=[COLLECTION])
    migrations.write("mongodb/002_more.json", "1.1.0", name="more", operations=[COLLECTION])
    return migrations


@pytest.fixture
def rollback(monkeypatch: pytest.MonkeyPatch, folder: Migrations) -> Rollback:
    """`dharma rollback` on a terminal, where everything is applied and no Redis is."""
    without_settings(monkeypatch)
    settings = Settings(_env_file=None, migrations_dir=folder.path, redis_url=NOBODY)  # type: ignore[call-arg]
    monkeypatch.setattr(common, "read", lambda: settings)
    monkeypatch.setattr(common, "on_terminal", lambda: True)

    def journals(*_: object) -> dict[str, Survey]:
        return {"mongodb": survey("mongodb", *map(record, load(folder.path).migrations))}

    monkeypatch.setattr(command, "surveys", journals)
    return lambda *arguments, answer="n\n": CliRunner().invoke(
        main, ["rollback", *arguments], input=answer
    )


def test_what_would_be_undone_is_shown_first(rollback: Rollback) -> None:
    """Versions and names, newest first; a no changes nothing, and no answer is a no."""
    for answer in ("n\n", ""):
        result = rollback("0.0.0", answer=answer)
        assert result.exit_code == 2
        assert result.stderr.startswith(
            "mongodb: 2 migrations to undo\n  1.1.0 more\n  1.0.0 users\n"
            "Undo everything above 0.0.0 in every database? [y/N]: "
        )
        assert result.stderr.endswith("Nothing was changed.\n")
    assert rollback("0.0.0", answer="y\n").exit_code == 4, "there is no Redis"


def test_nobody_is_asked_about_nothing(rollback: Rollback) -> None:
    """Where nothing is applied above the version, the run itself says so."""
    result = rollback("1.1.0")
    assert (result.exit_code, "[y/N]" in result.stderr) == (4, False), "there is no Redis"


def test_nobody_is_asked_about_what_is_refused(rollback: Rollback, folder: Migrations) -> None:
    """It is said at once, as a document where one is wanted."""
    folder.write("mongodb/002_more.json", "1.1.0", name="more", operations=[REMOVE])
    result = rollback("1.0.0")
    assert result.exit_code == 2
    assert "1.1.0 cannot be undone" in result.stderr
    assert "[y/N]" not in result.stderr
    assert '"state": "refused"' in rollback("1.0.0", "--json").stdout


def test_journals_that_cannot_be_read(rollback: Rollback, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the question is all there is; the workers may reach them."""

    def unreachable(*_: object) -> dict[str, Survey]:
        msg = "no"
        raise Unreachable(msg)

    monkeypatch.setattr(command, "surveys", unreachable)
    assert rollback("1.0.0").stderr.startswith("Undo everything above 1.0.0 in every database?")


@pytest.mark.parametrize(("key", "status"), [(b"\x03", 130), (b"\x04", 2), (b"no\r", 2)])
def test_keys(folder: Migrations, tmp_path: Path, key: bytes, status: int) -> None:
    """On a real terminal Ctrl-C ends it as a shell would, Ctrl-D is a no."""
    environment = {
        **{name: text for name, text in os.environ.items() if not name.startswith("DHARMA_")},
        "DHARMA_REDIS_URL": NOBODY,
        "DHARMA_MIGRATIONS_DIR": str(folder.path),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    child, terminal = pty.fork()
    if child == 0:
        try:
            os.chdir(tmp_path)
            command = [sys.executable, "-m", "dharma_tasks", "rollback", "1.0.0"]
            os.execve(sys.executable, command, environment)  # noqa: S606
        finally:
            os._exit(127)
    ended = (0, 0)
    try:
        shown = b""
        while b"[y/N]: " not in shown:
            shown += os.read(terminal, 1024)
        deadline = time.monotonic() + 20
        while not ended[0] and time.monotonic() < deadline:
            # A key that comes while readline gets ready is lost: whoever sits there hits it again.
            os.write(terminal, key)
            until = time.monotonic() + 5  # so long it may take to end: a second one would kill it
            while not ended[0] and time.monotonic() < until:
                time.sleep(0.02)
                ended = os.waitpid(child, os.WNOHANG)
    finally:
        if not ended[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(terminal)
    assert ended[0], "it still waits"
    assert os.waitstatus_to_exitcode(ended[1]) == status


def test_an_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for again and again, until there is one or the time is over."""
    redis = FakeRedis(decode_responses=True)
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        redis.rpush("reply", "here")

    monkeypatch.setattr(replies.time, "sleep", sleep)
    until = replies.time.monotonic() + 10
    assert replies.fetch(redis, "reply", until) == "here"
    assert replies.fetch(redis, "reply", 0) is None
    assert len(pauses) == 1
