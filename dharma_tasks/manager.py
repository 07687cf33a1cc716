"""Migrations from a program: `DatabaseMigrationManager`, and the databases that it is about.

Its event loop is never blocked. Whatever reads a file or waits for a socket runs in a thread, a
short step at a time (see `submit`), and between two steps there is nothing but a timer: so a call
may be cancelled at any time, and holds no thread while a run goes on for hours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from dharma_tasks import submit
from dharma_tasks.conduct import Conduct, Order
from dharma_tasks.database_managers import (
    ElasticsearchManager,
    MongoDBManager,
    PostgreSQLManager,
    secret,
)
from dharma_tasks.errors import Refused, RunCancelled, RunFailed, Unreachable
from dharma_tasks.lease import Leases
from dharma_tasks.limits import Limits
from dharma_tasks.planner import LATEST, Request
from dharma_tasks.reading import Send
from dharma_tasks.records import Direction
from dharma_tasks.redis_client import require_redis
from dharma_tasks.results import Account, RunProgress, RunResult, seen
from dharma_tasks.run import RunState
from dharma_tasks.runs import Runs
from dharma_tasks.settings import Settings, refusal
from dharma_tasks.status import Status, look
from dharma_tasks.stepping import Steps, paced

__all__ = ["DatabaseMigrationManager"]

_NO_LIMITS = Limits()


class DatabaseMigrationManager:
    """Brings databases to a version, and back, by the workers or with `inline` in this process.

    The managers name the databases: without others it is about these, and a worker that is
    connected to another one is refused before anything is planned. Without any, it is about every
    database that has migrations, as the workers are connected. Whatever is not given comes from
    the settings, `DHARMA_…` in the environment or in `.env`: `migrations_dir`, `redis_url`,
    `namespace`. Its calls may run side by side, in any event loop.

    Each call raises, beside what it says itself:

        Refused: something is wrong with the folder, the settings or what was asked for; or a
            worker is connected to another database. Nothing was changed.
        Unreachable: Redis, a database or a worker does not answer.
    """

    def __init__(  # noqa: PLR0913 - one for each thing that may be given
        self,
        mongodb_manager: MongoDBManager | None = None,
        postgresql_manager: PostgreSQLManager | None = None,
        elasticsearch_manager: ElasticsearchManager | None = None,
        migrations_dir: str | Path | None = None,
        *,
        redis_url: str | SecretStr | None = None,
        namespace: str | None = None,
        inline: bool = False,
    ) -> None:
        managers = (mongodb_manager, postgresql_manager, elasticsearch_manager)
        self._named = tuple(each for each in managers if each is not None)
        self._inline = inline
        given: dict[str, object | None] = {
            "redis_url": None if redis_url is None else secret(redis_url),
            "namespace": namespace,
            "migrations_dir": migrations_dir,
        }
        for each in self._named:
            given |= each.settings()
        self._given = {name: value for name, value in given.items() if value is not None}

    def __repr__(self) -> str:
        named = ", ".join(repr(each) for each in self._named)
        return f"{type(self).__name__}({named})"

    async def run_migrations(  # noqa: PLR0913 - one for each option
        self,
        target: str = LATEST,
        *,
        databases: str | Iterable[str] | None = None,
        allow_out_of_order: bool = False,
        allow_major: bool = False,
        limits: Limits = _NO_LIMITS,
        values: Mapping[str, Any] | None = None,
        by: str | None = None,
        wait: bool = True,
    ) -> RunResult:
        """Apply everything up to `target`, as `dharma submit` with options of these names.

        An equal run that is active is joined, another one is waited for. A call that is cancelled
        stops to wait, and the run goes on; `inline` it stops at the end of its batch, and the same
        call goes on with it. `values` stand for `{"$value": …}` in the files, `by` is who asks,
        for the audit trail (USER@HOST). Without `wait` it returns once the run is submitted, and
        `watch` shows how it goes.

        Raises:
            RunFailed: a migration failed. What is applied stays; the message says what is wrong.
            RunCancelled: a person has cancelled the run.
        """
        request = Request(
            target=target,
            databases=_names(databases),
            allow_out_of_order=allow_out_of_order,
            allow_major=allow_major,
            limits=limits,
        )
        return await self._carry_out(request, values, by, wait=wait)

    async def rollback(  # noqa: PLR0913 - one for each option
        self,
        version: str,
        *,
        databases: str | Iterable[str] | None = None,
        accept_data_loss: bool = False,
        limits: Limits = _NO_LIMITS,
        values: Mapping[str, Any] | None = None,
        by: str | None = None,
        wait: bool = True,
    ) -> RunResult:
        """Undo everything above `version`, as `dharma rollback` with options of these names.

        The rest is as of `run_migrations`. It asks nobody first.
        """
        request = Request(
            target=version,
            databases=_names(databases),
            direction=Direction.BACK,
            accept_data_loss=accept_data_loss,
            limits=limits,
        )
        return await self._carry_out(request, values, by, wait=wait)

    async def get_migration_status(self) -> Status:
        """What is applied, what is pending and what runs, in all databases.

        What cannot be read is said in the result. Raises only `Refused`, for the settings.
        """
        return await asyncio.to_thread(self._look)

    async def watch(self, run_id: str) -> AsyncGenerator[RunProgress, None]:
        """How a run stands, about five times a second until it is over; then a last time.

        Who stops to iterate changes nothing of the run.

        Raises:
            Unreachable: Redis does not know the run (any more).
        """
        found = self._watch(run_id)
        steps = Steps[RunProgress](found, found.close)
        try:
            async for progress in paced(steps):
                yield progress
        finally:
            steps.close_soon()

    # -- in threads -----------------------------------------------------------------------

    def _settings(self) -> Settings:
        try:
            return Settings.model_validate(self._given)
        except ValidationError as error:
            raise refusal(error) from None

    def _look(self) -> Status:
        settings = self._settings()
        return look(settings, None, _sender(settings))

    def _watch(self, run: str) -> Generator[RunProgress | None, None, None]:
        settings = self._settings()
        redis = require_redis(settings)
        try:
            leases = Leases(redis, settings.namespace, settings.lease_seconds)
            steps = submit.watch(Runs(redis, settings.namespace), run, submit.Patience(None))
            for step in steps:
                if isinstance(step, submit.Watched):
                    yield seen(step, leases)
                elif step is None:
                    yield None
        finally:
            redis.close()

    async def _carry_out(
        self, request: Request, values: Mapping[str, Any] | None, by: str | None, *, wait: bool
    ) -> RunResult:
        if self._inline and not wait:
            msg = "wait=False and inline=True exclude each other: who would do the work?"
            raise ValueError(msg)
        began, account = time.monotonic(), Account()
        settings = await asyncio.to_thread(self._settings)
        who = await asyncio.to_thread(submit.who_asks, by)
        order = Order(
            request=request,
            migrations=None,
            given=dict(values or {}),
            by=who,
            wait=wait,
            inline=self._inline,
            named=tuple(each.database for each in self._named),
        )
        conduct = Conduct(order, settings, _sender(settings))
        steps = Steps[submit.Seen](conduct.steps(), conduct.close)
        try:
            async for step in paced(steps):
                account.take(step)
            if account.run:
                account.plan = await asyncio.to_thread(conduct.plan, account.run)
        finally:
            closed = steps.close_soon()
            if self._inline:  # also where this is cancelled: a batch comes to its end
                await asyncio.shield(closed)
        account.seconds = time.monotonic() - began
        return _judged(account)


def _judged(account: Account) -> RunResult:
    """What is to be returned, or raised."""
    if account.run is None:
        account.state = RunState.DONE  # there are no migrations
    result = account.result()
    match result.state:
        case RunState.REFUSED:
            raise Refused(result.problems)
        case RunState.UNREACHABLE:
            raise Unreachable("\n".join(str(problem) for problem in result.problems))
        case RunState.FAILED:
            raise RunFailed(result)
        case RunState.CANCELLED:
            raise RunCancelled(result)
    return result


def _sender(settings: Settings) -> Send:
    """Send through Celery, which is imported only here, and only when there is something."""

    def send(chains: Any) -> None:
        from dharma_tasks import dispatch  # noqa: PLC0415

        dispatch.sender(settings)(chains)

    return send


def _names(databases: str | Iterable[str] | None) -> tuple[str, ...] | None:
    if isinstance(databases, str):
        return (databases,)
    return None if databases is None else tuple(dict.fromkeys(databases))
