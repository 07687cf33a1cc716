"""Starting, recognising and ending processes that outlive the command that started them."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dharma_tasks.local.account import Account
from dharma_tasks.local.base import HOST

_FIRST_PORT = 20_000
_children: set[int] = set()
"""Pids of engines started by this very process: someone must collect them when they end."""


@dataclass(frozen=True)
class Identity:
    """One process and no later one with the same number.

    `started` is the boot's id and the start in clock ticks since then, both from the kernel.
    Unlike a time of day it stays the same when the machine's clock is set.
    """

    pid: int
    started: str


def identify(pid: int) -> Identity | None:
    """The process that has this pid now; None where there is none, or only its remains.

    Remains stay in the process table until a parent collects them, and in a container the first
    process often never does. They hold no port and no file once the last thread is gone.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the name in parentheses, which may itself hold spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    state, threads, ticks = fields[0], int(fields[17]), fields[19]
    return None if state in "ZX" and threads <= 1 else Identity(pid, f"{boot}/{ticks}")


def alive(process: Identity | None) -> bool:
    """Whether exactly this process still runs."""
    if process is None:
        return False
    if process.pid in _children:
        _collect(process.pid)
    return identify(process.pid) == process


def _collect(child: int) -> None:
    try:
        ended, _ = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        ended = child
    if ended:
        _children.discard(child)


def launch(
    command: list[str], *, folder: Path, log: Path, account: Account, variables: Mapping[str, str]
) -> Identity | None:
    """Start a process in a session of its own, so that Ctrl-C and logging out do not end it.

    None where it ended at once; the log says why.
    """
    environment = {"PATH": os.defpath, "LC_ALL": "C.UTF-8", "HOME": str(folder), **variables}
    with log.open("ab") as output:
        child = subprocess.Popen(  # noqa: S603 - our own command line, no shell
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            user=account.uid,
            group=account.gid,
            extra_groups=None if account.uid is None else [],
        )
    _children.add(child.pid)
    child.returncode = 0  # it is to outlive us: without this, Popen warns that it still runs
    return identify(child.pid)


def end(process: Identity, how: signal.Signals, patience: float) -> None:
    """Ask a process to end, and after `patience` seconds end it and all of its children."""
    family = _family(process)
    _send(process, how)
    _send(process, signal.SIGCONT)  # a frozen process gets no other signal
    if not _wait_gone(family, patience):
        _kill(family)


def kill(process: Identity) -> None:
    """End a process and all of its children with SIGKILL, as a power failure would."""
    _send(process, signal.SIGSTOP)  # so that it starts no more children while they are counted
    _kill(_family(process))


def kill_leftovers(program: Path, folder: Path) -> None:
    """End processes that run exactly this program inside exactly this folder.

    For the children of a main process that was killed alone. The folder holds one server's data
    and nothing else runs that program in it, so these are ours whatever they are called.
    """
    found = [each.pid for each in psutil.process_iter() if _runs(each, program, folder)]
    _kill(_identities(found))


def _runs(process: psutil.Process, program: Path, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder) and process.exe() == str(program)
    except psutil.Error:  # gone meanwhile, or another user's
        return False


def _family(process: Identity) -> list[Identity]:
    """The process, then its children and theirs; empty where it is gone."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    family = [process, *_identities(child.pid for child in children)]
    return family if alive(process) else []


def _identities(pids: Iterable[int]) -> list[Identity]:
    return [found for pid in pids if (found := identify(pid))]


def _kill(family: list[Identity]) -> None:
    for member in family:
        _send(member, signal.SIGKILL)
    _wait_gone(family, patience=10)


def _send(process: Identity, how: signal.Signals) -> None:
    if alive(process):
        with suppress(ProcessLookupError):
            os.kill(process.pid, how)


def _wait_gone(family: list[Identity], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while any([alive(member) for member in family]):  # noqa: C419 - each is to be collected
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def free_port(taken: set[int]) -> int:
    """A port on which nothing listens.

    Taken from below the range that the kernel hands out for outgoing connections: an engine that
    is down for a moment must find its port free when it comes back.
    """
    candidates = range(_FIRST_PORT, max(_outgoing_ports_start(), _FIRST_PORT + 2_000))
    for _ in range(200):
        port = random.choice(candidates)  # noqa: S311 - nothing secret in it
        if port not in taken and port_is_free(port):
            return port
    message = f"No free port found from {candidates.start} to {candidates.stop - 1}"
    raise OSError(message)


def _outgoing_ports_start() -> int:
    with suppress(OSError, ValueError):
        return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    return 32_768


def port_is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        # As servers do: connections that are still winding down do not keep the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
