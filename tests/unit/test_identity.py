"""Law 6: a dead neighbour is seen at once; of others nothing is assumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from dharma_tasks.identity import is_dead, owner, started


def test_this_process_lives() -> None:
    """What describes this process is not dead."""
    me = owner("w", {"session": 1})
    assert me.pid == os.getpid()
    assert me.resources == {"session": 1}
    assert not is_dead(me)


def test_killed_process_is_dead_before_its_parent_has_noticed() -> None:
    """A zombie works no more."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    me = owner("w", {})
    other = me.model_copy(update={"pid": child.pid, "started": started(child.pid)})
    assert not is_dead(other)
    child.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(other)
    child.communicate()
    assert is_dead(other)


def test_a_pid_that_was_given_again_is_another_process() -> None:
    """The start tells two processes of the same number apart."""
    me = owner("w", {})
    assert is_dead(me.model_copy(update={"started": me.started - 1}))


def test_other_nodes_and_containers_may_live() -> None:
    """Nothing can be seen of another host, pid namespace or boot: it may be a name's twin."""
    me = owner("w", {}).model_copy(update={"pid": 1, "started": 0.5})
    kernel, _, namespace = me.boot.partition("/")
    assert not is_dead(me.model_copy(update={"node": "elsewhere"}))
    assert not is_dead(me.model_copy(update={"boot": f"{kernel}/another"}))
    assert not is_dead(me.model_copy(update={"boot": f"another/{namespace}"}))
