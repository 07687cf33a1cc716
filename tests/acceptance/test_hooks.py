"""The hooks of workers/hooks/ and the health checks, run for real against workers and Redis."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import hooks
import pytest
from deployment import BIN, IMAGE, WORKER, pod
from gate import WAITING, Gate
from place import Place, wait_for

from dharma_tasks.submit import who_asks

NOWHERE = "redis://127.0.0.1:1/0"
"""A Redis that is away: nobody listens there."""


def write(place: Place, number: int, sql: str) -> None:
    """Write a migration in PostgreSQL."""
    place.write("postgresql", f"{number:03}_step{number}", {"version": f"1.{number}.0"}, sql)


@pytest.mark.long
def test_each_hook_does_as_submit_does(place: Place) -> None:
    """0 where it is applied, and the history names who the hook's platform says it was, and where.

    A failed migration is 1, with the database's message; a refused folder is 2. They have Redis'
    URL and no database's.
    """
    place.start_worker("-Q", "postgresql")
    expected = {}
    for number, make in enumerate(hooks.EVERY, start=1):
        write(place, number, f"CREATE TABLE step{number} (id int);")
        hook = make(place)
        status, err = hooks.ended(hooks.start(place, hook))
        assert status == 0, f"{make.__name__}: {err}"
        expected[f"1.{number}.0"] = who_asks(hook.by)
    entries = json.loads(place.dharma("history", "postgresql", "--json").stdout)["entries"]
    assert {e["version"]: e["by"] for e in entries if e["event"] == "applied"} == expected
    last = len(hooks.EVERY) + 1
    write(place, last, "SELECT 1 / 0;")
    together = {make.__name__: hooks.start(place, make(place)) for make in hooks.SCRIPTS}
    for name, process in together.items():
        status, err = hooks.ended(process)
        assert (status, "division by zero" in err) == (1, True), f"{name}: {err}"
    (place.folder / "postgresql" / f"{last:03}_step{last}.sql").unlink()
    status, err = hooks.ended(hooks.start(place, hooks.shell(place)))
    assert (status, "nothing was changed" in err) == (2, True), err


@pytest.mark.long
def test_a_shell_hook_that_is_ended(place: Place) -> None:
    """The signal reaches submit, which stops waiting: 3, and the run goes on.

    The same again joins the run and ends with it. Without Redis it is 4.
    """
    gate = Gate(place)
    place.start_worker("-Q", "postgresql")
    write(place, 1, WAITING)
    hook = hooks.shell(place)
    first = hooks.start(place, hook)
    wait_for(gate.backend, "the statement")
    first.send_signal(signal.SIGINT)
    status, err = hooks.ended(first)
    assert (status, "goes on" in err) == (3, True), err
    assert gate.backend()
    gate.open()
    assert hooks.ended(hooks.start(place, hook))[0] == 0
    assert hooks.ended(hooks.start(place, hook, DHARMA_REDIS_URL=NOWHERE))[0] == 4


def checks() -> dict[str, tuple[str, ...]]:
    """By name the commands of workers/ that ask whether a worker is well."""
    (of_image,) = re.findall(r"^HEALTHCHECK .*CMD (\[.*\])$", IMAGE.read_text(), re.MULTILINE)
    (container,) = pod(WORKER)["containers"]
    commands = {"image": json.loads(of_image)} | {
        name: container[f"{name}Probe"]["exec"]["command"] for name in ("readiness", "liveness")
    }
    return {name: tuple(command) for name, command in commands.items()}


@pytest.mark.long
def test_health_checks(place: Place) -> None:
    """They tell a worker that works from one that hangs, and are well again when it is.

    While Redis is away nobody is ready, and nobody is begun anew for it. Who has ended is not
    well, at once.
    """
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])

    def well(**others: str) -> dict[str, bool]:
        environment = place.environment | {"PATH": path} | others
        asked = {
            command: subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
            for command in set(checks().values())
        }
        status = {command: process.wait(timeout=60) for command, process in asked.items()}
        return {name: status[command] == 0 for name, command in checks().items()}

    # A short interval, so that silence is noticed after five seconds and not after ten.
    worker = place.start_worker("-Q", "postgresql", DHARMA_RESCUE_SECONDS="0.2")
    every, nobody = dict.fromkeys(checks(), True), dict.fromkeys(checks(), False)
    assert well() == every
    assert well(DHARMA_REDIS_URL=NOWHERE) == nobody | {"liveness": True}
    worker.send_signal(signal.SIGSTOP)
    wait_for(lambda: well() == nobody, "its silence to be noticed")
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: well() == every, "its being well")
    worker.terminate()
    assert worker.wait(timeout=30) == 0
    assert well() == nobody
