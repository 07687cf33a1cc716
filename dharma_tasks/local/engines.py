"""The four engines of one folder together."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from dharma_tasks.local import processes
from dharma_tasks.local.account import CALLER, Account, shared, unprivileged
from dharma_tasks.local.base import HOST, Engine, EngineError, Place, Report
from dharma_tasks.local.elasticsearch import ElasticsearchEngine
from dharma_tasks.local.mongodb import MongodbEngine
from dharma_tasks.local.postgresql import PostgresqlEngine
from dharma_tasks.local.programs import locked
from dharma_tasks.local.redis import RedisEngine
from dharma_tasks.local.state import Record, State

ENGINES: dict[str, Engine] = {
    engine.name: engine
    for engine in (RedisEngine(), MongodbEngine(), PostgresqlEngine(), ElasticsearchEngine())
}

_LOG_LINES = 15


class _DiedError(EngineError):
    """The engine's process ended while it was starting."""


@dataclass(frozen=True)
class EngineStatus:
    """What `status` shows of one engine."""

    name: str
    state: str
    address: str | None
    pid: int | None
    version: str | None


def _silent(_name: str, _what: str) -> None:
    """Report to nobody."""


class LocalEngines:
    """Four real servers whose data lives in one folder.

    They go on running when this process ends. An engine keeps its port and its data for good, so
    clients keep their URL when it is killed and started again. Commands on the same folder wait
    for each other; different folders are independent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.expanduser().resolve()
        self._state = State(self.folder / "state.json")
        self._choosing = Lock()

    # --- the verbs ---

    def up(self, only: Iterable[str] | None = None, report: Report = _silent) -> dict[str, str]:
        """Start the engines that do not run, all at once, and return `environment()`.

        Returns when every one of them can be used. Where one fails, the others stay up and the
        error tells about each that failed.
        """
        _check_platform()
        names = [_known(name) for name in (ENGINES if only is None else only)]
        self._make_folder()
        with locked(self.folder / "lock"), ThreadPoolExecutor(len(ENGINES)) as pool:
            errors = list(pool.map(lambda name: self._attempt(name, report), names))
        problems = [str(error) for error in errors if error]
        if problems:
            raise EngineError("\n\n".join(problems))
        return self.environment()

    def start(self, name: str) -> None:
        """Start one engine again, on the same port with the same data; harmless when it runs."""
        self.up(only=[name])

    def stop(self, name: str) -> None:
        """End one engine cleanly."""
        self.down(only=[name])

    def down(self, only: Iterable[str] | None = None, report: Report = _silent) -> None:
        """End the engines cleanly and keep their data; harmless when none runs."""
        names = [_known(name) for name in (ENGINES if only is None else only)]
        if not self._state.read():
            return
        with locked(self.folder / "lock"), ThreadPoolExecutor(len(ENGINES)) as pool:
            list(pool.map(lambda name: self._stop(name, report), names))

    def delete(self) -> None:
        """End the engines, and delete all of their data, also what lies outside of the folder.

        PostgreSQL cleanly: without its data nobody would take its shared memory back.
        """
        self.down(only=["postgresql"])
        for name in self._state.read():
            self.kill(name)
        for record in self._state.read().values():
            shutil.rmtree(record.home, ignore_errors=True)
            with suppress(OSError):  # others may still be in it
                record.home.parent.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill(self, name: str) -> None:
        """End one engine and all of its children with SIGKILL, as a power failure would."""
        record = self._record(name)
        if record.process is not None:
            processes.kill(record.process)
        ENGINES[name].clear(self._place(name, record))

    # --- the questions ---

    def pid(self, name: str) -> int | None:
        """The engine's main process; None where it does not run."""
        record = self._state.read().get(_known(name))
        return record.pid if record and processes.alive(record.process) else None

    def environment(self) -> dict[str, str]:
        """The variables that point Dharma Tasks at every engine that was ever up here."""
        records = self._state.read()
        return {
            engine.variable: engine.url(self._place(name, records[name]))
            for name, engine in ENGINES.items()
            if name in records and records[name].version is not None
        }

    def status(self) -> list[EngineStatus]:
        """Each engine, as it is now."""
        records = self._state.read()
        return [_status(name, records.get(name)) for name in ENGINES]

    # --- how it is done ---

    def _make_folder(self) -> None:
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            self.folder.chmod(0o755)  # whatever the umask says: a server may run as someone else
        (self.folder / "logs").mkdir(exist_ok=True)
        (self.folder / ".gitignore").write_text("*\n")

    def _attempt(self, name: str, report: Report) -> EngineError | None:
        try:
            self._start(name, report)
        except EngineError as error:
            report(name, "failed")
            return error
        except Exception as error:  # noqa: BLE001 - one engine's trouble must not hide another's
            report(name, "failed")
            return EngineError(f"{ENGINES[name].title} could not be started: {error!r}")
        return None

    def _start(self, name: str, report: Report) -> None:
        begun = time.monotonic()
        record = self._state.read().get(name)
        if record is not None and processes.alive(record.process):
            with suppress(_DiedError):  # a SIGKILL sent just before takes a moment
                self._wait(name, record)
                report(name, f"is running at {HOST}:{record.port}")
                return
        fresh = record is None or record.version is None
        try:
            record = self._launch(name, self._settle(name, record), report)
        except _DiedError:
            # Between looking for a free port and listening, someone else may have taken it. As
            # long as no client knows the port, another one is as good.
            taken = self._state.read()[name]
            if not fresh or processes.port_is_free(taken.port):
                raise
            record = self._launch(name, self._settle(name, None), report)
        report(name, f"up after {time.monotonic() - begun:.1f} s at {HOST}:{record.port}")

    def _settle(self, name: str, record: Record | None) -> Record:
        """The engine's record, with a port and a folder chosen where it has none."""
        if record is not None:
            return record
        account = unprivileged() if ENGINES[name].refuses_root else CALLER
        with self._choosing:
            taken = {other.port for other in self._state.read().values()}
            record = Record(
                port=processes.free_port(taken),
                home=self._home(name, account),
                uid=account.uid,
                gid=account.gid,
            )
            self._state.write(name, record)
        return record

    def _home(self, name: str, account: Account) -> Path:
        if account.reaches(self.folder):
            return self.folder / name
        digest = hashlib.sha256(str(self.folder).encode()).hexdigest()[:16]
        parent = shared() / "data" / digest
        parent.mkdir(parents=True, exist_ok=True)
        for folder in (parent.parent, parent):
            folder.chmod(0o755)
        return parent / name

    def _launch(self, name: str, record: Record, report: Report) -> Record:
        engine, place = ENGINES[name], self._place(name, record)
        engine.clear(place)
        if not processes.port_is_free(place.port) and record.version is not None:
            message = (
                f"{engine.title}: port {place.port} is used by another program. End that one, or "
                f"change the port in {self.folder / 'state.json'} (the engine's URL changes too)."
            )
            raise EngineError(message)
        report(name, "starting")
        engine.prepare(place, report)
        process = processes.launch(
            engine.command(place),
            folder=place.home,
            log=place.log,
            account=place.account,
            variables=engine.variables(place),
        )
        if process is None:
            raise self._died(name, place)
        record = record.model_copy(update={"pid": process.pid, "started": process.started})
        self._state.write(name, record)  # before anything else: `down` must know of it
        try:
            return self._wait(name, record)
        except EngineError:
            processes.kill(process)  # leave no half of it
            raise

    def _wait(self, name: str, record: Record) -> Record:
        """Return when the engine can be used."""
        engine, place = ENGINES[name], self._place(name, record)

        def greet() -> str:
            # Once more after it: what answered may have been killed while it did.
            version = engine.greet(place) if processes.alive(record.process) else None
            if version is None or not processes.alive(record.process):
                raise self._died(name, place)
            return version

        waiting = Retrying(
            retry=retry_if_exception(lambda error: not isinstance(error, _DiedError)),
            stop=stop_after_delay(engine.patience),
            wait=wait_fixed(0.1),
            reraise=True,
        )
        try:
            version = waiting(greet)
        except _DiedError:
            raise
        except Exception as error:
            message = f"{engine.title} did not answer within {engine.patience:.0f} s: {error}"
            raise EngineError(f"{message}\n{_log_tail(place.log)}") from error
        record = record.model_copy(update={"version": version})
        self._state.write(name, record)
        return record

    def _stop(self, name: str, report: Report) -> None:
        record = self._state.read().get(name)
        if record is None:
            return
        engine = ENGINES[name]
        running = record.process if processes.alive(record.process) else None
        if running is not None:
            report(name, "stopping")
            processes.end(running, engine.stop_signal, engine.patience)
        engine.clear(self._place(name, record))
        self._state.write(name, record.model_copy(update={"pid": None, "started": None}))
        report(name, "stopped" if running is not None else "was not running")

    def _record(self, name: str) -> Record:
        record = self._state.read().get(_known(name))
        if record is None:
            message = f"{ENGINES[name].title} was never started in {self.folder}. Run `up` first."
            raise EngineError(message)
        return record

    def _place(self, name: str, record: Record) -> Place:
        log = self.folder / "logs" / f"{name}.log"
        return Place(record.home, log, record.port, Account(record.uid, record.gid))

    @staticmethod
    def _died(name: str, place: Place) -> _DiedError:
        message = f"{ENGINES[name].title} ended while it was starting.\n{_log_tail(place.log)}"
        return _DiedError(message)


def _known(name: str) -> str:
    if name not in ENGINES:
        message = f"There is no engine {name!r}; there are {', '.join(ENGINES)}."
        raise EngineError(message)
    return name


def _status(name: str, record: Record | None) -> EngineStatus:
    if record is None:
        return EngineStatus(name, "never started", None, None, None)
    address = f"{HOST}:{record.port}"
    if not processes.alive(record.process):
        return EngineStatus(name, "stopped", address, None, record.version)
    listens = not processes.port_is_free(record.port)
    return EngineStatus(
        name, "running" if listens else "starting", address, record.pid, record.version
    )


def _log_tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if log.exists() else []
    advice = [f"The whole log: {log}", "When the cause is gone, run `up` again."]
    if any("error while loading shared libraries" in line for line in lines):
        advice[1] = "Install the system library that it names, then run `up` again."
    return "\n".join([*(f"    {line[:300]}" for line in lines), *advice])


def _check_platform() -> None:
    if sys.platform != "linux":
        message = "The local engines run on Linux only; elsewhere use docker-compose.yml."
        raise EngineError(message)
