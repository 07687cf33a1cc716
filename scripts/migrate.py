"""The classic commands, for those whose fingers know them; `dharma` does the work.

    python scripts/migrate.py migrate [--version 1.2.0] [--databases mongodb postgresql]
    python scripts/migrate.py status

More options of `dharma submit` and `dharma status` may follow as they are there.
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
    migrate.add_argument("--databases", nargs="+", default=[], metavar="NAME")
    commands.add_parser("status", help="show what is applied", allow_abbrev=False)
    known, others = parser.parse_known_args(arguments)
    if known.command == "status":
        return ["status", *others]
    chosen = ["--databases", ",".join(known.databases)] if known.databases else []
    return ["submit", "--target", known.version, *chosen, *others]


if __name__ == "__main__":
    main(translate(sys.argv[1:]), prog_name="dharma")
