"""The status, again and again: what Redis says now, beside the journals as they were heard last."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dharma_tasks.reading import Answers, Send
from dharma_tasks.records import Survey
from dharma_tasks.report import Row
from dharma_tasks.settings import Settings
from dharma_tasks.status import DatabaseStatus, Files, Pulse, Status, assemble, read_files
from dharma_tasks.watching.known import Known
from dharma_tasks.watching.sight import Seen, Sight

__all__ = ["Moment", "Statuses"]

_FIRST_SECONDS = 3
"""How long the first look waits for the journals."""
_UNREAD = "its journal has not been read yet"


@dataclass(frozen=True)
class Moment:
    """The status at one moment; and of databases that an open run has, what `submit` would show."""

    at: datetime
    status: Status
    rows: Mapping[str, Row] = field(default_factory=dict)


class Statuses:
    """A status for each look. A database that does not answer holds up nothing but its own part."""

    def __init__(self, settings: Settings, folder: Path | None, send: Send) -> None:
        """`folder` as in `status.look`; `send` asks workers."""
        self._settings = settings
        self._folder = _Folder(settings, folder)
        self._sight = Sight(settings, send)
        self._patience = _FIRST_SECONDS

    def look(self) -> Moment:
        """Read Redis, and show beside it what is known of the journals."""
        seen = self._sight.look()
        until = time.monotonic() + self._patience
        while self._unread(seen) and time.monotonic() < until:
            time.sleep(0.05)
            seen = self._sight.look()
        self._patience = 0
        lost = seen.pulse.error is not None
        answers = Answers(dict(_found(seen.known)), dict(self._errors(seen)))
        files = self._folder.files(answers.found.values())
        # What Redis said before it was lost is not what is now.
        pulse = Pulse(error=seen.pulse.error) if lost else seen.pulse
        status = assemble(answers, files.migrations, pulse)
        databases = {name: _dated(name, found, seen) for name, found in status.databases.items()}
        return Moment(
            datetime.fromtimestamp(seen.now, UTC),
            status.model_copy(update={"databases": databases, "problems": files.problems}),
            {} if lost else _at_work(seen),
        )

    def _unread(self, seen: Seen) -> list[str]:
        """The databases that can be asked, and have not answered yet."""
        return [
            name
            for name, known in seen.known.items()
            if known.survey is None
            and known.error is None
            and (self._settings.url(name) or name in seen.pulse.served)
        ]

    def _errors(self, seen: Seen) -> Iterator[tuple[str, str]]:
        for name, known in seen.known.items():
            if known.error is not None:
                yield name, known.error
        yield from ((name, _UNREAD) for name in self._unread(seen))


def _at_work(seen: Seen) -> dict[str, Row]:
    """What open runs do; what has become of the last ones, the journals say."""
    return {
        name: row
        for name, row in seen.rows().items()
        if not seen.submissions[name].snapshot.state.over
    }


def _found(known: Mapping[str, Known]) -> Iterator[tuple[str, Survey]]:
    for name, each in known.items():
        if each.survey is not None:
            yield name, each.survey


def _dated(name: str, found: DatabaseStatus, seen: Seen) -> DatabaseStatus:
    """Say from when it is, where it cannot be read now, or was read before its run has ended."""
    known = seen.known[name]
    late = found.run is None and (known.at or 0) < seen.busy.get(name, 0)
    if known.at is None or (known.error is None and not late):
        return found
    return found.model_copy(update={"as_of": datetime.fromtimestamp(known.at, UTC)})


class _Folder:
    """The folder of migrations, which is read again when a file in it is another one."""

    def __init__(self, settings: Settings, folder: Path | None) -> None:
        self._settings = settings
        self._path = folder or settings.migrations_dir
        self._mark: object = None
        self._files = Files()

    def files(self, surveys: Iterable[Survey]) -> Files:
        """What is in it now; what is wrong in it may be in what the journals have as applied."""
        mark = sorted(self._marks())
        if mark != self._mark or self._files.problems:
            self._mark = mark
            self._files = read_files(self._settings, self._path, surveys)
        return self._files

    def _marks(self) -> Iterator[tuple[str, int, int]]:
        """Of each file what changes with it; one that is gone, or leads nowhere, has none."""
        for path in self._path.rglob("*"):
            with suppress(OSError):
                stat = path.stat()
                yield str(path), stat.st_mtime_ns, stat.st_size
