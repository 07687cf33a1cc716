"""Who this process is, and whether another one still lives (Law 6)."""

from __future__ import annotations

import os
import socket
from functools import cache
from pathlib import Path
from types import ModuleType

from dharma_tasks.migration import JSON
from dharma_tasks.records import Owner

_START_TIME = 19
"""Index of the start time in /proc/PID/stat after the command's name, see proc(5)."""


@cache
def node() -> str:
    """The host's name."""
    return socket.gethostname()


@cache
def boot() -> str:
    """What a pid is unique in: this boot of the kernel, and this pid namespace (a container)."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return str(_psutil().boot_time())
    return f"{boot_id}/{namespace}"


def started(pid: int) -> float | None:
    """When process `pid` began, in a clock of its own; None when there is no such process.

    On Linux in the kernel's ticks, since the wall clock behind psutil's value may be set.
    A zombie counts as dead: it works no more, only its parent has not noticed.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except ProcessLookupError:
        return None
    else:
        return None if fields[0] in "ZX" else float(fields[_START_TIME])
    psutil = _psutil()
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def _psutil() -> ModuleType:
    """Where there is no /proc; elsewhere no command waits for its import."""
    import psutil  # noqa: PLC0415

    return psutil


@cache
def _this(pid: int) -> Owner:
    return Owner(worker="", node=node(), boot=boot(), pid=pid, started=started(pid) or 0)


def owner(worker: str, resources: JSON) -> Owner:
    """Describe this process, as `worker`, with what it holds open in a database."""
    return _this(os.getpid()).model_copy(update={"worker": worker, "resources": resources})


def is_dead(other: Owner) -> bool:
    """Whether `other` was a process of this node that is gone. False where we can't tell.

    A host name alone proves nothing: two machines, or two containers of one, may share it. So
    the pid counts only within the same boot and pid namespace; otherwise the lease runs out.
    """
    here = other.node == node() and other.boot == boot()
    return here and started(other.pid) != other.started
