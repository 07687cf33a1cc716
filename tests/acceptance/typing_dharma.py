"""What `dharma ARGUMENTS` does, call after call in one process: Python starts once for all of them.

Reads a line of JSON a call, [arguments, what is typed], and answers with one: [status, out, err].
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

from dharma_tasks.cli import main


def call(arguments: list[str], typed: str) -> tuple[int, str, str]:
    """Do it, and return its exit status and what it has said."""
    out, err = io.StringIO(), io.StringIO()
    sys.stdin = io.StringIO(typed)
    status: int | str | None = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(arguments, prog_name="dharma")
        except SystemExit as end:
            status = end.code
    return int(status or 0), out.getvalue(), err.getvalue()


if __name__ == "__main__":
    for line in sys.stdin:
        sys.__stdout__.write(json.dumps(call(*json.loads(line))) + "\n")
        sys.__stdout__.flush()
