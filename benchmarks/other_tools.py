"""The same SQL files by a loop of psycopg, by alembic and by yoyo: each as its manual says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg

from benchmarks.rounds import timed

_ALEMBIC_INI = """\
[alembic]
script_location = {folder}
path_separator = os
"""

_ALEMBIC_ENV = """\
import os

from alembic import context
from sqlalchemy import create_engine, pool

engine = create_engine(os.environ["BENCH_URL"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()
"""

_ALEMBIC_REVISION = """\
from pathlib import Path

from alembic import op

revision = {revision!r}
down_revision = {down!r}


def upgrade():
    # The driver's own cursor: SQLAlchemy would prepare the text, which only one statement can be.
    op.get_bind().connection.cursor().execute(Path({file!r}).read_text())
"""


def write(folder: Path, texts: Sequence[str]) -> list[Path]:
    """The files as yoyo, and most tools, want them."""
    folder.mkdir(parents=True)
    files = []
    for number, text in enumerate(texts, start=1):
        files.append(folder / f"{number:04}_migration.sql")
        files[-1].write_text(text)
    return files


def write_alembic(folder: Path, files: Sequence[Path]) -> Path:
    """A revision for each of the files; returns the configuration."""
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(_ALEMBIC_ENV)
    previous = None
    for file in files:
        revision = file.name[:4]
        text = _ALEMBIC_REVISION.format(revision=revision, down=previous, file=str(file))
        (folder / "versions" / f"{revision}.py").write_text(text)
        previous = revision
    configuration = folder / "alembic.ini"
    configuration.write_text(_ALEMBIC_INI.format(folder=folder))
    return configuration


def loop(url: str, files: Sequence[Path]) -> float:
    """One transaction, with one row in a journal, for each."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE journal (name text PRIMARY KEY, at timestamptz)")

        def work() -> None:
            for path in files:
                with connection.transaction():
                    connection.execute(path.read_text())
                    connection.execute("INSERT INTO journal VALUES (%s, now())", [path.name])

        return timed(work)


def alembic(url: str, configuration: Path) -> float:
    """The whole command, with a transaction for each revision."""
    return _run(["alembic", "-c", str(configuration), "upgrade", "head"], {"BENCH_URL": _dsn(url)})


def yoyo(url: str, folder: Path) -> float:
    """The whole command."""
    arguments = ["yoyo", "apply", "--batch", "--no-config-file", "--database", _dsn(url)]
    return _run([*arguments, str(folder)], {})


def _run(arguments: list[str], more: dict[str, str]) -> float:
    command = [sys.executable, "-m", *arguments]
    return timed(
        lambda: subprocess.run(
            command,
            env=os.environ | more,
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )


def _dsn(url: str) -> str:
    """SQLAlchemy's way, and yoyo's, to name psycopg 3."""
    return url.replace("postgresql://", "postgresql+psycopg://", 1)
