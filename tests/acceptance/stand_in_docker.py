"""`docker run` as the hooks use it, without Docker: the same command, with what it names only.

Of the caller's environment it gets what `--env` names, and paths below a `--volume` are those of
this machine. What makes this test's Redis its own (PATH, the namespace) is let through.
"""

from __future__ import annotations

import argparse
import os

parser = argparse.ArgumentParser(prog="docker", allow_abbrev=False)
commands = parser.add_subparsers(required=True)
run = commands.add_parser("run", allow_abbrev=False)
run.add_argument("--rm", action="store_true", required=True)
run.add_argument("--init", action="store_true", required=True)
run.add_argument("--env", action="append", default=[])
run.add_argument("--volume", action="append", default=[])
run.add_argument("--entrypoint", required=True)
run.add_argument("image")
run.add_argument("command", nargs=argparse.REMAINDER)
given = parser.parse_args()

folders = {inside: here for here, inside, _ in (volume.split(":") for volume in given.volume)}
environment = {name: os.environ[name] for name in ("PATH", "DHARMA_NAMESPACE")}
for variable in given.env:
    name, equals, value = variable.partition("=")
    environment[name] = folders.get(value, value) if equals else os.environ[name]
os.execvpe(given.entrypoint, [given.entrypoint, *given.command], environment)  # noqa: S606 - as asked
