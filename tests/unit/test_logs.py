"""What is logged of an error never shows the values of local variables."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import structlog

from dharma_tasks.logs import stack_of

SECRET = "c4nary-pa55"


def test_a_stack_has_no_local_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """Also where a program has not set structlog up, whose own way would show them."""
    structlog.reset_defaults()

    def connect(url: str) -> None:
        raise OSError("nobody there")

    try:
        connect(f"redis://:{SECRET}@host")
    except OSError as error:
        structlog.get_logger().error("failed", **stack_of(error))
    said = "".join(capsys.readouterr())
    assert "nobody there" in said
    assert "in connect" in said
    assert SECRET not in said


PROGRAM = """
import logging, sys
from dharma_tasks import logs
from dharma_tasks.settings import Settings
logs.configure_on_use(Settings(_env_file=None, log_level="WARNING", log_format="json"))
assert "structlog" not in sys.modules
{first}
assert "structlog" in sys.modules
logs.get_logger().warning("second", run="r2")
"""


@pytest.mark.parametrize(
    "first", ['logging.getLogger("driver").warning("first")', 'logs.get_logger().warning("first")']
)
def test_the_first_event_sets_everything_up(first: str) -> None:
    """Whoever logs first, and nothing before: then structlog is not even imported."""
    command = [sys.executable, "-c", PROGRAM.format(first=first)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == ""
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(each["event"], each["level"]) for each in events] == [
        ("first", "warning"),
        ("second", "warning"),
    ]
    assert events[1]["run"] == "r2"
