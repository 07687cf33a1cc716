"""Accounts of the shared engines that have to log in; whoever else comes there need not."""

from __future__ import annotations

import time
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

_GROUP = "password_wanted"
_LINE = f"host all +{_GROUP} all scram-sha-256\n"


def make_role(admin: str, name: str, password: str) -> None:
    """Make a role of PostgreSQL that may log in with its password only, and has no rights.

    `admin` connects as a superuser. The server asks everybody else for no password.
    """
    with psycopg.connect(admin, autocommit=True) as connection:
        found = connection.execute("SHOW hba_file").fetchone()
        assert found is not None
        rules = Path(str(found[0]))
        if not rules.read_text().startswith(_LINE):
            connection.execute(f"CREATE ROLE {_GROUP} NOLOGIN")
            rules.write_text(_LINE + rules.read_text())
            connection.execute("SELECT pg_reload_conf()")
        made = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE {}")
        connection.execute(
            made.format(sql.Identifier(name), sql.Literal(password), sql.Identifier(_GROUP))
        )
    _wait_until_asked(make_conninfo(admin, user=name, password="wrong"))


def drop_role(admin: str, name: str) -> None:
    """Remove it, with what it owns in this database."""
    with psycopg.connect(admin, autocommit=True) as connection:
        role = sql.Identifier(name)
        connection.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
        connection.execute(sql.SQL("DROP ROLE {}").format(role))


def _wait_until_asked(conninfo: str) -> None:
    """The server reads its rules anew a moment after it is told to."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        try:
            psycopg.connect(conninfo).close()
        except psycopg.OperationalError:
            return
        time.sleep(0.05)
    raise AssertionError("no password is asked for")
