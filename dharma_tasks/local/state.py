"""What is known about the engines between two commands: DIR/state.json."""

from __future__ import annotations

import threading
from pathlib import Path

from pydantic import BaseModel, ValidationError

from dharma_tasks.local.base import EngineError
from dharma_tasks.local.processes import Identity


class Record(BaseModel):
    """One engine. The port and the folder stay for good; the process comes and goes."""

    port: int
    home: Path
    uid: int | None = None
    gid: int | None = None
    version: str | None = None
    pid: int | None = None
    started: str | None = None

    @property
    def process(self) -> Identity | None:
        """The process that was started last, dead or alive."""
        return Identity(self.pid, self.started) if self.pid and self.started else None


class _File(BaseModel):
    engines: dict[str, Record] = {}


class State:
    """The records, read anew each time, because other processes change them too."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing = threading.Lock()

    def read(self) -> dict[str, Record]:
        """All records by the engine's name; none where no engine was ever started."""
        try:
            return _File.model_validate_json(self._path.read_bytes()).engines
        except FileNotFoundError:
            return {}
        except ValidationError as error:
            message = f"{self._path} cannot be read; restore it, or start with another --dir."
            raise EngineError(f"{message}\n{error}") from error

    def write(self, name: str, record: Record) -> None:
        """Replace one record; whoever reads meanwhile sees the old file or the new one."""
        with self._writing:
            records = {**self.read(), name: record}
            draft = self._path.with_suffix(".new")
            draft.write_text(_File(engines=records).model_dump_json(indent=2) + "\n")
            draft.replace(self._path)
