"""A program as users write it: `make lint` checks that every name keeps its type."""

from __future__ import annotations

import asyncio
from typing import assert_type

from dharma_tasks import (
    DatabaseMigrationManager,
    DharmaError,
    ElasticsearchManager,
    Limits,
    MongoDBManager,
    PostgreSQLManager,
    Refused,
    RunFailed,
    RunProgress,
    RunResult,
    RunState,
    Status,
    Unreachable,
    Window,
)


async def main() -> None:
    """Every call that there is."""
    manager = DatabaseMigrationManager(
        mongodb_manager=MongoDBManager("mongodb://localhost", "app"),
        postgresql_manager=PostgreSQLManager("postgresql://localhost/app"),
        elasticsearch_manager=ElasticsearchManager(["http://localhost:9200"], username="me"),
        migrations_dir="migrations",
        redis_url="redis://localhost",
    )
    window = Window.parse("01:00-05:00", "Europe/Berlin")
    try:
        result = await manager.run_migrations("latest", limits=Limits(window=window))
        assert_type(result, RunResult)
        assert_type(result.databases["mongodb"].versions, list[str])
        assert_type(await manager.rollback("1.0.0", databases=["mongodb"]), RunResult)
    except Refused as refused:
        assert_type(refused.problems[0].file, str)
    except RunFailed as failed:
        assert_type(failed.result, RunResult)
        assert_type(failed.result.failures[0].error, str)
    except (Unreachable, DharmaError):
        raise
    status = await manager.get_migration_status()
    assert_type(status, Status)
    assert_type(status.databases["mongodb"].current, str | None)
    started = await manager.run_migrations(wait=False, values={"REPLICAS": 2}, by="me")
    if started.run is not None:
        async for progress in manager.watch(started.run):
            assert_type(progress, RunProgress)
            assert_type(progress.state, RunState)
            assert_type(progress.databases["mongodb"].done, int)


if __name__ == "__main__":
    asyncio.run(main())
