"""What is logged of an error never shows the values of local variables."""

from __future__ import annotations

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
