"""The classic commands, for those whose fingers know them; `dharma` does the work.

    python scripts/migrate.py migrate [--version 1.2.0] [--databases mongodb postgresql]
    python scripts/migrate.py status
    python scripts/migrate.py rollback 1.1.0 [--databases mongodb postgresql]

More options of `dharma submit`, `dharma status` and `dharma rollback` may follow as they are there.
"""

from __future__ import annotations

import argparse
import sys

from dharma_tasks.cli import main


def translate(arguments: list[str]) -> list[str]:
    """Return the arguments of `dharma` that mean the same."""
    parser = argparse.ArgumentParser(prog="migrate.py", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    migrate = commands.add_parser("migrate", help="apply what is pending", allow_abbrev=False)
    migrate.add_argument("--version", default="latest", help="up to here; default: everything")
    commands.add_parser("status", help="show what is applied", allow_abbrev=False)
    rollback = commands.add_parser(
        "rollback", help="undo what is above a version", allow_abbrev=False
    )
    rollback.add_argument("version", help="the version that stays")
    for command in (migrate, rollback):
        command.add_argument("--databases", nargs="+", default=[], metavar="NAME")
    known, others = parser.parse_known_args(arguments)
    if known.command == "status":
        return ["status", *others]
    chosen = ["--databases", ",".join(known.databases)] if known.databases else []
    if known.command == "rollback":
        return ["rollback", known.version, *chosen, *others]
    return ["submit", "--target", known.version, *chosen, *others]


if __name__ == "__main__":
    main(translate(sys.argv[1:]), prog_name="dharma")
